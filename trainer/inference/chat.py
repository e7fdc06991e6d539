"""A conversation with a checkpoint about pictures, which survives errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schemas.errors import InputError
from trainer.inference.answer import Answerer
from trainer.inference.prompts import AnswerStatus, Prompt

ANSWER_TOKENS = 512


class Conversation:
    """One conversation with the LLaVA in folder `checkpoint`.

    Every error is an InputError and leaves the conversation unchanged, ready for the next question.
    """

    def __init__(
        self, checkpoint: str | Path, template: str | None = None, device: str | None = None, load: str | None = None
    ):
        """Raises InputError when `checkpoint` is not a LLaVA folder, or names no template and none is given."""
        self._answerer = Answerer(checkpoint, template, device, load)
        self.forget()

    def forget(self) -> None:
        """Start over: no pictures, no turns."""
        self._messages: list[dict[str, Any]] = []
        self._images: list[bytes] = []
        self._shown: list[bytes] = []

    def show(self, image: str | Path | bytes, name: str | None = None) -> None:
        """Add `image` (a file, or bytes, which errors call `name`) to the next question.

        Raises InputError for a missing file, or bytes that are not a decodable image.
        """
        name = name or (f"{len(image)} bytes" if isinstance(image, bytes) else str(image))
        content = image if isinstance(image, bytes) else _read(Path(image))
        try:
            self._answerer.check_picture(content)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        self._shown.append(content)

    def ask(self, question: str, max_tokens: int = ANSWER_TOKENS) -> str:
        """The greedy answer. Raises InputError when the conversation no longer fits the model."""
        parts: list[dict[str, Any]] = [{"type": "image", "text": None} for _ in self._shown]
        asked = [*self._messages, {"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
        images = [*self._images, *self._shown]
        answer = self._answerer.answer([Prompt(asked, tuple(images))], max_tokens)[0]
        if answer.status != AnswerStatus.ok:
            raise InputError(answer.detail)
        self._messages = [*asked, {"role": "assistant", "content": [{"type": "text", "text": answer.text}]}]
        self._images, self._shown = images, []
        return answer.text


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: no such image file. Give the path or the URL of an image.")
    return path.read_bytes()
