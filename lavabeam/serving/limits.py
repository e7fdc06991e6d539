"""Limits enforced before parsing: number, size and duration of requests. Plain ASGI middleware.

`Body` bounds what a request may bring. `Impatient` bounds what a connection may take its time for: uvicorn itself waits
for a client that sends no request, or that does not read its answer, for as long as it likes.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from lavabeam.serving.errors import RequestError
from lavabeam.serving.settings import ServeSettings

BODIES = 8
"""Bodies of the largest size that may be held at a time; smaller ones, as many more."""


class Body:
    """Reads bodies for the application: within `max_body` and `body_seconds`, `most_connections` at a time."""

    def __init__(self, app: Any, settings: ServeSettings):
        self._app, self._settings = app, settings
        self._open = self._held = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        self._open += 1
        size = 0
        try:
            if self._open > self._settings.most_connections:
                raise RequestError(503, f"{self._open - 1} requests are open.", code="too_many_requests", retry_after=1)
            size = self._announced(scope)
            self._held += size
            if self._held > BODIES * self._settings.max_body:
                raise RequestError(503, "too many large requests at a time.", code="too_many_requests", retry_after=1)
            body = await self._read(receive, size)
        except RequestError as error:
            return await _refuse(send, error)
        finally:
            self._held -= size
            self._open -= 1
        if body is None:
            return None
        self._open += 1
        self._held += len(body)
        try:
            return await self._app(scope, _replayed(body, receive), send)
        finally:
            self._held -= len(body)
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

    async def _read(self, receive: Any, size: int) -> bytes | None:
        """None when the client went away."""
        chunks, read = [], 0
        most = self._settings.max_body
        try:
            async with asyncio.timeout(self._settings.body_seconds if size else None):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    chunks.append(message.get("body", b""))
                    read += len(chunks[-1])
                    if read > most:
                        raise RequestError(413, f"the body has more than {most} bytes.", code="body_too_large")
                    if not message.get("more_body"):
                        return b"".join(chunks)
        except TimeoutError:
            seconds = self._settings.body_seconds
            raise RequestError(408, f"the body did not arrive within {seconds:g} s.", code="body_timeout") from None


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
    """uvicorn's protocol for a connection, which ends a client that sends no request within `body_seconds`, or takes
    nothing of an answer for `send_seconds`."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Impatient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timer = self.loop.call_later(settings.body_seconds, self._unless_asked)

        def connection_lost(self, error: Exception | None) -> None:
            self._stop()
            super().connection_lost(error)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stop()
            self._timer = self.loop.call_later(settings.send_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._stop()
            super().resume_writing()

        def _unless_asked(self) -> None:
            if self.cycle is None:
                self.transport.abort()

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Impatient
