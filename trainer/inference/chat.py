"""Talking to a checkpoint about pictures: a conversation that outlives what goes wrong in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schemas.errors import InputError
from trainer.inference.answer import Answerer, Prompt

ANSWER_TOKENS = 512


class Conversation:
    """One conversation with the LLaVA in folder `checkpoint`.

    Every error is an InputError that leaves the conversation as it was: what is said next goes on from there.
    """

    def __init__(self, checkpoint: str | Path, template: str | None = None):
        """Raises InputError when `checkpoint` is no LLaVA folder, or does not tell its template and none is given."""
        self._answerer = Answerer(checkpoint, template)
        self.forget()

    def forget(self) -> None:
        """Begin anew: no pictures, nothing said."""
        self._messages: list[dict[str, Any]] = []
        self._images: list[bytes] = []
        self._shown: list[bytes] = []

    def show(self, image: str | Path | bytes, name: str | None = None) -> None:
        """Let the next question be about `image` (a file, or its bytes, which errors call `name`) as well.

        Raises InputError for a file that is missing, or bytes that are no picture.
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
        self._messages = [*asked, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        self._images, self._shown = images, []
        return answer


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: no such picture. Give the path of an image file, or its http address.")
    return path.read_bytes()
