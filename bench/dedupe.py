"""Dedupe of planted near-copies at growing sizes: CPU, memory, growth, and whether the clusters are right.

    python -m bench.dedupe [--local 100000,300000,1000000,3000000] [--dask 100000,300000] [--skewed 100000]

Each run is the whole command (`lavabeam dedupe`, keys and verdicts) on a dataset of its own; CPU is that of all its
processes, memory the largest sum of their private memory. The floor compares all pairs of hashes in numpy at the
smallest size; for other sizes it is extrapolated quadratically. The clusters are compared with an independent answer:
connected components, by an ordinary union-find, of the planted pairs and of the pairs that are near by chance, which a
search of another kind finds.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.planted import KINDS, Planted, brute_force_seconds, expected_clusters, write
from schemas.dataset import Dataset

WORK = Path(__file__).parent / "output" / "dedupe"
GOAL_EXPONENT, GOAL_MB, GOAL_CPU, GOAL_ROWS = 1.2, 2000, 120, 1_000_000


@dataclass(frozen=True)
class Run:
    runner: str
    kind: str
    rows: int
    cpu: float
    wall: float
    peak_mb: float
    missed: int
    """Planted pairs whose rows are in different clusters."""
    foreign: int
    """Rows in another cluster than the independent answer says."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local", type=_sizes, default="100000,300000,1000000,3000000")
    parser.add_argument("--dask", type=_sizes, default="100000,300000")
    parser.add_argument("--skewed", type=_sizes, default="100000")
    arguments = parser.parse_args()
    plan = [("local", "planted", rows) for rows in arguments.local]
    plan += [("local", kind, rows) for kind in KINDS if kind != "planted" for rows in arguments.skewed]
    plan += [("dask", "planted", rows) for rows in arguments.dask]
    pairs = brute_force_seconds(100_000)
    started = {runner: _start_up(runner) for runner in dict.fromkeys(runner for runner, _, _ in plan)}
    print(f"start-up and a dataset of 2 rows: {', '.join(f'{name} {cpu:.1f} s CPU' for name, cpu in started.items())}")
    runs = []
    for runner, kind, rows in plan:
        run = measured(runner, kind, rows)
        runs.append(run)
        floor = pairs * (rows / 100_000) ** 2
        label = "" if rows == 100_000 else " (extrapolated)"
        print(
            f"{runner:5} {kind:9} {rows:8} rows: {run.cpu:6.1f} s CPU {run.wall:6.1f} s wall {run.peak_mb:5.0f} MB, "
            f"{run.missed} planted pairs missed, {run.foreign} rows in a foreign cluster; "
            f"all pairs in numpy {floor:.0f} s{label}",
            flush=True,
        )
    print(json.dumps(figures(runs, started, pairs)))


def measured(runner: str, kind: str, rows: int) -> Run:
    """Make the dataset, run the command on it, compare the clusters, remove it."""
    folder = WORK / f"{runner}-{kind}-{rows}"
    shutil.rmtree(folder, ignore_errors=True)
    planted = KINDS[kind](rows)
    write(folder, planted)
    cpu, wall, peak = _command(folder, runner)
    missed, foreign = compared(folder, planted)
    shutil.rmtree(folder)
    return Run(runner, kind, rows, cpu, wall, peak, missed, foreign)


def compared(folder: Path, planted: Planted) -> tuple[int, int]:
    """(planted pairs missed, rows in a foreign cluster)."""
    names: list[str] = []
    for fragment in Dataset.open(folder).fragments:
        names += fragment.read(["cluster"]).column("cluster").to_pylist()
    numbers = np.array([int(name[1:]) for name in names])  # a cluster is named by its smallest key
    missed = (numbers[planted.pairs[:, 0]] != numbers[planted.pairs[:, 1]]).sum()
    return int(missed), int((numbers != expected_clusters(planted)).sum())


def figures(runs: list[Run], started: dict[str, float], pairs: float) -> list[dict[str, Any]]:
    found = [
        _figure("dedupe: planted pairs missed, all runs", sum(run.missed for run in runs), 0, 0),
        _figure("dedupe: rows in a foreign cluster, all runs", sum(run.foreign for run in runs), 0, 0),
    ]
    by_size = {(run.runner, run.rows): run for run in runs if run.kind == "planted"}
    for runner, start in started.items():
        sizes = [rows for name, rows in by_size if name == runner]
        if len(sizes) > 1:
            least, most = by_size[runner, min(sizes)], by_size[runner, max(sizes)]
            growth = (most.cpu - start) / (least.cpu - start)
            exponent = math.log(growth) / math.log(most.rows / least.rows)
            title = f"dedupe: growth exponent of CPU beyond the start, {runner}, {least.rows} to {most.rows}"
            found.append(_figure(title, exponent, 2.0, GOAL_EXPONENT))
    for run in runs:
        if run.runner == "local" and run.rows == GOAL_ROWS:
            floor = pairs * (run.rows / 100_000) ** 2
            found.append(_figure(f"dedupe: s CPU, {run.rows} {run.kind}", run.cpu, floor, GOAL_CPU))
            found.append(_figure(f"dedupe: MB, {run.rows} {run.kind}", run.peak_mb, run.peak_mb, GOAL_MB))
    both = [rows for runner, rows in by_size if runner == "dask" and ("local", rows) in by_size]
    if both:
        own, local = (by_size[runner, max(both)].cpu - started[runner] for runner in ("dask", "local"))
        title = f"dedupe: CPU of dask beyond its start over local's, {max(both)}"
        found.append(_figure(title, own / local, 1.0, 3))
    return found


def _start_up(runner: str) -> float:
    folder = WORK / f"start-{runner}"
    shutil.rmtree(folder, ignore_errors=True)
    write(folder, KINDS["planted"](2))
    cpu, _, _ = _command(folder, runner)
    shutil.rmtree(folder)
    return cpu


def _command(folder: Path, runner: str) -> tuple[float, float, float]:
    """(seconds of CPU of all processes, seconds, largest sum of private memory in MB) of `lavabeam dedupe`."""
    before, started, peak = _children_cpu(), time.perf_counter(), 0.0
    command = [sys.executable, "-m", "lavabeam", "dedupe", str(folder), "--runner", runner]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, _private_mb(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return _children_cpu() - before, time.perf_counter() - started, peak


def _private_mb(pid: int) -> float:
    total = 0
    try:
        parent = psutil.Process(pid)
        processes = [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return 0.0
    for process in processes:
        try:
            memory = process.memory_info()
            total += memory.rss - memory.shared
        except psutil.Error:
            continue
    return total / 1e6


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]


def _figure(name: str, value: float, peer: float, goal: float) -> dict[str, Any]:
    ratio = round(peer / value, 3) if value else 1.0
    return {
        "figure": name,
        "value": round(value, 3),
        "peer": round(peer, 3),
        "ratio": ratio,
        "goal": f"<= {goal}",
        "ok": value <= goal,
    }


if __name__ == "__main__":
    main()
