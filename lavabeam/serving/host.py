"""A worker and the models that it serves: start, requests, restart after a crash, unload when idle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Hashable
from contextlib import aclosing
from typing import Literal, cast

from lavabeam.cli.output import say
from lavabeam.serving.backends import backend
from lavabeam.serving.errors import RequestError
from lavabeam.serving.probe import probe
from lavabeam.serving.settings import ModelSpec, ServeSettings
from lavabeam.serving.worker import Description, Piece, Question, SharedWorker, Worker, WorkerLost
from schemas.errors import LavaBeamError

State = Literal["starting", "ready", "restarting", "idle", "failed", "stopping"]

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before a worker that was lost, or did not start, is started again."""

GIVEN_UP = 3
"""Starts in a row that failed, after which questions are refused at once instead of waiting for the next one."""


class Host:
    """A worker for `specs`, which are of one group. A spec's `name` is a label, unique among all workers."""

    def __init__(self, key: Hashable | None, specs: list[ModelSpec], settings: ServeSettings):
        self.key, self.specs, self.settings = key, {spec.name: spec for spec in specs}, settings
        self.device = specs[0].device
        self.state: State = "starting"
        self.detail = ""
        self.restarts = 0
        self.about: dict[str, Description] = {}
        self.asked: dict[str, int] = {}
        """Label -> questions at the moment, those that wait included."""
        self._worker: Worker | None = None
        self._attaching = 0
        """Names that are being added."""
        self._failures = 0
        self._usual_seconds = 1.0
        self._used = time.monotonic()
        self._ready = asyncio.Event()
        self._wake = asyncio.Event()
        self._changing = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        return sum(self.asked.values())

    async def start(self) -> None:
        """Start it and ask every name a question. Raises InputError or RequestError, and leaves nothing running."""
        await self._start()
        self._keeper = asyncio.create_task(self._keep())

    async def attach(self, spec: ModelSpec) -> None:
        """Serve one more name, once it has answered a question. Until then it holds the worker as a name does."""
        self._attaching += 1
        try:
            await self._until_ready()
            worker = cast(SharedWorker, self._worker)
            about = await worker.attach(spec)
            try:
                async with asyncio.timeout(self.settings.start_seconds):
                    await probe(worker, spec)
            except BaseException:
                await worker.detach(spec.name)
                raise
            self.specs[spec.name], self.about[spec.name] = spec, about
        finally:
            self._attaching -= 1
            if not self.specs and not self._attaching:
                await self.stop()

    async def detach(self, label: str) -> None:
        """Forget a name, after its running answers or `stop_seconds`; what still runs then ends with an error. The
        worker goes on for others, and ends with the last one."""
        last = time.monotonic() + self.settings.stop_seconds
        while self.asked.get(label) and time.monotonic() < last:
            await asyncio.sleep(0.05)
        self.specs.pop(label, None)
        if not self.specs and not self._attaching:
            await self.stop()
        elif self.state == "ready" and self._worker is not None:
            await cast(SharedWorker, self._worker).detach(label)

    async def stop(self) -> None:
        self.state = "stopping"
        self._ready.clear()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._worker is not None:
            await self._worker.stop(self.settings.stop_seconds if self.waiting else 0)
            self._worker = None
        self._wake.set()
        self._ready.set()  # whoever waits finds that it is gone

    async def ask(self, label: str, question: Question) -> AsyncGenerator[Piece, None]:
        """Raises RequestError: 429 where too many wait, 503 where the worker is gone, and what the worker says."""
        most = self.settings.most_running + self.settings.most_waiting
        if self.waiting >= most:
            raise RequestError(
                429,
                f"the queue is full: {self.waiting} requests are running or queued, at most {most} may.",
                code="queue_full",
                retry_after=self._usual_seconds,
            )
        self.asked[label] = self.asked.get(label, 0) + 1
        began = time.monotonic()
        try:
            await self._until_ready()
            assert self._worker is not None
            async with aclosing(self._worker.ask(question)) as pieces:
                async for piece in pieces:
                    yield piece
            self._usual_seconds += 0.1 * (time.monotonic() - began - self._usual_seconds)
        except WorkerLost as error:
            raise RequestError(
                503, f"{error}. It is restarting; try again.", code="worker_lost", retry_after=WAITS[0]
            ) from error
        finally:
            self._used = time.monotonic()
            self.asked[label] -= 1
            if not self.asked[label]:
                del self.asked[label]

    async def _until_ready(self) -> None:
        if self.state == "idle":
            self._wake.set()
        while not self._ready.is_set():
            if self.state in ("failed", "stopping"):
                break
            await self._ready.wait()
        if self.state != "ready":
            reason = self.detail or "it was removed"
            retry = WAITS[-1] if self.state == "failed" else None
            raise RequestError(503, f"the model is not available: {reason}", code="not_available", retry_after=retry)

    async def _start(self) -> None:
        first, *others = list(self.specs.values())
        worker = backend(first).make(first, self.settings)
        try:
            async with asyncio.timeout(self.settings.start_seconds):
                about = {first.name: await worker.start()}
                for spec in others:
                    about[spec.name] = await cast(SharedWorker, worker).attach(spec)
                for spec in (first, *others):
                    await probe(worker, spec)
        except TimeoutError:
            await worker.stop(0)
            raise RequestError(
                504, f"{first.checkpoint}: not ready after {self.settings.start_seconds:g} s.", code="start_timeout"
            ) from None
        except BaseException:
            await worker.stop(0)
            raise
        self._worker, self.about = worker, about
        self.state, self.detail, self._used = "ready", "", time.monotonic()
        self._ready.set()

    async def _keep(self) -> None:
        """Watch the worker for as long as there is one to watch."""
        while True:
            assert self._worker is not None
            reason = await self._lost_or_idle(self._worker)
            self._ready.clear()
            worker, self._worker = self._worker, None
            await worker.stop(0)
            if reason is None:
                self.state = "idle"
                if not self.waiting:  # else someone asked while it was being stopped
                    self._wake.clear()
                    await self._wake.wait()
                self.state = "starting"
            else:
                self.state, self.detail = "restarting", f"the worker ended: {reason}"
                self.restarts += 1
                names = ", ".join(label.rpartition(".")[0] for label in self.specs)
                say(f"{names}: {self.detail}; it is started again", err=True)
            await self._start_again(at_once=True)

    async def _lost_or_idle(self, worker: Worker) -> str | None:
        """Why the worker was lost; None when nobody has asked it for long enough."""
        lost = asyncio.ensure_future(worker.lost())
        try:
            while True:
                idle = self.settings.idle_seconds
                left = None if idle is None else max(0.01, self._used + idle - time.monotonic())
                await asyncio.wait({lost}, timeout=left)
                if lost.done():
                    return lost.result()
                if idle is not None and not self.waiting and time.monotonic() - self._used >= idle:
                    return None
                if self.waiting:
                    self._used = time.monotonic()
        finally:
            lost.cancel()

    async def _start_again(self, at_once: bool) -> None:
        self._failures = 0
        while True:
            if not at_once:
                await asyncio.sleep(WAITS[min(self._failures, len(WAITS)) - 1])
            at_once = False
            try:
                return await self._start()
            except LavaBeamError as error:
                self._failures += 1
                self.detail = str(error)
                if self._failures >= GIVEN_UP:
                    self.state = "failed"
                    self._ready.set()  # whoever waits hears why
                    await asyncio.sleep(0)
                    self._ready.clear()
