"""A worker process: a checkpoint, its adapters, and the engine that answers; frames in on stdin, frames out on stdout.

Three kinds of threads: one reads frames, a few turn questions into tokens and pixels (decoding a large picture does not
hold up running answers), and the main one steps the engine. The process ends with its stdin.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any, BinaryIO

from lavabeam.serving import frames
from lavabeam.serving.gathering import Gathering
from lavabeam.serving.worker import Description
from schemas.errors import InputError, LavaBeamError

ANSWER_TOKENS = 1024
"""Where a question does not say how many: as `lavabeam answer`."""

PREPARING = 2
"""Threads that decode pictures."""

SMALL = 100_000_000
"""Parameters below which a second thread costs more than it saves."""

CODES = {"bad_picture": "invalid_image", "too_long": "context_length_exceeded", "bad_question": "invalid_messages"}

_REMOVED = (404, "model_not_found", "the model was removed before it had answered.")


def main() -> None:
    """Serve what the first frame names, until stdin ends."""
    inbox = sys.stdin.buffer
    outbox = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not get between frames
    first = frames.read(inbox)
    if first is None:
        return
    out = _Out(outbox)
    try:
        service = Service(first[0], out)
    except LavaBeamError as error:
        out.send({"is": "refused", "message": str(error)})
        return
    out.send({"is": "started", "about": asdict(service.description(first[0]["name"]))})
    threading.Thread(target=_read, args=(inbox, service), daemon=True).start()
    try:
        service.run()
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # the other threads wait for frames, and would be waited for


def _read(inbox: BinaryIO, service: Service) -> None:
    while (frame := frames.read(inbox)) is not None:
        service.take(*frame)
    os._exit(0)  # the gateway is gone, or wants no more of this worker


class _Out:
    def __init__(self, file: BinaryIO):
        self._file, self._lock = file, threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        content = memoryview(frames.pack(message))
        with self._lock:
            while content:
                content = content[self._file.write(content) :]


class Service:
    """The loaded checkpoint and what is asked of it."""

    def __init__(self, spec: dict[str, Any], out: _Out):
        """Raises InputError for what cannot be loaded."""
        import torch

        from trainer.inference.engine import Engine
        from trainer.inference.loaded import Loaded

        self._out = out
        self._names: dict[str, Any] = {}
        """Name -> Prompting. In the engine every name is an adapter's, or the base's."""
        found = self._open(spec)
        self._base = found.folder.path.resolve()
        if spec["options"].get("threads"):
            torch.set_num_threads(int(spec["options"]["threads"]))
        self._loaded = Loaded(found.folder, spec["load"], spec["device"])
        if not spec["options"].get("threads") and _parameters(self._loaded.model) < SMALL:
            torch.set_num_threads(1)
        self._engine: Engine
        self._gathering = Gathering()
        self._attach(spec["name"], found, spec["template"])
        self._engine = Engine(self._loaded, self._names, spec["most_running"])
        self._orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(PREPARING, "prepare")
        self._preparing: set[int] = set()
        self._cancelled: set[int] = set()
        """Numbers of questions that were taken back while they were prepared."""

    def description(self, name: str) -> Description:
        prompting = self._names[name]
        folder = prompting.folder
        family = f"{folder.config['model_type']}/{folder.text.get('model_type', 'llama')}"
        details = {"device": str(self._loaded.device), "template": prompting.template.name}
        if name in self._loaded.adapters:
            details["adapter"] = True
        return Description(family, self._loaded.precision, folder.positions, details)

    def take(self, message: dict[str, Any], parts: list[bytes]) -> None:
        """A frame from the gateway, on the reading thread."""
        if message["do"] == "ask":
            self._preparing.add(message["number"])
            self._pool.submit(self._prepare, message, parts)
            return
        if message["do"] == "cancel" and message["number"] in self._preparing:
            self._cancelled.add(message["number"])
        self._orders.put(message)

    def run(self) -> None:
        """Step the engine while there is something to answer, and wait for orders when there is not."""
        engine = self._engine
        while True:
            while not self._orders.empty() or not (engine.running or engine.waiting):
                self._obey(self._orders.get())
            joining = engine.waiting > 0
            if joining:
                self._gather()
            began = time.monotonic()
            events = engine.step()
            if joining:
                self._gathering.took(time.monotonic() - began)
            if events:
                self._out.send({"is": "pieces", "events": [_plain(event) for event in events]})

    def _gather(self) -> None:
        """Take orders until as many rows are there as lately, or the time for that is over."""
        engine, gathering = self._engine, self._gathering
        gathering.begin(engine.waiting + engine.running)
        last = time.monotonic() + gathering.seconds
        while gathering.expects_more(engine.waiting + engine.running) and (left := last - time.monotonic()) > 0:
            try:
                self._obey(self._orders.get(timeout=left))
            except queue.Empty:
                break
        gathering.end(engine.waiting + engine.running)

    def _obey(self, order: Any) -> None:
        if not isinstance(order, dict):
            if not self._forgotten(order.number):
                self._submit(order)
        elif order["do"] == "cancel":
            self._engine.cancel([order["number"]])
        elif order["do"] == "attach":
            self._answer_attach(order)
        elif order["do"] == "detach":
            self._detach(order["name"])

    def _submit(self, asked: Any) -> None:
        if asked.model in self._names:
            self._engine.submit(asked)
        else:
            self._fail(asked.number, *_REMOVED)

    def _detach(self, name: str) -> None:
        """Forget a name. Its questions end: without the adapter the base would go on with their answers."""
        for number in self._engine.leave(name):
            self._fail(number, *_REMOVED)
        if name in self._loaded.adapters:
            self._loaded.detach(name)
        self._names.pop(name, None)

    def _forgotten(self, number: int) -> bool:
        """Whether a question, now prepared, was taken back meanwhile."""
        self._preparing.discard(number)
        gone = number in self._cancelled
        self._cancelled.discard(number)
        return gone

    def _answer_attach(self, spec: dict[str, Any]) -> None:
        try:
            self._attach(spec["name"], self._open(spec), spec["template"])
            about = asdict(self.description(spec["name"]))
            self._out.send({"is": "attached", "name": spec["name"], "about": about})
        except LavaBeamError as error:
            self._out.send({"is": "refused", "name": spec["name"], "message": str(error)})

    def _open(self, spec: dict[str, Any]) -> Any:
        from trainer.inference.checkpoint import Checkpoint

        return Checkpoint.open(spec["checkpoint"], spec["options"].get("base"))

    def _attach(self, name: str, found: Any, template: str | None) -> None:
        from trainer.inference.prompting import Prompting

        if found.folder.path.resolve() != self._base:
            raise InputError(f"{found.folder.path}: is not the base that this worker has loaded, {self._base}.")
        prompting = Prompting(found.folder, template)
        if found.adapter is not None:
            self._loaded.attach(name, found.adapter)
        self._names[name] = prompting

    def _prepare(self, message: dict[str, Any], parts: list[bytes]) -> None:
        """Question to row, on a thread of the pool."""
        number = message["number"]
        if number in self._cancelled:
            self._forgotten(number)
            return
        try:
            self._prepared(message, tuple(parts))
        except InputError as error:
            self._fail(number, 400, "invalid_image", str(error))
        except Exception as error:  # a defect must not leave its question without an answer
            self._fail(number, 500, "defect", f"defect: {type(error).__name__}: {error}")
            raise

    def _prepared(self, message: dict[str, Any], images: tuple[bytes, ...]) -> None:
        from trainer.inference.engine import Asked
        from trainer.inference.prompting import Row
        from trainer.inference.prompts import Prompt
        from trainer.inference.sampling import Sampler

        number, prompting = message["number"], self._names.get(message["model"])
        if prompting is None:
            return self._fail(number, *_REMOVED)
        row = prompting.row(number, Prompt(message["messages"], images, "messages"), {})
        if not isinstance(row, Row):
            return self._fail(number, 400, CODES[row.status.value], row.detail)
        row = replace(row, pictures=tuple(prompting.pictures(row.prompt)))
        sampler = Sampler(message["temperature"], message["top_p"], message["seed"])
        most = message["max_tokens"] or ANSWER_TOKENS
        stop = tuple(message["stop"])
        self._orders.put(Asked(number, row, message["model"], most, sampler, stop, message["stream"]))
        return None

    def _fail(self, number: int, status: int, code: str, message: str) -> None:
        self._forgotten(number)
        self._out.send({"is": "failed", "number": number, "status": status, "code": code, "message": message})


def _plain(event: Any) -> list[Any]:
    return [
        event.number,
        event.text,
        event.finish,
        event.prompt_tokens,
        event.answer_tokens,
        event.failed,
        event.memory,
    ]


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
