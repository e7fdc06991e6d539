"""Ten kills of a download run: nothing is lost, and only the fragments that were running are fetched twice.

`python -m bench.download_kills [--urls 5000] [--kills 10]`. A run over distinct pictures is ended by SIGKILL at random
moments and started again until it ends by itself. Figure: requests beyond one per URL, as a share of what the kills may
cost (fragments that run at a time x kills). Goal: at most 1, and a complete dataset.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa

from bench.downloading import materials
from schemas import Dataset
from schemas.records import BASE
from schemas.writing import write_dataset

WORK = Path(__file__).parent / "output" / "download_kills"
ROOT = Path(__file__).parents[1]
ROWS, THREADS = 100, 2
RUN = """
import sys
from pipelines.download import Download, DownloadConfig
from pipelines.engine.work import run_step
from pipelines.engine.runners import Runner
options = {"allow_private_hosts": ["localhost"], "respect_robots_txt": False}
run_step(Download(DownloadConfig(**options)), sys.argv[1], Runner("local", int(sys.argv[2])))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--urls", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=10)
    options = parser.parse_args()
    shutil.rmtree(WORK, ignore_errors=True)
    materials.make(WORK, 50)
    with (WORK / "requests.log").open("w") as log:
        command = [sys.executable, "-m", "bench.downloading.server", str(WORK)]
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert server.stdout is not None
            port = json.loads(server.stdout.readline())["http"]
            dataset = make_dataset(port, options.urls)
            kill_and_restart(dataset, options.kills, options.urls)
        finally:
            server.terminate()
            server.wait()
    statuses = Dataset.open(dataset).manifest.statuses()["download"]
    again = twice()
    allowed = options.kills * THREADS
    ok = statuses == {"ok": options.urls} and len(again) <= allowed
    print(f"statuses {statuses}; fragments fetched again, and requests beyond the first: {dict(again)}")
    figure = {"figure": "download, fragments fetched again after kills", "value": len(again), "peer": allowed}
    print(json.dumps(figure | {"ratio": round(len(again) / allowed, 3), "goal": "<= 1, dataset complete", "ok": ok}))
    shutil.rmtree(WORK)


def make_dataset(port: int, count: int) -> str:
    rows = [{"key": f"{n:06d}", "url": f"http://localhost:{port}/log/{n}.jpg"} for n in range(count)]
    parts = [pa.Table.from_pylist(rows[start : start + ROWS], BASE["images"]) for start in range(0, count, ROWS)]
    write_dataset(WORK / "dataset", "images", parts)
    return str(WORK / "dataset")


def kill_and_restart(dataset: str, kills: int, urls: int) -> None:
    """A moment is a number of requests after the start, so that every kill falls into the work."""
    moments = random.Random(7)
    for kill in range(kills + 1):
        run = subprocess.Popen([sys.executable, "-c", RUN, dataset, str(THREADS)], cwd=ROOT, env=os.environ)
        goal = requests() + moments.randint(1, max(1, 2 * urls // (kills + 1)))
        while kill < kills and run.poll() is None and requests() < goal:
            time.sleep(0.01)
        if kill < kills:
            run.send_signal(signal.SIGKILL)
        code = run.wait()
        print(f"run {kill}: ended with {code} after {requests()} requests", flush=True)


def requests() -> int:
    """The server writes one line of fixed length per request."""
    return (WORK / "requests.log").stat().st_size // 8


def twice() -> Counter:
    """Fragment -> requests beyond the first for a URL."""
    counts = Counter(int(line) for line in (WORK / "requests.log").read_text().split())
    return Counter(number // ROWS for number, hits in counts.items() for _ in range(hits - 1))


if __name__ == "__main__":
    main()
