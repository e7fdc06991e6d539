"""One command of ours as a process: its CPU, its time, and the peak of its memory."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Cost:
    """Seconds of CPU of all processes, seconds, and the largest sum of their private memory in MB."""

    cpu: float
    wall: float
    peak_mb: float


def lavabeam(*words: str) -> Cost:
    """What `lavabeam WORDS` costs. Ends the bench with its output where it fails."""
    before, started, peak = _children_cpu(), time.perf_counter(), 0.0
    command = [sys.executable, "-m", "lavabeam", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        peak = max(peak, _private_mb(process.pid))
        time.sleep(0.1)
    said = process.stderr.read() if process.stderr else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{said}")
    return Cost(_children_cpu() - before, time.perf_counter() - started, peak)


def _private_mb(pid: int) -> float:
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            memory = process.memory_info()
            total += memory.rss - memory.shared
    except psutil.Error:
        return total / 1e6
    return total / 1e6


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
