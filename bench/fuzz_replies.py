"""Mutated HTTP replies against the client: every request ends in a status, and memory stays bounded.

`python -m bench.fuzz_replies [--seconds 20] [--seed 1]`. A server of plain sockets answers each request with a good
reply, an error or a compressed one, into which one to four faults were put: flipped, cut, doubled and moved bytes,
other headers, other JSON values, bombs. Faults depend on the seed and the request's number alone, so what goes wrong
can be repeated. A process of its own asks; its peak memory is the figure.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT = 2**20
AT_ONCE = 16
MOST_MB = 160
"""Base of a process that asks is about 110 MB; replies of AT_ONCE requests, in pieces and as text, come on top."""
MOST_S = 12.0
TIMEOUT_S = 5.0
KEY = "sk-fuzz-0123456789abcdef"

GOOD: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "A red thing."}}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}
ERROR = {"error": {"message": f"Incorrect API key provided: {KEY}", "type": "invalid", "code": "bad", "param": None}}
STATUSES = ["200 OK"] * 40 + [
    "400 X",
    "401 X",
    "429 X",
    "500 X",
    "503 X",
    "204 X",
    "302 X",
    "307 X",
    "418 X",
    "99 X",
    "999 X",
]
CHARSETS = [
    "utf-8",
    "utf-16",
    "latin-1",
    "idna",
    "punycode",
    "undefined",
    "utf-7",
    "rot13",
    "klingon",
    "\x00",
    "x" * 300,
]
ENCODINGS = ["gzip", "deflate", "br", "zstd", "gzip, gzip", "identity", "compress", "x-gzip"]
HEADERS = ["Content-Length: 2", "Content-Length: -1", "Content-Length: abc", "Transfer-Encoding: chunked", "X: a\0b"]
HEADERS += ["Retry-After: nan", "Retry-After: 1e999", "Retry-After: Mon, 99 Foo 0000", "Location: http://[bad", "X"]
HEADERS += ["Location: file:///etc/passwd", "X: " + "a" * 9_000, "Set-Cookie: a=b", "Connection: upgrade", ": a"]
VALUES: list[Any] = [None, True, 0, -1, 10**18, 1e308, float("nan"), float("inf"), "", "x" * 3_000, [], {}, [[]], [{}]]
VALUES += ["\ud800", "\x1b[31m\0", KEY, {"text": 1}, [{"text": KEY[:7]}, {"text": KEY[7:]}], {"code": "9" * 5_000}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.port:
        return print(json.dumps(asyncio.run(ask_all(arguments.port, arguments.seconds))))
    found = asyncio.run(serve(arguments.seed, arguments.seconds))
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(found["statuses"].items()))
    print(f"seed {arguments.seed}: {found['requests']} requests: {statuses}")
    print(f"raised: {found['raised']}, kept a key: {found['leaks']}, longest {found['longest_s']} s, {found['mb']} MB")
    ok = not found["raised"] and not found["leaks"] and found["mb"] <= MOST_MB and found["longest_s"] <= MOST_S
    figure = {"figure": "mutated replies: requests without a status", "value": sum(found["raised"].values())}
    figure |= {"peer": None, "ratio": None, "requests": found["requests"], "mb": found["mb"], "goal": 0, "ok": ok}
    return print(json.dumps([figure]))


async def serve(seed: int, seconds: float) -> dict[str, Any]:
    """What the asking process found out."""
    numbers = iter(range(10**9))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
            await reader.readexactly(int(length.split(b":")[1]))
            writer.write(mutated(random.Random(f"{seed}/{next(numbers)}")))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has seen enough
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    command = [sys.executable, "-m", "bench.fuzz_replies", "--port", str(port), "--seconds", str(seconds)]
    asking = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    out, _ = await asking.communicate()
    server.close()
    if asking.returncode:
        raise SystemExit(f"the asking process ended with {asking.returncode}")
    return json.loads(out.splitlines()[-1])


def mutated(chance: random.Random) -> bytes:
    """A reply with faults."""
    body = json.dumps(ERROR if chance.random() < 0.2 else _other_values(chance)).encode()
    head = [f"HTTP/1.1 {chance.choice(STATUSES)}"]
    if chance.random() < 0.15:
        head.append(f"Content-Type: application/json; charset={chance.choice(CHARSETS)}")
    if chance.random() < 0.25:
        body, encoding = _packed(body, chance)
        head.append(f"Content-Encoding: {encoding}")
    head.extend(chance.choice(HEADERS) for _ in range(chance.choice((0,) * 12 + (1, 2, 140))))
    if chance.random() < 0.9:
        head.append(f"Content-Length: {len(body)}")
    reply = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1", "replace") + body
    faults = (_flipped, _cut, _doubled, _deep, _long, lambda data, _: data)
    for _ in range(chance.choice((0, 0, 1, 2))):
        reply = chance.choice(faults)(reply, chance)
    return reply


def _other_values(chance: random.Random) -> Any:
    """A good answer with other values in up to two places."""
    answer = json.loads(json.dumps(GOOD))
    for _ in range(chance.randint(0, 2)):
        inner: Any = answer
        while True:
            places = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            place = chance.choice(places) if places else None
            if place is None:
                break
            if not isinstance(inner[place], dict | list) or chance.random() < 0.3:
                inner[place] = chance.choice(VALUES)
                break
            inner = inner[place]
    return answer


def _packed(body: bytes, chance: random.Random) -> tuple[bytes, str]:
    bomb = b"[" * (20 * LIMIT) if chance.random() < 0.1 else body
    pack: Callable[[bytes], bytes]
    pack, name = chance.choice(((gzip.compress, "gzip"), (zlib.compress, "deflate"), (bytes, "identity")))
    return pack(bomb), name if chance.random() < 0.7 else chance.choice(ENCODINGS)


def _flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        if changed:
            changed[chance.randrange(min(len(changed), 2_000))] = chance.randrange(256)
    return bytes(changed)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _doubled(data: bytes, chance: random.Random) -> bytes:
    at, length = chance.randrange(len(data) + 1), chance.randint(1, 200)
    return data[: at + length] + data[at:]


def _deep(data: bytes, chance: random.Random) -> bytes:
    depth = chance.choice((50, 900, 1_000, 100_000))
    return data.replace(b'"stop"', b"[" * depth + b"]" * depth, 1)


def _long(data: bytes, chance: random.Random) -> bytes:
    return data + b"a" * chance.choice((10, LIMIT // 2, 3 * LIMIT))


async def ask_all(port: int, seconds: float) -> dict[str, Any]:
    """Ask for so many seconds; statuses, what was raised, seconds of the longest request, peak MB of this process."""
    import os

    os.environ["OPENAI_API_KEY"] = KEY
    from pipelines.engine.retry import RetryPolicy
    from pipelines.llm.client import LlmClient
    from pipelines.llm.settings import EndpointConfig

    statuses: Counter[str] = Counter()
    raised: Counter[str] = Counter()
    longest = leaks = 0.0
    ending = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        config = EndpointConfig(
            model="m",
            provider="p",
            base_url=f"http://127.0.0.1:{port}/v1",
            cache=folder,
            timeout_s=TIMEOUT_S,
            concurrency=AT_ONCE,
            max_reply_bytes=LIMIT,
            patience=RetryPolicy(attempts=1),
        )
        number = 0
        while time.monotonic() < ending:
            # A wrong key and many failures in a row stop a client: so one asks a few and the next goes on.
            client = LlmClient(config, "fuzz")
            group = range(number, number := number + AT_ONCE)
            begun = time.monotonic()
            answers = await asyncio.gather(*(client.ask(_request(one)) for one in group), return_exceptions=True)
            longest = max(longest, time.monotonic() - begun)
            await client.close()
            for answer in answers:
                if isinstance(answer, BaseException):
                    raised[f"{type(answer).__name__}: {answer}"[:200]] += 1
                else:
                    statuses[str(answer.status)] += 1
                    leaks += KEY in str(answer)
        leaks += sum(KEY.encode() in file.read_bytes() for file in Path(folder).iterdir())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {
        "requests": number,
        "statuses": statuses,
        "raised": raised,
        "leaks": int(leaks),
        "longest_s": round(longest, 1),
        "mb": peak,
    }


def _request(number: int) -> Any:
    from pipelines.llm.request import ChatRequest, Message

    return ChatRequest("p", "m", (Message("user", f"question {number}"),), 50)


if __name__ == "__main__":
    main()
