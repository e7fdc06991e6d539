"""A small website on 127.0.0.1 that behaves like the web: fast, slow, busy, broken and missing files.

It runs in a thread of the demo and ends with it, so a killed demo leaves no server behind. The port is kept in the
working folder: the URL list, and everything computed from it, stay valid for the next run.
"""

from __future__ import annotations

import asyncio
import mimetypes
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from aiohttp import web

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Page:
    """The response of one address: a file or bytes."""

    content: Path | bytes
    content_type: str | None = None
    """None: from the address's suffix."""
    seconds: float = 0.0
    """How long the response takes to arrive, in many small pieces."""
    refusals: int = 0
    """The number of requests that first get a 503 and `Retry-After: 1`."""


class Server:
    """Serves pages in its own thread, as a context manager."""

    def __init__(self, pages: Mapping[str, Page], port: int):
        self.pages, self.port = pages, port
        self.requests: Counter[str] = Counter()
        """Requests so far by path."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="demo website", daemon=True)
        self._runner: web.AppRunner | None = None

    @property
    def base_url(self) -> str:
        return base_url(self.port)

    def __enter__(self) -> Server:
        """Bind and serve; raises OSError when the port is taken."""
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    async def _start(self) -> None:
        application = web.Application()
        application.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self.port).start()

    def _stop(self) -> None:
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        page = self.pages.get(request.path)
        self.requests[request.path] += 1
        if page is None:
            return web.Response(status=404, text="There is nothing here.\n")
        if self.requests[request.path] <= page.refusals:
            return web.Response(status=503, headers={"Retry-After": "1"}, text="Too busy. Come again.\n")
        content = page.content.read_bytes() if isinstance(page.content, Path) else page.content
        kind = page.content_type or mimetypes.guess_type(request.path)[0] or "application/octet-stream"
        if page.seconds:
            return await _drip(request, content, kind, page.seconds)
        return web.Response(body=content, headers={"Content-Type": kind})


async def _drip(request: web.Request, content: bytes, kind: str, seconds: float) -> web.StreamResponse:
    """Send `content` in 20 pieces spread over `seconds`."""
    response = web.StreamResponse(headers={"Content-Type": kind, "Content-Length": str(len(content))})
    await response.prepare(request)
    size = -(-len(content) // 20)
    for start in range(0, len(content), size):
        await response.write(content[start : start + size])
        await asyncio.sleep(seconds / 20)
    await response.write_eof()
    return response


def base_url(port: int) -> str:
    return f"http://{HOST}:{port}"


def remembered_port(path: Path) -> tuple[int, bool]:
    """(the port in the file `path`, whether it is free now); without the file, a new free port is written to it."""
    if path.is_file() and (text := path.read_text().strip()).isdigit():
        return int(text), is_free(int(text))
    return new_port(path), True


def new_port(path: Path) -> int:
    """A port that is free now, written to `path` for later runs."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{port}\n")
    return port


def is_free(port: int) -> bool:
    """Whether a server can listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
