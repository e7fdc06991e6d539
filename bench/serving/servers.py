"""The two servers on the same checkpoint: ours, and `transformers serve`."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
START_SECONDS = 600
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
"""A model of the demo's size gains nothing from threads, and on a busy machine loses much: one for each side."""


@dataclass(frozen=True)
class Server:
    """`address`: with /v1. `model`: the name to ask for. `pid`: of the process that was started."""

    address: str
    model: str
    pid: int

    def memory(self) -> float:
        """Proportional set size of all its processes, in MB."""
        return sum(one.memory_full_info().pss for one in self.processes()) / 1e6

    def processes(self) -> list[psutil.Process]:
        whole = psutil.Process(self.pid)
        return [whole, *whole.children(recursive=True)]


@contextmanager
def ours(checkpoint: Path, *options: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "lavabeam", "serve", f"m={checkpoint}", "--port", "0", "--device", "cpu", *options]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    with _ending(process):
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"(http://\S+) serves", line)
        if found is None:
            raise SystemExit(f"lavabeam serve did not start: {line!r}")
        yield Server(found[1], "m", process.pid)


@contextmanager
def transformers(checkpoint: Path) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        Path(sys.executable).parent / "transformers",
        "serve",
        checkpoint,
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    environment = {**ENVIRONMENT, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with _ending(process):
        _wait(f"http://127.0.0.1:{port}/health", process)
        yield Server(f"http://127.0.0.1:{port}/v1", str(checkpoint), process.pid)


def _wait(url: str, process: subprocess.Popen) -> None:
    last = time.monotonic() + START_SECONDS
    while time.monotonic() < last and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.5)
    raise SystemExit(f"{url}: the server did not start")


@contextmanager
def _ending(process: subprocess.Popen) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
