"""Clients that ask about pictures: so many at a time, each its next question when it has an answer."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import time
from dataclasses import dataclass
from itertools import islice

import aiohttp

from bench.serving.servers import Server
from lavabeam.demo.inputs import evaluation_questions

TOKENS = 16
TIMEOUT = aiohttp.ClientTimeout(total=120)


@dataclass(frozen=True)
class Asked:
    """A question of Easy-VQA's test split with its picture."""

    text: str
    picture: bytes

    def body(self, model: str, **more: object) -> bytes:
        url = f"data:image/png;base64,{base64.b64encode(self.picture).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": self.text}]
        messages = [{"role": "user", "content": parts}]
        return json.dumps({"model": model, "messages": messages, "max_tokens": TOKENS, **more}).encode()


@dataclass(frozen=True)
class Measured:
    per_second: float
    p50: float
    p95: float
    failed: int


def questions(count: int) -> list[Asked]:
    return [Asked(one.question, one.images[0].read_bytes()) for one in islice(evaluation_questions(), count)]


def session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=TIMEOUT, connector=aiohttp.TCPConnector(limit=0), headers={"Content-Type": "application/json"}
    )


async def texts(server: Server, asked: list[Asked]) -> list[str]:
    """The answers, eight questions at a time."""
    limit = asyncio.Semaphore(8)
    async with session() as client:

        async def one(question: Asked) -> str:
            async with (
                limit,
                client.post(server.address + "/chat/completions", data=question.body(server.model)) as got,
            ):
                return (await got.json())["choices"][0]["message"]["content"]

        return list(await asyncio.gather(*map(one, asked)))


async def rate(server: Server, asked: list[Asked], clients: int, seconds: float) -> Measured:
    """Requests per second and latencies in ms of `clients` at a time, for `seconds`."""
    bodies = itertools.cycle([question.body(server.model) for question in asked])
    taken: list[float] = []
    failed = 0
    last = time.perf_counter() + seconds
    async with session() as client:

        async def run() -> None:
            nonlocal failed
            while time.perf_counter() < last:
                began = time.perf_counter()
                async with client.post(server.address + "/chat/completions", data=next(bodies)) as got:
                    await got.read()
                    failed += got.status != 200
                taken.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(run() for _ in range(clients)))
        spent = time.perf_counter() - began
    taken.sort()
    p50, p95 = (taken[int(len(taken) * share)] * 1000 for share in (0.5, 0.95))
    return Measured(len(taken) / spent, p50, p95, failed)


async def first_token(server: Server, asked: list[Asked]) -> float:
    """Median ms until the first words of a stream, one client."""
    taken = []
    async with session() as client:
        for question in asked:
            began = time.perf_counter()
            body = question.body(server.model, stream=True)
            async with client.post(server.address + "/chat/completions", data=body) as got:
                async for line in got.content:
                    if line.startswith(b"data: {") and _words(json.loads(line[6:])):
                        break
            taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2] * 1000


def _words(chunk: dict) -> str | None:
    return chunk["choices"][0]["delta"].get("content") if chunk.get("choices") else None
