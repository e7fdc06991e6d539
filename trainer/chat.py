"""Talking to a checkpoint about a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from trainer.answer import Answerer, Prompt

ANSWER_TOKENS = 512


def chat(
    checkpoint: str | Path,
    image: str | Path | bytes | None,
    question: str,
    *,
    template: str | None = None,
    max_tokens: int = ANSWER_TOKENS,
) -> str:
    """The answer to one question about `image` (a file or its bytes; None for text only)."""
    return next(talk(checkpoint, image, [question], template=template, max_tokens=max_tokens))


def talk(
    checkpoint: str | Path,
    image: str | Path | bytes | None,
    questions: Iterable[str],
    *,
    template: str | None = None,
    max_tokens: int = ANSWER_TOKENS,
) -> Iterator[str]:
    """Answer after answer in one conversation; `questions` may be an endless iterator over what a user types.

    Raises InputError for a missing picture, one that cannot be decoded, or a folder that is no LLaVA checkpoint.
    """
    images = () if image is None else (_bytes(image),)
    answerer = Answerer(checkpoint, template)
    messages: list[dict[str, Any]] = []
    for text in questions:
        parts: list[dict[str, Any]] = [{"type": "image", "text": None} for _ in images] if not messages else []
        messages.append({"role": "user", "content": [*parts, {"type": "text", "text": text}]})
        answer = answerer.answer([Prompt(messages, images)], max_tokens)[0]
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        yield answer


def _bytes(image: str | Path | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    if not Path(image).is_file():
        raise InputError(f"{image}: no such picture. Give the path of an image file.")
    return Path(image).read_bytes()
