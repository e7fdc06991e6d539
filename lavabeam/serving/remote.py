"""A worker that is another OpenAI-compatible server: `NAME=http://host:port`.

Only checked pictures reach it, as data: it fetches nothing for our clients.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from lavabeam.serving.client import (
    READ_S,
    Answer,
    Cut,
    answer_pieces,
    error_words,
    listed_models,
    open_client,
    picture_url,
    server_address,
)
from lavabeam.serving.errors import RequestError
from lavabeam.serving.settings import ModelSpec
from lavabeam.serving.worker import Description, FinishReason, Piece, Question, WorkerLost
from schemas.config import nearest
from schemas.errors import InputError

OPTIONS = ("model", "key_env")
REFUSALS = {400: 400, 413: 413, 422: 400, 429: 429}
"""Status of a server that refuses a question -> ours."""
LOOK_S, MISSED = 5.0, 3
"""Seconds between two looks at a server, and looks in a row without an answer after which it is lost."""


def check(spec: ModelSpec) -> None:
    """Raises InputError for an address that is none, and for options that only our own worker supports."""
    check_options(spec, OPTIONS)
    server_address(spec.checkpoint.partition("#")[0])
    for name in ("load", "device", "template"):
        if getattr(spec, name) is not None:
            raise InputError(f"{spec.name}: --{name} does not apply to a server that is already running. Leave it out.")
    _key(spec)


def check_options(spec: ModelSpec, known: tuple[str, ...]) -> None:
    """Raises InputError for an option that the backend does not have."""
    for name in spec.options:
        if name not in known:
            raise InputError(
                f"{spec.name}: backend {spec.backend} has no option {name!r}. {nearest(name, list(known))}"
            )


class RemoteWorker:
    """A server that runs. Stopping it here ends the connection, not the server."""

    def __init__(self, spec: ModelSpec):
        address, _, self._wanted = spec.checkpoint.partition("#")
        self._spec, self.address = spec, server_address(address)
        self._key = _key(spec)
        self._wanted = spec.options.get("model") or self._wanted
        self._model = ""
        self._client: Any = None
        self._lost: asyncio.Future[str] | None = None
        self._running = 0

    async def start(self) -> Description:
        self._lost = asyncio.get_running_loop().create_future()
        self._client = open_client(self.address, self._key, READ_S)
        self._model = await self._find_model()
        return Description("remote", "unknown", details={"address": self.address, "model": self._model})

    def called(self, question: Question) -> str:
        """What the server calls the model of a question."""
        return self._model

    async def ask(self, question: Question) -> AsyncGenerator[Piece, None]:
        from httpx2 import HTTPError
        from openai import APIConnectionError, APIError, APIStatusError

        answer = Answer()
        self._running += 1
        try:
            body = await asyncio.to_thread(_body, question, self.called(question))
            async with aclosing(answer_pieces(self._client, body, answer)) as pieces:
                async for text in pieces:
                    yield Piece(text)
            yield _last(answer)
        except APIStatusError as error:
            words = error_words(error, self.address)
            if error.status_code >= 500:
                raise self._gone(words) from error
            status = REFUSALS.get(error.status_code, 502)  # any other is not the client's fault
            raise RequestError(status, words, code="refused_by_backend") from error
        except (APIConnectionError, HTTPError, Cut) as error:
            raise self._gone(error_words(error, self.address)) from error
        except APIError as error:  # in the middle of a stream
            raise RequestError(502, error_words(error, self.address), code="backend_failed") from error
        finally:
            self._running -= 1

    async def lost(self) -> str:
        """Looks at the list of models now and then; what fails while it is asked comes here too."""
        assert self._lost is not None
        missed = 0
        while missed < MISSED:
            done, _ = await asyncio.wait({self._lost}, timeout=LOOK_S)
            if done:
                return self._lost.result()
            missed = 0 if await self._is_there() else missed + 1
        return f"{self.address} no longer answers"

    async def stop(self, grace: float) -> None:
        end = asyncio.get_running_loop().time() + grace
        while self._running and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.05)
        if self._client is not None:
            await self._client.close()

    async def _is_there(self) -> bool:
        from openai import APIConnectionError, OpenAIError

        try:
            await self._client.with_options(timeout=LOOK_S).models.list()
        except APIConnectionError:
            return bool(self._running)  # it may be busy answering
        except OpenAIError:
            pass
        return True

    async def _find_model(self) -> str:
        """The one that was named, else ours, else the only one. Raises InputError naming those that there are."""
        names = [one.id for one in await listed_models(self._client, self.address)]
        wanted = self._wanted or self._spec.name.rpartition(".")[0]
        if wanted in names:
            return wanted
        if len(names) == 1 and not self._wanted:
            return names[0]
        known = ", ".join(names) or "none"
        raise InputError(f"{self.address} has no model {wanted!r}. Models: {known}. Write {self.address}#MODEL.")

    def _gone(self, reason: str) -> WorkerLost:
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(reason)
        return WorkerLost(reason)


def _body(question: Question, model: str) -> dict[str, Any]:
    """The request, in OpenAI's form."""
    images = iter(question.images)
    messages = []
    for message in question.messages:
        parts = [_part(part, images) for part in message["content"]]
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        messages.append({"role": message["role"], "content": parts if message["role"] == "user" else text})
    body: dict[str, Any] = {"model": model, "messages": messages, "temperature": question.temperature}
    optional = {"top_p": question.top_p, "max_tokens": question.max_tokens, "seed": question.seed}
    body |= {name: value for name, value in optional.items() if value is not None}
    return {**body, "stop": list(question.stop)} if question.stop else body


def _part(part: Mapping[str, Any], images: Any) -> dict[str, Any]:
    if part["type"] == "image":
        return {"type": "image_url", "image_url": {"url": picture_url(next(images))}}
    return {"type": "text", "text": part["text"]}


def _last(answer: Answer) -> Piece:
    if answer.finish_reason not in ("stop", "length"):
        raise RequestError(502, f"the backend ended its answer with {answer.finish_reason!r}.", code="bad_answer")
    finish: FinishReason = "length" if answer.finish_reason == "length" else "stop"
    return Piece("", finish, answer.input_tokens or 0, answer.output_tokens or 0)


def _key(spec: ModelSpec) -> str | None:
    name = spec.options.get("key_env")
    if name is None:
        return None
    if not os.environ.get(name):
        raise InputError(f"{spec.name}: the environment variable {name} holds no key. Set it, or leave key_env out.")
    return os.environ[name]
