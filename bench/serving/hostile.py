"""A load test: 32 clients, a twentieth of their requests hostile; then a worker is killed.

Passes when every honest request is answered rightly, every hostile one ends as it should, memory stays flat, and after
the kill the running requests get 503 and the next ones are answered.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import random
import signal
import struct
import time
import zlib
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from bench.serving import clients, servers
from bench.serving.servers import Server

CLIENTS, SHARE = 32, 0.05
GROWTH = 1.1
"""Of memory, from the first third of the test to its last sample, at most."""


def load_test(checkpoint: Path, seconds: float) -> list[dict]:
    asked = clients.questions(60)
    with servers.ours(checkpoint) as server:
        wanted = asyncio.run(clients.texts(server, asked))
        test = _Test(server, asked, wanted, seconds)
        asyncio.run(test.run())
        killed = asyncio.run(_killed(server, asked))
    test.report()
    print(f"after kill -9 of the worker: {killed}")
    growth = test.memory[-1] / test.memory[len(test.memory) // 3]
    slips = sum(count for (kind, _), count in test.wrong.items())
    return [
        {"figure": "serve, load test: wrong endings", "value": slips, "goal": 0, "ok": not slips},
        {
            "figure": "serve, load test: memory, end/first third",
            "value": growth,
            "goal": GROWTH,
            "ok": growth <= GROWTH,
        },
        {"figure": "serve, kill -9: answered after it", "value": killed["then"], "goal": 1, "ok": killed["then"] == 1},
    ]


class _Test:
    def __init__(self, server: Server, asked: list[clients.Asked], wanted: list[str], seconds: float):
        self.server, self.seconds = server, seconds
        self.url = server.address + "/chat/completions"
        self.honest = [(one.body(server.model), text) for one, text in zip(asked, wanted, strict=True)]
        self.hostile = _hostile(asked[0], server.model)
        self.ended: Counter[tuple[str, str]] = Counter()
        self.wrong: Counter[tuple[str, str]] = Counter()
        self.memory: list[float] = []
        self.taken: list[float] = []
        self.draw = random.Random(1)

    async def run(self) -> None:
        last = time.monotonic() + self.seconds
        async with clients.session() as client:
            watching = asyncio.create_task(self._watch())
            await asyncio.gather(*(self._client(client, last) for _ in range(CLIENTS)))
            watching.cancel()
        self.memory.append(self.server.memory())

    def report(self) -> None:
        for (kind, ending), count in sorted(self.ended.items()):
            print(f"{kind:14} {ending:24} {count}{'   WRONG' if (kind, ending) in self.wrong else ''}")
        taken = sorted(self.taken)
        rate = len(taken) / self.seconds
        print(
            f"{rate:.1f} honest answers/s, p50 {taken[len(taken) // 2] * 1e3:.0f} ms, longest {taken[-1] * 1e3:.0f} ms"
        )
        print(f"memory MB, every 5 s: {[round(one) for one in self.memory]}")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(5)
            self.memory.append(await asyncio.to_thread(self.server.memory))

    async def _client(self, client: aiohttp.ClientSession, last: float) -> None:
        while time.monotonic() < last:
            if self.draw.random() < SHARE:
                await self._attack(client)
            else:
                await self._ask(client)

    async def _ask(self, client: aiohttp.ClientSession) -> None:
        body, wanted = self.draw.choice(self.honest)
        began = time.perf_counter()
        try:
            async with client.post(self.url, data=body) as got:
                reply = await got.json()
            ending = str(got.status)
            if got.status == 200:
                self.taken.append(time.perf_counter() - began)
                ending = "right" if reply["choices"][0]["message"]["content"] == wanted else "another text"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            ending = type(error).__name__
        self._count("honest", ending, ending == "right")

    async def _attack(self, client: aiohttp.ClientSession) -> None:
        kind = self.draw.choice([*self.hostile, "disconnect", "slow reader", "half a request"])
        try:
            if kind in self.hostile:
                body, allowed = self.hostile[kind]
                async with client.post(self.url, data=body) as got:
                    await got.read()
                self._count(kind, str(got.status), got.status in allowed)
                return
            await self._rude(kind)
            self._count(kind, "ended", True)
        except (aiohttp.ClientError, OSError) as error:  # a body that is too large may be cut off while it is sent
            self._count(kind, type(error).__name__, kind == "50 MB")

    async def _rude(self, kind: str) -> None:
        """Bytes by hand: gone in the middle of an answer, an answer that is read slowly, half a request."""
        parts = urlsplit(self.server.address)
        body = self.honest[0][0][:-1] + b', "stream": true, "max_tokens": 300}'
        body = body.replace(b', "max_tokens": 16', b"")
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}"
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1024)
        writer.write(head.encode() + b"\r\n\r\n" + (body[: len(body) // 2] if kind == "half a request" else body))
        await writer.drain()
        if kind == "slow reader":
            for _ in range(10):
                await reader.read(10)
                await asyncio.sleep(0.1)
        elif kind == "disconnect":
            await asyncio.sleep(self.draw.random() * 0.05)
        writer.transport.abort()

    def _count(self, kind: str, ending: str, right: bool) -> None:
        self.ended[kind, ending] += 1
        if not right:
            self.wrong[kind, ending] += 1


async def _killed(server: Server, asked: list[clients.Asked]) -> dict[str, float]:
    """Kill the worker while 32 ask: statuses of these, the share of the next 32 that is answered, and when."""
    (worker,) = server.processes()[1:]
    bodies = itertools.cycle([one.body(server.model) for one in asked])
    async with clients.session() as client:

        async def ask() -> int:
            async with client.post(server.address + "/chat/completions", data=next(bodies)) as got:
                await got.read()
                return got.status

        running = [asyncio.create_task(ask()) for _ in range(CLIENTS)]
        await asyncio.sleep(0.05)
        os.kill(worker.pid, signal.SIGKILL)
        began = time.perf_counter()
        statuses = Counter(await asyncio.gather(*running))
        then = await asyncio.gather(*(ask() for _ in range(CLIENTS)))
    found = {f"running, {status}": count for status, count in statuses.items()}
    return {**found, "then": then.count(200) / CLIENTS, "seconds": round(time.perf_counter() - began, 1)}


def _hostile(one: clients.Asked, model: str) -> dict[str, tuple[bytes, tuple[int, ...]]]:
    """Name -> body and the statuses that are right."""

    def picture(data: bytes) -> bytes:
        return clients.Asked(one.text, data).body(model)

    def address(url: str) -> bytes:
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]
        return json.dumps({"model": model, "messages": [{"role": "user", "content": parts}]}).encode()

    wrong = (400,)
    return {
        "bomb": (picture(png(30_000, 30_000)), wrong),
        "bomb in rows": (picture(png(5_700, 5_700)), wrong),
        "no picture": (picture(b"<html>"), wrong),
        "cut picture": (picture(one.picture[: len(one.picture) // 2]), wrong),
        "path": (address("/etc/passwd"), wrong),
        "inwards": (address("http://127.0.0.1:1/x.png"), wrong),
        "wrong base64": (address("data:image/png;base64,@@@@"), wrong),
        "no JSON": (b"{" * 1000, wrong),
        "deep JSON": (b"[" * 100_000, wrong),
        "too long": (clients.Asked("is it red? " * 5000, one.picture).body(model), wrong),
        "50 MB": (b'{"model": "' + b"x" * 50_000_000 + b'"}', (413,)),
        "unknown model": (one.body("nobody"), (404,)),
        "odd field": (one.body(model, temperature="hot"), wrong),
        "base64 of 20 MB": (
            address("data:image/png;base64," + base64.b64encode(b"\x89PNG" + bytes(20 << 20)).decode()),
            wrong,
        ),
    }


def png(width: int, height: int) -> bytes:
    """A PNG whose header promises width x height grey pixels, and whose data holds a thousandth of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(width * height // 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
