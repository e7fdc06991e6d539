"""vLLM or SGLang as a worker, started from its own environment: one server per base, with its adapters."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lavabeam.serving.client import READ_S, error_words, open_client
from lavabeam.serving.engines import BASE, ENGINES, Launch
from lavabeam.serving.remote import RemoteWorker, check_options
from lavabeam.serving.settings import ModelSpec, ServeSettings
from lavabeam.serving.worker import Description, Question
from schemas.errors import InputError
from trainer.inference.checkpoint import Checkpoint, Devices

OPTIONS = ("python", "arguments", "lora", "base")
_LINES = 40
"""Last lines of a server's output that are kept to say why it ended."""
_LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LAVABEAM_API_KEY")
"""Of our environment, which is not the server's."""


def check(spec: ModelSpec) -> None:
    """Raises InputError for a checkpoint, an environment without the server, and options that it does not support."""
    check_options(spec, OPTIONS)
    checkpoint = Checkpoint.open(spec.checkpoint, spec.options.get("base"))
    if spec.load is not None:
        raise InputError(f"{spec.name}: --load is for our own worker. Give {spec.backend} its own --backend-args.")
    if spec.template is not None:
        raise InputError(f"{spec.name}: {spec.backend} takes the folder's chat_template.jinja. Leave --template out.")
    if checkpoint.adapter is not None and not _with_lora(spec):
        raise InputError(f"{spec.name}: {spec.checkpoint} is an adapter, and lora is false. Leave the option out.")
    if checkpoint.adapter is not None and (files := checkpoint.adapter.in_full()):
        raise InputError(
            f"{spec.name}: {spec.checkpoint} has {files[0].name}, trained in full, which {spec.backend} would "
            f"silently ignore. Serve the result of `lavabeam merge`, or leave --backend out."
        )
    if Devices.parse(spec.device).kind == "mps":
        raise InputError(f"{spec.name}: {spec.backend} does not run on mps. Leave --backend out.")
    _check_python(spec)


def group(spec: ModelSpec) -> Hashable:
    """One server for all names on the same base."""
    folder = Checkpoint.open(spec.checkpoint, spec.options.get("base")).folder.path
    options = {name: value for name, value in spec.options.items() if name != "base"}
    return (spec.backend, str(folder.resolve()), spec.device, repr(sorted(options.items())))


