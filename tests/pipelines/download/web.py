"""A web server made of plain sockets, so that a test can misbehave in any way. One thread, one event loop."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Handler = Callable[["Request"], Awaitable[None]]


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    writer: asyncio.StreamWriter
    number: int
    """How often this path was asked for, this time included."""

    async def send(self, body: bytes = b"", status: str = "200 OK", **headers: str) -> None:
        lines = {"Content-Length": str(len(body)), "Connection": "close"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        await self.raw(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


@dataclass
class Web:
    """`with Web({"/a.jpg": handler}) as web:` serves until the block ends; `*` answers every other path."""

    handlers: dict[str, Handler]
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    hits: Counter = field(default_factory=Counter)
    requests: list[Request] = field(default_factory=list)
    most_at_a_time: int = 0
    port: int = 0
    _now: int = 0

    def __enter__(self) -> Web:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, self.host, 0, ssl=self.tls, limit=2**18))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, path: str, host: str = "localhost") -> str:
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{path}"

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _end(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._now += 1
        self.most_at_a_time = max(self.most_at_a_time, self._now)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            path = head[0].split(" ")[1]
            self.hits[path] += 1
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
            request = Request(path, headers, writer, self.hits[path])
            self.requests.append(request)
            handler = self.handlers.get(path.split("?")[0]) or self.handlers.get("*") or _missing
            await handler(request)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the client went away, which is what many tests are about; or the server ends
        finally:
            self._now -= 1
            writer.close()


async def _missing(request: Request) -> None:
    await request.send(b"nothing here", "404 Not Found")


def body(content: bytes, status: str = "200 OK", **headers: str) -> Handler:
    """A handler that always answers the same."""

    async def answer(request: Request) -> None:
        await request.send(content, status, **headers)

    return answer
