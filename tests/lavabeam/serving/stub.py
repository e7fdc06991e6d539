"""A small OpenAI-compatible server whose models a test adds, removes, and makes fail."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

Answering = Callable[[dict[str, Any]], list[str] | str]
"""Body -> the words of the answer, or an error's text."""


class Stub:
    """The server at `address`. `asked` has the bodies of all requests, in order; `left_early` those of requests whose
    client went away."""

    def __init__(self) -> None:
        self.models: dict[str, Answering] = {}
        self.asked: list[dict[str, Any]] = []
        self.left_early: list[dict[str, Any]] = []
        self.running = self.most_at_once = 0
        self.together = 0
        """Answers wait for so many requests to be there at once."""
        self.word_s = 0.0
        self.cut: set[str] = set()
        self.closed = ""
        """What the list of models is refused with."""
        self.address = self.key = ""

    async def load(self, request: web.Request) -> web.Response:
        """As vLLM's route for adapters."""
        body = await request.json()
        if not (Path(body["lora_path"]) / "adapter_model.safetensors").exists():
            return _error(404, f"Loading lora {body['lora_name']} failed: No adapter found")
        self.models[body["lora_name"]] = lambda asked: [asked["model"]]
        return web.Response(text=f"Success: LoRA adapter '{body['lora_name']}' added successfully.")

    async def unload(self, request: web.Request) -> web.Response:
        del self.models[(await request.json())["lora_name"]]
        return web.Response(text="Success")

    async def list(self, request: web.Request) -> web.Response:
        if self.closed:
            return _error(503, self.closed)
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return _error(401, "no key")
        listed = [{"id": name, "object": "model", "state": "ready"} for name in self.models]
        return web.json_response({"object": "list", "data": listed})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        if body["model"] not in self.models:
            return _error(404, f"there is no model {body['model']!r}. Served: {', '.join(self.models)}.")
        words = self.models[body["model"]](body)
        if isinstance(words, str):
            return _error(400, words)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            while self.together > self.most_at_once:
                await asyncio.sleep(0.01)
            return await self._stream(request, body, words)
        except (ConnectionResetError, asyncio.CancelledError):
            self.left_early.append(body)
            raise
        finally:
            self.running -= 1

    async def _stream(self, request: web.Request, body: dict[str, Any], words: list[str]) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        for word in words:
            await _send(reply, body, {"content": word}, None)
            await asyncio.sleep(self.word_s)
        if body["model"] in self.cut:
            return reply
        await _send(reply, body, {}, "stop", {"prompt_tokens": 7, "completion_tokens": len(words)})
        await reply.write(b"data: [DONE]\n\n")
        return reply


@contextmanager
def serving(stub: Stub, port: int = 0) -> Iterator[Stub]:
    """`stub` on a port of 127.0.0.1 (0: a free one), in its own thread."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    ending = asyncio.Event()

    async def run() -> None:
        app = web.Application(client_max_size=64 << 20)
        app.add_routes([web.get("/v1/models", stub.list), web.post("/v1/chat/completions", stub.answer)])
        app.add_routes([web.post("/v1/load_lora_adapter", stub.load), web.post("/v1/unload_lora_adapter", stub.unload)])
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        stub.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await ending.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield stub
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join(10)
        loop.close()


def _error(status: int, message: str) -> web.Response:
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return web.json_response(body, status=status)


async def _send(
    reply: web.StreamResponse, body: dict[str, Any], delta: dict[str, Any], finish: str | None, usage: Any = None
) -> None:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
    await reply.write(f"data: {json.dumps({**chunk, 'choices': [choice], 'usage': usage})}\n\n".encode())
