"""Readiness probe: one real question about an image."""

from __future__ import annotations

import base64

from lavabeam.serving.errors import RequestError
from lavabeam.serving.settings import ModelSpec
from lavabeam.serving.worker import Question, Worker, WorkerLost, answer
from schemas.errors import InputError

PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAM0lEQVR42mNgGAWjYBQw4pI4oaFBkkEWN25gFWeitQ9GLRi1YNSC"
    "UQtGLRgFo2AUUAcAAGstAyDJgjc6AAAAAElFTkSuQmCC"
)
"""A PNG of 32 x 32 pixels: a red square on black."""


async def probe(worker: Worker, spec: ModelSpec) -> None:
    """Ask for one token about a picture. Raises InputError when there is no answer: a server may say that it is well
    and fail at its first question."""
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "What is this?"}]
    question = Question([{"role": "user", "content": parts}], (PICTURE,), max_tokens=1, model=spec.name)
    try:
        _, last = await answer(worker, question)
    except (RequestError, WorkerLost) as error:
        raise InputError(f"{spec.checkpoint}: started, but failed to answer a test question: {error}") from error
    if not last.answer_tokens:
        raise InputError(f"{spec.checkpoint}: started, but answered a test question with no token.")
