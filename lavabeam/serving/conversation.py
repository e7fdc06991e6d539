"""A conversation with a served model, with the interface of `trainer.inference.chat.Conversation`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

from lavabeam.serving.client import Answer, GatewayClient, picture_url, user_message
from schemas.errors import InputError

T = TypeVar("T")


class ServedConversation:
    """One conversation with `model` at `address`. Errors are InputErrors and leave the conversation as it was."""

    def __init__(self, address: str, model: str | None = None):
        """`model` may be left out where there is one. Raises InputError for another, with the names that there are."""
        self._client = GatewayClient(address)
        self._runner = asyncio.Runner()
        self._model = self._chosen(model)
        self.forget()

    def forget(self) -> None:
        """Start over: no pictures, no turns."""
        self._messages: list[dict[str, Any]] = []
        self._shown: list[str] = []

    def show(self, image: str | Path | bytes, name: str | None = None) -> None:
        """Add `image` (a file, or bytes, which errors call `name`) to the next question.

        Raises InputError for a missing file, or bytes that are not a decodable image.
        """
        from schemas.pictures import PictureError, check

        name = name or (f"{len(image)} bytes" if isinstance(image, bytes) else str(image))
        if not isinstance(image, bytes) and not Path(image).is_file():
            raise InputError(f"{name}: no such image file. Give the path or the URL of an image.")
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
        try:
            check(content)
        except PictureError as error:
            raise InputError(f"{name}: {error}") from error
        self._shown.append(picture_url(content))

    def ask(self, question: str, max_tokens: int) -> str:
        """The greedy answer. Raises InputError with the server's words."""
        asked = [*self._messages, user_message(question, self._shown)]
        text = self._run(self._answer(asked, {"temperature": 0, "max_tokens": max_tokens}))
        self._messages, self._shown = [*asked, {"role": "assistant", "content": text}], []
        return text

    async def _answer(self, messages: list[dict[str, Any]], settings: dict[str, Any]) -> str:
        answer = Answer()
        async with aclosing(self._client.stream(self._model, messages, settings, answer)) as pieces:
            async for _ in pieces:
                pass
        return answer.text

    def _chosen(self, model: str | None) -> str:
        names = [one.name for one in self._run(self._client.models())]
        known = ", ".join(names) or "none"
        if model is None and len(names) != 1:
            raise InputError(f"{self._client.address} serves {len(names)} models: {known}. Name one with --model.")
        if model is not None and model not in names:
            raise InputError(f"{self._client.address} has no model {model!r}. Models: {known}.")
        return model or names[0]

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """One loop for all questions, since the client's connections belong to it."""
        return self._runner.run(work)
