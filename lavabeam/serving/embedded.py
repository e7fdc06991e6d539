"""The built-in worker, seen from the gateway: one process per base checkpoint, which also serves its adapters."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lavabeam.cli.output import say
from lavabeam.serving import frames
from lavabeam.serving.errors import RequestError
from lavabeam.serving.settings import ModelSpec, ServeSettings
from lavabeam.serving.worker import Description, Piece, Question, WorkerLost
from schemas.config import nearest
from schemas.errors import InputError

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from lavabeam.serving.process import main; "
    "sys.argv[1:] = []; main()"
)
# Pictures are large: their memory goes back to the system when they are done. Threads that wait for work sleep: the
# default is to spin, which takes the cores from the gateway and from other workers.
_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
    "OMP_WAIT_POLICY": "PASSIVE",
    "TORCHDYNAMO_DISABLE": "1",
}
_OPTIONS = ("base", "threads")
_LONGEST = 1 << 16
_LINES = 20
"""Last lines of a worker's stderr that are kept to say why it ended."""


def check(spec: ModelSpec) -> None:
    """Raises InputError for a checkpoint, an adapter, a precision or a device that cannot be used. Loads nothing."""
    from trainer.inference.checkpoint import Checkpoint

    unknown = [name for name in spec.options if name not in _OPTIONS]
    if unknown:
        raise InputError(f"{spec.name}: unknown option {unknown[0]!r}. {nearest(unknown[0], list(_OPTIONS))}")
    threads, base = spec.options.get("threads", 1), spec.options.get("base", "")
    if not str(threads).isdecimal() or int(threads) < 1:
        raise InputError(f"{spec.name}: option threads: found {threads!r}; expected a number from 1.")
    if not isinstance(base, str):
        raise InputError(f"{spec.name}: option base: found {base!r}; expected the folder of the adapter's base.")
    Checkpoint.open(spec.checkpoint, spec.options.get("base")).check(spec.template, spec.load, spec.device)


def group(spec: ModelSpec) -> Hashable:
    """One process for all names on the same weights in the same precision."""
    from trainer.inference.checkpoint import Checkpoint
    from trainer.runfolder import weights_digest

    folder = Checkpoint.open(spec.checkpoint, spec.options.get("base")).folder.path
    return ("embedded", str(folder.resolve()), weights_digest(folder), spec.load)


class EmbeddedWorker:
    """A `SharedWorker`: the process, and the questions that wait for its frames."""

    def __init__(self, spec: ModelSpec, settings: ServeSettings):
        self._spec, self._most = spec, settings.most_running
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Queue[Piece | Exception]] = {}
        self._attaching: dict[str, asyncio.Future[Description]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._ended: asyncio.Future[str] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._said: deque[str] = deque(maxlen=_LINES)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> Description:
        self._ended = asyncio.get_running_loop().create_future()
        # A separate session: a terminal's Ctrl-C is handled by the gateway.
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", _BOOT, json.dumps([str(Path(one).resolve()) for one in sys.path])),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**_ENVIRONMENT, **os.environ},
            start_new_session=True,
        )
        self._tasks = [asyncio.create_task(self._listen())]
        try:
            self._send({"do": "start", "most_running": self._most, **self._spec.model_dump()})
            return await self._started()
        except BaseException:
            await self.stop(0)
            raise

    async def ask(self, question: Question) -> AsyncGenerator[Piece, None]:
        number, pieces = next(self._numbers), asyncio.Queue[Piece | Exception]()
        words = ("messages", "max_tokens", "temperature", "top_p", "seed", "stop", "stream", "model")
        self._send(
            {"do": "ask", "number": number, **{word: getattr(question, word) for word in words}}, *question.images
        )
        self._asked[number] = pieces
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if piece.finish is not None:
                    return
        finally:
            if self._asked.pop(number, None) is not None:
                with suppress(WorkerLost):
                    self._send({"do": "cancel", "number": number})

    async def attach(self, spec: ModelSpec) -> Description:
        waiting = self._attaching[spec.name] = asyncio.get_running_loop().create_future()
        self._send({"do": "attach", **spec.model_dump()})
        try:
            return await waiting
        finally:
            self._attaching.pop(spec.name, None)

    async def detach(self, name: str) -> None:
        self._send({"do": "detach", "name": name})

    async def lost(self) -> str:
        assert self._ended is not None
        return await asyncio.shield(self._ended)

    async def stop(self, grace: float) -> None:
        process = self._process
        if process is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._asked and process.returncode is None:
                    await asyncio.sleep(0.05)
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail("it was stopped")

    def _send(self, message: dict[str, Any], *parts: bytes) -> None:
        if self._process is None or self._process.stdin is None or self._process.stdin.is_closing():
            raise WorkerLost("the worker has ended")
        self._process.stdin.write(frames.pack(message, *parts))

    async def _started(self) -> Description:
        first = self._attaching[self._spec.name] = asyncio.get_running_loop().create_future()
        assert self._ended is not None
        done, _ = await asyncio.wait({first, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        if first not in done:
            raise InputError(f"{self._spec.checkpoint}: its worker ended while it was loaded: {self._ended.result()}.")
        return first.result()

    async def _listen(self) -> None:
        """Hand out what the process says, until it ends."""
        assert self._process is not None and self._process.stdout is not None
        heard = asyncio.create_task(self._hear_stderr())
        try:
            while True:
                message, _ = await frames.receive(self._process.stdout)
                self._take(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        code = await self._process.wait()
        await asyncio.wait({heard}, timeout=1)
        heard.cancel()
        reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._fail(f"{reason} ({self._said[-1]})" if self._said and code > 0 else reason)

    async def _hear_stderr(self) -> None:
        assert self._process is not None and self._process.stderr is not None
        rest = ""
        while chunk := await self._process.stderr.read(1 << 16):  # not line by line: a line may have any length
            *lines, rest = (rest + chunk.decode(errors="replace")).split("\n")
            for line in lines:
                self._said.append(line)
                say(f"{self._spec.name}: {line}", err=True)
            rest = rest[-_LONGEST:]

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["is"]
        if kind == "pieces":
            for number, text, finish, prompt_tokens, answer_tokens, failed, memory in message["events"]:
                if failed:
                    status, code = (503, "out_of_memory") if memory else (500, "defect")
                    self._give(number, RequestError(status, failed, code=code))
                else:
                    self._give(number, Piece(text, finish, prompt_tokens, answer_tokens))
        elif kind == "failed":
            self._give(message["number"], RequestError(message["status"], message["message"], code=message["code"]))
        else:
            waiting = self._attaching.get(message.get("name", self._spec.name))
            if waiting is not None and not waiting.done():
                if kind == "refused":
                    waiting.set_exception(InputError(message["message"]))
                else:
                    waiting.set_result(Description(**message["about"]))

    def _give(self, number: int, piece: Piece | Exception) -> None:
        if number in self._asked:
            self._asked[number].put_nowait(piece)

    def _fail(self, reason: str) -> None:
        """The process has ended: everyone who waits for it hears why."""
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(reason)
        for pieces in self._asked.values():
            pieces.put_nowait(WorkerLost(f"the worker ended: {reason}"))
        for waiting in self._attaching.values():
            if not waiting.done():
                waiting.set_exception(WorkerLost(f"the worker ended: {reason}"))
                waiting.exception()  # read: nobody may wait for it any more, and asyncio would say so at the end
