"""A chat request from its body to the last byte of the response, streamed or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from lavabeam.serving.answers import Completion, event
from lavabeam.serving.errors import RequestError
from lavabeam.serving.metrics import Metrics
from lavabeam.serving.pictures import Pictures
from lavabeam.serving.registry import Registry
from lavabeam.serving.requests import ChatRequest, parse_request
from lavabeam.serving.settings import ServeSettings
from lavabeam.serving.worker import Piece, Question
from schemas.errors import LavaBeamError

T = TypeVar("T")
_LARGE = 1 << 20
"""Bytes of a body that is parsed on a thread: on the event loop it would hold up all others."""


class ClientGone(Exception):
    """The client closed its connection."""


class Chat:
    """POST /v1/chat/completions."""

    def __init__(self, settings: ServeSettings, registry: Registry):
        self._settings, self._registry = settings, registry
        self._pictures = Pictures(settings)
        self.metrics = Metrics(registry)

    async def complete(self, request: Request) -> Response:
        began, name, status = time.perf_counter(), "unknown", 500
        last: Piece | None = None
        streaming = False
        try:
            asked = await self._parsed(request)
            name = self._registry.get(asked.model).spec.name
            async with asyncio.timeout(self._settings.answer_seconds):
                pieces = self._ask(asked)
                if asked.stream:
                    first = await _unless_gone(request, anext(pieces))
                    streaming, status = True, 200
                    return _Stream(self, request, asked, first, pieces, began)
                text, end = await _unless_gone(request, _whole(pieces))
            status, last = 200, end
            return JSONResponse(Completion(name).whole(text, end))
        except LavaBeamError as error:
            status = error.status if isinstance(error, RequestError) else 400
            raise
        except ClientGone:
            status = 499
            raise
        except TimeoutError:
            status = 504
            raise _too_late(self._settings) from None
        except StopAsyncIteration:
            status = 502
            raise _unfinished() from None
        finally:
            if not streaming:
                self.metrics.ended(name, status, time.perf_counter() - began, last)

    async def _parsed(self, request: Request) -> ChatRequest:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RequestError(
                415, f"content-type: found {kind[:60]!r}; expected application/json.", code="invalid_header"
            )
        body = await request.body()
        return parse_request(body) if len(body) < _LARGE else await asyncio.to_thread(parse_request, body)

    async def _ask(self, asked: ChatRequest) -> AsyncGenerator[Piece, None]:
        model = self._registry.get(asked.model)
        images = await self._pictures.collect(asked.images)
        question = Question(
            asked.messages,
            images,
            asked.max_tokens,
            asked.temperature,
            asked.top_p,
            asked.seed,
            asked.stop,
            asked.stream,
        )
        async with aclosing(model.ask(question)) as pieces:
            async for piece in pieces:
                yield piece


class _Stream(Response):
    """Pieces as server-sent events. What fails after the first piece is an event as well: the status is sent."""

    def __init__(
        self,
        chat: Chat,
        request: Request,
        asked: ChatRequest,
        first: Piece,
        rest: AsyncGenerator[Piece, None],
        began: float,
    ):
        self._chat, self._request, self._asked, self._first, self._rest = chat, request, asked, first, rest
        self._began = began
        self.status_code, self.background = 200, None
        self.raw_headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        status, last = 499, None
        try:
            async with aclosing(self._rest):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                last = await _unless_gone(self._request, self._write(send))
                status = 200 if last else 500
        except (ClientGone, OSError):
            pass
        finally:
            self._chat.metrics.ended(self._asked.model, status, time.perf_counter() - self._began, last)

    async def _write(self, send: Any) -> Piece | None:
        """The last piece; None when the answer failed."""
        made = Completion(self._asked.model)
        self._chat.metrics.began(self._asked.model, time.perf_counter() - self._began)

        async def write(content: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": content, "more_body": more})

        piece, content = self._first, made.first()
        try:
            left = self._chat._settings.answer_seconds - (time.perf_counter() - self._began)
            async with asyncio.timeout(left):
                while True:
                    content += made.piece(piece.text) if piece.text else b""
                    if piece.finish is not None:
                        await write(content + made.last(piece, self._asked.usage), False)
                        return piece
                    await write(content)
                    piece, content = await anext(self._rest), b""
        except TimeoutError:
            error: LavaBeamError = _too_late(self._chat._settings)
        except StopAsyncIteration:
            error = _unfinished()
        except LavaBeamError as found:
            error = found
        await write(event(request_error(error).body), False)
        return None


async def _whole(pieces: AsyncGenerator[Piece, None]) -> tuple[str, Piece]:
    texts, last = [], Piece("")
    async with aclosing(pieces):
        async for last in pieces:
            texts.append(last.text)
    if last.finish is None:
        raise _unfinished()
    return "".join(texts), last


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`; raises ClientGone, and cancels it, when the client goes away before."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        gone.cancel()
        if not working.done():
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _too_late(settings: ServeSettings) -> RequestError:
    return RequestError(504, f"not answered within {settings.answer_seconds:g} s.", code="timeout")


def _unfinished() -> RequestError:
    return RequestError(502, "the worker ended its answer without a reason.", code="bad_answer")


def request_error(error: Exception) -> RequestError:
    """The response for an internal error."""
    if isinstance(error, RequestError):
        return error
    return RequestError(400, str(error), code="invalid_input")
