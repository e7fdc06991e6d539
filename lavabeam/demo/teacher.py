"""The scripted teacher: a small OpenAI-compatible server on 127.0.0.1 that answers by rule. It is not an LLM.

It replaces an LLM where there is none. The requests are real HTTP, so a real server only needs another `base_url` and
`model`. Ids and usage are functions of the request, so two runs get the same bytes. Every request is logged, for tests
that count what was sent.

    with Teacher() as teacher:
        ... base_url=teacher.base_url ...

or in a separate process: `python -m lavabeam.demo.teacher --port 8123 --log requests.jsonl`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import re
import threading
from pathlib import Path
from typing import Any

from aiohttp import web

from lavabeam.demo.teacher_rules import compose

MODEL = "scripted-teacher"
_TOKEN = re.compile(r"\w+|[^\w\s]")
_LARGEST_REQUEST = 64 * 1024 * 1024


class Teacher:
    """The server, in its own thread between `start` and `stop` (or as a context manager).

    It waits `latency_s` before each answer, and rejects `busy_share` of the requests, drawn at random with a fixed
    seed, with a 429 and `Retry-After`: to rehearse with a slow or busy endpoint. `requests` has one entry per answered
    request: id, model, tokens and status.
    """

    def __init__(self, port: int = 0, latency_s: float = 0.0, busy_share: float = 0.0, log: str | Path | None = None):
        self.port, self._latency_s, self._busy_share = port, latency_s, busy_share
        self._random = random.Random(0)
        self._log = Path(log) if log else None
        self.requests: list[dict[str, Any]] = []
        self.busy = 0
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> Teacher:
        threading.Thread(target=self._loop.run_forever, name="teacher", daemon=True).start()
        asyncio.run_coroutine_threadsafe(self.listen(), self._loop).result()
        return self

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def __enter__(self) -> Teacher:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/chat/completions", self._chat), web.get("/v1/models", self._models)]

    async def listen(self) -> None:
        """Accept connections on the running loop; `base_url` is known afterwards."""
        app = web.Application(client_max_size=_LARGEST_REQUEST)
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        try:
            body = json.loads(await request.read())
            answer = complete(body)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            return refusal(400, "invalid_request_error", f"no chat request: {type(error).__name__}: {error}")
        return await self.respond(request, body, answer)

    async def respond(self, request: web.Request, body: dict[str, Any], answer: dict[str, Any]) -> web.StreamResponse:
        """The response to a valid request; `answer` is its completion."""
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        if self._busy_share and self._random.random() < self._busy_share:
            self.busy += 1
            return refusal(429, "rate_limit_exceeded", "too many requests", {"retry-after-ms": "200"})
        self.record(answer)
        return web.Response(text=json.dumps(answer), content_type="application/json")

    def record(self, answer: dict[str, Any]) -> None:
        entry = {"id": answer["id"], "model": answer["model"], **answer["usage"]}
        self.requests.append(entry)
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "lavabeam"}
        return web.json_response({"object": "list", "data": [model]})


def complete(body: dict[str, Any]) -> dict[str, Any]:
    """The chat completion for a body: a pure function of it (OpenAI API reference, "The chat completion object")."""
    messages = body["messages"]
    text = compose(_text(messages[-1]["content"]))
    asked = sum(len(_TOKEN.findall(_text(message["content"]))) for message in messages)
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    text, answered, whole = _limited(text, limit)
    identity = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:24]
    return {
        "id": f"teacher-{identity}",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop" if whole else "length",
            }
        ],
        "usage": {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered},
    }


def refusal(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error in OpenAI's form."""
    body = {"error": {"message": message, "type": code, "code": code}}
    return web.json_response(body, status=status, headers=headers)


def _text(content: str | list[dict[str, Any]]) -> str:
    """The text of a message; pictures are ignored."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _limited(text: str, limit: int | None) -> tuple[str, int, bool]:
    """`text` cut after `limit` tokens (words and punctuation), their number, and whether the text is complete."""
    tokens = list(_TOKEN.finditer(text))
    if limit is None or len(tokens) <= limit:
        return text, len(tokens), True
    return text[: tokens[limit - 1].end()], limit, False


def main() -> None:
    """Serve until interrupted; the first line on stdout is the base URL."""
    parser = argparse.ArgumentParser(description="The scripted teacher: OpenAI-compatible, answers by rule.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--busy", type=float, default=0.0, help="share of requests answered with 429")
    parser.add_argument("--log", help="append one JSON line per answered request to this file")
    asked = parser.parse_args()
    asyncio.run(_serve(Teacher(asked.port, asked.latency, asked.busy, asked.log)))


async def _serve(teacher: Teacher) -> None:
    await teacher.listen()
    print(teacher.base_url, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