class LaunchedWorker(RemoteWorker):
    """A `SharedWorker`. Its process is our supervisor, which holds the server."""

    def __init__(self, spec: ModelSpec, settings: ServeSettings):
        self._engine, self._settings = ENGINES[spec.backend], settings
        self._port, self._secret = _free_port(), secrets.token_urlsafe(24)
        address = f"http://127.0.0.1:{self._port}#{BASE}"
        super().__init__(ModelSpec(name=spec.name, checkpoint=address, backend=spec.backend))
        self._spec, self._key = spec, self._secret
        self._names: dict[str, str] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._heard: asyncio.Task[None] | None = None
        self._said: deque[str] = deque(maxlen=_LINES)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> Description:
        self._lost = asyncio.get_running_loop().create_future()
        launch = self._launch()
        own = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
        supervisor = str(Path(__file__).with_name("supervisor.py"))
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", supervisor, *self._engine.command(launch)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**own, **self._engine.environment(launch)},
            start_new_session=True,  # a terminal's Ctrl-C is the gateway's affair
        )
        self._heard = asyncio.create_task(self._hear())
        try:
            self._client = open_client(self.address, self._secret, READ_S)
            await self._until_listed()
            return await self.attach(self._spec)
        except BaseException:
            await self.stop(0)
            raise

    def called(self, question: Question) -> str:
        return self._names[question.model or self._spec.name]

    async def attach(self, spec: ModelSpec) -> Description:
        checkpoint = Checkpoint.open(spec.checkpoint, spec.options.get("base"))
        if checkpoint.adapter is None:
            self._names[spec.name] = BASE
        else:
            body = {"lora_name": spec.name, "lora_path": str(checkpoint.adapter.path.resolve())}
            await self._post(self._engine.load, body, spec.checkpoint)
            self._names[spec.name] = self._engine.adapter.format(name=spec.name)
        details = {"address": self.address, "server": spec.backend}
        return Description(checkpoint.family, spec.backend, checkpoint.folder.positions, details)

    async def detach(self, name: str) -> None:
        if self._names.pop(name, BASE) != BASE:
            with suppress(InputError):  # it is gone, or the server is
                await self._post(self._engine.unload, {"lora_name": name}, name)

    async def lost(self) -> str:
        assert self._lost is not None
        return await asyncio.shield(self._lost)

    async def stop(self, grace: float) -> None:
        """Returns when the server, all that it started and its port are gone."""
        if self._client is not None:
            await super().stop(grace)
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()
        if self._heard is not None:
            await asyncio.gather(self._heard, return_exceptions=True)
        while self._process is not None and not _is_free(self._port):
            await asyncio.sleep(0.1)

    async def _until_listed(self) -> None:
        """Wait until the server lists its model. A server that ends before is an InputError with its last words."""
        assert self._lost is not None
        while not self._lost.done():
            with suppress(Exception):  # a server that is starting may reply anything
                if [one.id for one in (await self._client.with_options(timeout=5).models.list()).data]:
                    return
            await asyncio.wait({self._lost}, timeout=0.5)
        raise InputError(
            f"{self._spec.checkpoint}: {self._spec.backend} ended while it started: {self._lost.result()}."
        )

    async def _post(self, route: str, body: dict[str, Any], what: str) -> None:
        """One of the server's routes for adapters. Raises InputError with its words."""
        from httpx2 import HTTPError
        from openai import OpenAIError

        try:
            await self._client.post(f"{self.address}{route}", body=body, cast_to=str)
        except (OpenAIError, HTTPError) as error:
            raise InputError(f"{what}: {self._spec.backend}: {error_words(error, self.address)}") from error

    async def _hear(self) -> None:
        """Pass the server's output on to stderr, until it has ended."""
        assert self._process is not None and self._process.stdout is not None and self._lost is not None
        async for line in self._process.stdout:
            text = line.decode(errors="replace").rstrip()
            self._said.append(text)
            print(f"{self._spec.name}: {text}", file=sys.stderr, flush=True)
        code = await self._process.wait()
        if not self._lost.done():
            self._lost.set_result(f"exit code {code}{_last_words(self._said)}")

    def _launch(self) -> Launch:
        spec = self._spec
        return Launch(
            python=Path(spec.options["python"]),
            folder=Checkpoint.open(spec.checkpoint, spec.options.get("base")).folder.path.resolve(),
            port=self._port,
            key=self._secret,
            lora=_with_lora(spec),
            gpus=Devices.parse(spec.device).numbers,
            max_images=self._settings.max_images,
            most_running=self._settings.most_running,
            arguments=tuple(spec.options.get("arguments", ())),
        )


def _check_python(spec: ModelSpec) -> None:
    python, module = spec.options.get("python"), ENGINES[spec.backend].module
    if python is None:
        raise InputError(
            f"{spec.name}: --backend {spec.backend} needs --backend-python: the Python of an environment where "
            f"{module} is installed. It pins other versions than ours, so it cannot share ours."
        )
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    own = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    try:
        done = subprocess.run([python, "-P", "-c", code], env=own, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"--backend-python {python}: cannot be run ({error}). Give the path of a Python.") from error
    if done.returncode:
        raise InputError(f"--backend-python {python}: there is no {module} in it. Install it there, or name another.")


def _with_lora(spec: ModelSpec) -> bool:
    return bool(spec.options.get("lora", True))


def _last_words(lines: deque[str]) -> str:
    """The last line that says what was wrong."""
    wrong = [line for line in lines if "Error" in line]
    chosen = (wrong or list(lines) or [""])[-1].strip()
    return f" ({chosen[-300:]})" if chosen else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
