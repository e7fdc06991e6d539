"""A gateway on a free port with workers that are played, and the tiny model of the trainer's tests."""

import asyncio
import dataclasses
import socket
import struct
import zlib
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field

import aiohttp
import pytest
import uvicorn

from lavabeam.serving import backends
from lavabeam.serving.errors import RequestError
from lavabeam.serving.gateway import create_app
from lavabeam.serving.limits import impatient
from lavabeam.serving.registry import Registry
from lavabeam.serving.settings import ModelSpec, ServeSettings
from lavabeam.serving.worker import Description, Piece, WorkerLost
from schemas.errors import InputError
from tests.trainer.conftest import tiny  # noqa: F401

TOKEN = "admin-token"


class PlayedWorker:
    """Answers with its checkpoint's name and the last words of the question. These words steer it: `hold` waits for
    `Stage.release`, `die` ends it, `long` is a hundred pieces."""

    def __init__(self, spec, stage):
        self.spec, self.stage = spec, stage
        self.ended = asyncio.get_running_loop().create_future()
        self.running = 0

    async def start(self):
        self.stage.started.append(self.spec.checkpoint)
        if self.spec.checkpoint == "never":
            await asyncio.Event().wait()
        if self.spec.checkpoint == "late":
            await self.stage.release.wait()
        if self.spec.checkpoint in self.stage.broken:
            raise InputError(f"{self.spec.checkpoint}: cannot be loaded.")
        self.stage.workers.append(self)
        return Description("llava/played", "float32", 100)

    async def ask(self, question):
        if self.ended.done():
            raise WorkerLost("the worker has ended")
        words = question.messages[-1]["content"][-1]["text"]
        self.stage.asked.append(question)
        self.running += 1
        try:
            if self.spec.checkpoint == "mute":
                raise RequestError(500, "no answer", code="defect")
            if words == "die":
                self.ended.set_result("signal SIGKILL")
                raise WorkerLost("the worker ended: signal SIGKILL")
            if words == "half":
                yield Piece("half ")
                raise WorkerLost("the worker ended: signal SIGKILL")
            if words == "hold":
                yield Piece("held ")
                await self.stage.release.wait()
            for number in range(100 if words == "long" else 0):
                yield Piece(f"{number} ")
            yield Piece(f"{self.spec.checkpoint}: {words}", "stop", 7, 3)
        finally:
            self.running -= 1

    async def attach(self, spec):
        self.stage.attached.append(spec.name)
        if spec.checkpoint == "base" and self.stage.slow_attach:
            await self.stage.release.wait()
        if self.ended.done():
            raise WorkerLost("the worker ended: it was stopped")
        return Description("llava/played", "float32", 100)

    async def detach(self, name):
        pass

    async def lost(self):
        return await asyncio.shield(self.ended)

    async def stop(self, grace):
        self.stage.stopped.append(self.spec.checkpoint)
        with suppress(asyncio.InvalidStateError):
            self.ended.set_result("stopped")


@dataclass
class Stage:
    """What happened to workers, and what shall happen."""

    release: asyncio.Event = field(default_factory=asyncio.Event)
    started: list = field(default_factory=list)
    stopped: list = field(default_factory=list)
    workers: list = field(default_factory=list)
    asked: list = field(default_factory=list)
    broken: set = field(default_factory=set)
    attached: list = field(default_factory=list)
    slow_attach: bool = False


@dataclass
class Gateway:
    """A running gateway and a client of it."""

    client: aiohttp.ClientSession
    stage: Stage
    registry: Registry
    port: int

    async def chat(self, words="hello", model="m", headers=None, **more):
        body = {"model": model, "messages": [{"role": "user", "content": words}], **more}
        return await self.call("POST", "/v1/chat/completions", body, headers)

    async def admin(self, method, path="", body=None, token=TOKEN):
        return await self.call(method, f"/admin/models{path}", body, {"Authorization": f"Bearer {token}"})

    async def call(self, method, path, body=None, headers=None):
        async with self.client.request(method, path, json=body, headers=headers) as response:
            text = await response.text()
            response.parsed = await response.json() if response.content_type == "application/json" else text
            return response

    def spec(self, name, checkpoint, **more):
        return {"name": name, "checkpoint": checkpoint, "backend": "played", **more}


@pytest.fixture
def played(monkeypatch):
    """`async with played(m="first", ...) as gateway`: names and the checkpoints that are played."""

    @asynccontextmanager
    async def run(settings=None, group=False, **names):
        stage = Stage()

        def check(spec):
            if spec.checkpoint == "wrong":
                raise InputError("wrong: no such folder.")

        made = backends.Backend(check, lambda spec, settings: PlayedWorker(spec, stage))
        if group:
            made = dataclasses.replace(made, group=lambda spec: spec.checkpoint)
        monkeypatch.setitem(backends.BACKENDS, "played", made)
        settings = ServeSettings(**{"stop_seconds": 2, **(settings or {})})
        registry = Registry(settings)
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen(64)
        config = uvicorn.Config(
            create_app(settings, registry, TOKEN),
            http=impatient(settings),
            lifespan="off",
            log_level="error",
            ws="none",
        )
        server = uvicorn.Server(config)
        server.capture_signals = nullcontext
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        port = sock.getsockname()[1]
        await registry.open([ModelSpec(name=name, checkpoint=one, backend="played") for name, one in names.items()])
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
                yield Gateway(client, stage, registry, port)
        finally:
            stage.release.set()
            await registry.close()
            server.should_exit = True
            server.force_exit = True
            await serving
            sock.close()

    return run


def hollow(side):
    """A PNG of so many pixels a side that holds data for a few of them."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
