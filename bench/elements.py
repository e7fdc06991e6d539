"""Nothing is lost, doubled or damaged between Beam's stages, however long they last.

`python -m bench.elements [--elements 10000000]`. Small elements go through two GroupByKeys on `local`; their sums are
compared with those computed directly. Beam 2.77's own multi_threading mode, which `local` refuses, is run beside it at
a tenth of the size: it flushes its streams once a second in the middle of an element.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SOURCES, KEYS, LAST_KEYS = 50, 9_973, 101
PEER_RUNS, PEER_WORKERS = 3, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=10_000_000)
    parser.add_argument("--side", choices=("ours", "beam"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return print(json.dumps(run(arguments.side, arguments.elements)))
    ours = started("ours", arguments.elements)
    peers = [started("beam", arguments.elements // 10) for _ in range(PEER_RUNS)]
    right = sum(one["right"] for one in peers)
    print(f"local: {arguments.elements} elements, {ours['cpu']} s CPU, sums right: {ours['right']}")
    tenth = arguments.elements // 10
    print(f"Beam's multi_threading, {PEER_WORKERS} workers, {tenth} elements: {right} of {PEER_RUNS} right")
    figure = {"figure": "elements: wrong sums after two groupings", "value": int(not ours["right"])}
    figure |= {"peer": PEER_RUNS - right, "ratio": None, "cpu": ours["cpu"], "goal": 0, "ok": ours["right"]}
    return print(json.dumps([figure]))


def started(side: str, elements: int) -> dict[str, Any]:
    """A run in a process of its own; one that dies or hangs is not right."""
    command = [sys.executable, "-m", "bench.elements", "--side", side, "--elements", str(elements)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=900)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return {"right": False, "cpu": None}
    return json.loads(done.stdout.splitlines()[-1])


def run(side: str, elements: int) -> dict[str, Any]:
    import apache_beam as beam

    from pipelines.engine.runners import Runner

    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "sums.json"
        with Runner("local").pipeline() if side == "ours" else _multi_threading() as pipeline:
            sums = (
                pipeline
                | beam.Create(range(SOURCES))
                | beam.Reshuffle()
                | "numbers" >> beam.FlatMap(_numbers, elements)
                | "group" >> beam.GroupByKey()
                | "regroup" >> beam.FlatMapTuple(_regrouped)
                | "group again" >> beam.GroupByKey()
                | "add up" >> beam.MapTuple(lambda key, numbers: (key, sum(numbers)))
            )
            sums | beam.combiners.ToList() | beam.Map(lambda found: out.write_text(json.dumps(sorted(found))))
        found = json.loads(out.read_text())
    expected = [[key, sum(range(key, elements, LAST_KEYS))] for key in range(LAST_KEYS)]
    return {"right": found == expected, "cpu": round(time.process_time() - begun, 1)}


def _multi_threading() -> Any:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    options = ["--direct_running_mode=multi_threading", f"--direct_num_workers={PEER_WORKERS}"]
    return beam.Pipeline("FnApiRunner", PipelineOptions(options))


def _numbers(source: int, elements: int) -> Any:
    part = elements // SOURCES
    return ((number % KEYS, number) for number in range(source * part, (source + 1) * part))


def _regrouped(_key: int, numbers: Any) -> Any:
    return ((number % LAST_KEYS, number) for number in numbers)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # Beam's own workers leave threads that would wait forever
