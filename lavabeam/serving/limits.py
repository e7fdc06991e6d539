"""Limits enforced before parsing: number, size and duration of requests. Plain ASGI middleware.

`Body` bounds what a request may bring, after its key was looked at. `Impatient` bounds the head of a request (64 KiB,
by h11) and how long a connection may take: uvicorn itself waits for as long as a client likes that sends no request, or
does not read its answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from lavabeam.serving.errors import RequestError
from lavabeam.serving.settings import ServeSettings

BODIES = 8
"""Bodies of the largest size that may be held at a time; smaller ones, as many more."""

SMALL = 1 << 20
"""Bytes of a body up to which it is read however many large ones are held."""


class Body:
    """Reads bodies for the application: within `max_body` and `body_seconds`, `most_connections` at a time.

    `authorise` raises RequestError for a scope whose body is not to be read.
    """

    def __init__(self, app: Any, settings: ServeSettings, authorise: Callable[[Any], None]):
        self._app, self._settings, self._authorise = app, settings, authorise
        self._open = 0
        self._held = 0
        """Bytes of bodies that have come and whose requests are not over."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        self._open += 1
        body = _Taken()
        try:
            if self._open > self._settings.most_connections:
                raise RequestError(503, f"{self._open - 1} requests are open.", code="too_many_requests", retry_after=1)
            self._authorise(scope)
            if await self._read(receive, self._announced(scope), body):
                await self._app(scope, _replayed(body.whole(), receive), send)
        except RequestError as error:  # the application answers its own
            await _refuse(send, error)
        finally:
            self._held -= body.size
            self._open -= 1

    def _announced(self, scope: Any) -> int:
        """Bytes of the body: those that it has, or may have where the client does not say."""
        headers = dict(scope["headers"])
        most = self._settings.max_body
        if b"content-length" not in headers:
            return most if b"transfer-encoding" in headers else 0
        try:
            size = int(headers[b"content-length"])
        except ValueError:
            raise RequestError(400, "content-length: expected a number.", code="invalid_header") from None
        if not 0 <= size <= most:
            raise RequestError(413, f"the body has {size} bytes, at most {most} are allowed.", code="body_too_large")
        return size

    async def _read(self, receive: Any, size: int, body: _Taken) -> bool:
        """Fill `body`; False when the client went away. What has come is counted, not what is announced: a client that
        announces much and sends nothing takes no room."""
        most = self._settings.max_body
        try:
            async with asyncio.timeout(self._settings.body_seconds if size else None):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    self._held += body.add(message.get("body", b""))
                    if body.size > most:
                        raise RequestError(413, f"the body has more than {most} bytes.", code="body_too_large")
                    if body.size > SMALL and self._held > BODIES * most:
                        words = "too many large requests at a time."
                        raise RequestError(503, words, code="too_many_requests", retry_after=1)
                    if not message.get("more_body"):
                        return True
        except TimeoutError:
            seconds = self._settings.body_seconds
            raise RequestError(408, f"the body did not arrive within {seconds:g} s.", code="body_timeout") from None


class _Taken:
    """What has come of one body. `size` in bytes, also after its pieces were handed on."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> int:
        self._pieces.append(piece)
        self.size += len(piece)
        return len(piece)

    def whole(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _replayed(body: bytes, receive: Any) -> Any:
    """`receive` for the application: the body, then what the server says, which is that the client went away."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Any:
        return waiting.pop() if waiting else await receive()

    return replay


async def _refuse(send: Any, error: RequestError) -> None:
    body = json.dumps(error.body).encode()
    headers = {"content-type": "application/json", "connection": "close", "content-length": str(len(body))}
    headers |= error.headers
    plain = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": plain})
    await send({"type": "http.response.body", "body": body})


def impatient(settings: ServeSettings) -> type[asyncio.Protocol]:
    """uvicorn's protocol for a connection, which ends a client whose next request does not begin within
    `body_seconds`, or that takes nothing of an answer for `send_seconds`.

    By h11 and not httptools, which bounds neither the lines nor the number of a request's headers.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None
        _send_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            _stop(self._head_timer)
            _stop(self._send_timer)
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            self._await_head()
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            _stop(self._send_timer)
            self._send_timer = self.loop.call_later(settings.send_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            _stop(self._send_timer)
            super().resume_writing()

        def _await_head(self) -> None:
            _stop(self._head_timer)
            self._head_timer = self.loop.call_later(settings.body_seconds, self._end_unless_asked, self.cycle)

        def _end_unless_asked(self, last: Any) -> None:
            if self.cycle is last:
                self.transport.abort()

        def send_400_response(self, msg: str) -> None:
            words = f"{msg} Or its head has more than 64 KiB."
            body = json.dumps(RequestError(400, words, code="invalid_http").body).encode()
            head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            self.transport.write(f"{head}\r\nconnection: close\r\n\r\n".encode() + body)
            self.transport.close()

    return Impatient


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
