"""Does a second core help? Import, download with re-encoding, hashing and mix on 1 and 2 workers; cost of fragments.

`python -m bench.scale [--rows 6000] [--jobs import,hash,download,mix,fragments] [--runners local,dask]`. Beside each
stand two independent runs of one worker at once: what the machine's two cores give when nothing is shared. Goal: 2
workers reach 0.9 of what those two reach together. Rows per second include the start of the workers; peak memory is
the resident memory of all processes of a run, added up (pages that they share count once for each). `cpu` is of all
processes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from bench import fragments
from bench.downloading.materials import picture
from pipelines.engine.imports import run_import
from pipelines.engine.runners import Runner
from pipelines.engine.summary import RunSummary
from pipelines.engine.work import run_step
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset

WORK = Path(__file__).parent / "output" / "scale"
DISTINCT, FRAGMENT_ROWS = 200, 100
TOKENIZER = Path("tests/schemas/chat/vectors/tokenizers/llama2.json")
JOBS = ("import", "hash", "download", "mix", "fragments")
TIMES = {"import": 5, "hash": 7, "download": 2, "mix": 16}
"""Rows of a job for each of --rows: so that one worker takes about half a minute."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--runners", default="local,dask")
    parser.add_argument(
        "--fragments", default=fragments.SIZES, help="numbers of fragments, ascending (bench/fragments.py)"
    )
    parser.add_argument("--one", nargs=4, metavar=("JOB", "FOLDER", "RUNNER", "WORKERS"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return _one(*arguments.one, port=arguments.port)
    shutil.rmtree(WORK, ignore_errors=True)
    figures = []
    with _server() as port:
        for job in arguments.jobs.split(","):
            runners = arguments.runners.split(",")
            if job == "fragments":
                sizes = [int(size) for size in arguments.fragments.split(",")]
                figures += fragments.measure(WORK / job, sizes, runners, partial(_alone, port=port))
            else:
                figures += measure(job, arguments.rows, runners, port)
    shutil.rmtree(WORK)
    print(json.dumps(figures))
    return None


def measure(job: str, rows: int, runners: list[str], port: int) -> Iterator[dict[str, Any]]:
    """The figures of one job."""
    rows *= TIMES[job]
    for name in ("a", "b"):
        prepare(job, WORK / job / name, rows, port)

    def run(*asked: tuple[str, str, int]) -> list[dict[str, float]]:
        for folder, _, _ in asked:
            _forget(job, WORK / job / folder)
        return _side_by_side([(job, WORK / job / folder, runner, workers) for folder, runner, workers in asked], port)

    (single,) = run(("a", "local", 1))
    together = run(("a", "local", 1), ("b", "local", 1))
    ideal = sum(rows / one["seconds"] for one in together)
    _say(job, "1 worker", rows, single)
    print(f"{job:9} two runs of 1 worker at once: {ideal:7.1f} rows/s")
    for runner in runners:
        (double,) = run(("a", runner, 2))
        _say(job, f"2 workers, {runner}", rows, double)
        rate = rows / double["seconds"]
        yield {
            "figure": f"scale, {job}: rows/s with 2 workers, {runner}",
            "value": round(rate, 1),
            "peer": round(ideal, 1),
            "ratio": round(rate / ideal, 3),
            "one_worker": round(rows / single["seconds"], 1),
            "peak_mb": double["peak_mb"],
            "cpu": double["cpu"],
            "cpu_one_worker": single["cpu"],
            "goal": 0.9 if runner == "local" else None,
            "ok": runner != "local" or rate >= 0.9 * ideal,
        }


def prepare(job: str, folder: Path, rows: int, port: int) -> None:
    """What the job reads."""
    pictures = [picture(number) for number in range(DISTINCT)]
    if job == "import":
        (folder / "pictures").mkdir(parents=True)
        for number in range(rows):
            (folder / "pictures" / f"{number:07d}.jpg").write_bytes(pictures[number % DISTINCT])
    elif job == "download":
        urls = [{"key": str(number), "url": f"http://127.0.0.1:{port}/{number}.jpg"} for number in range(rows)]
        write_dataset(folder / "data", "images", _tables(urls, BASE["images"]))
    else:
        schema = pa.schema([*BASE["images"], *STORED_IMAGE])
        known = {"width": 512, "height": 400} if job == "mix" else {}
        photos = (
            {
                "key": str(number),
                "image": {"bytes": pictures[number % DISTINCT], "path": None},
                "alt_text": " and ".join(f"thing {number % other}" for other in range(7, 40)),
                **known,
            }
            for number in range(rows)
        )
        write_dataset(folder / "data", "images", _tables(photos, schema))


def _tables(rows: Any, schema: pa.Schema) -> Iterator[pa.Table]:
    part: list[dict] = []
    for row in rows:
        part.append(row)
        if len(part) == FRAGMENT_ROWS:
            yield pa.Table.from_pylist(part, schema)
            part = []
    if part:
        yield pa.Table.from_pylist(part, schema)


def _forget(job: str, folder: Path) -> None:
    """Remove what an earlier run of the job made."""
    for made in ("imported", "mixed"):
        shutil.rmtree(folder / made, ignore_errors=True)
    if job in ("hash", "download"):
        data = folder / "data"
        for path in [*data.glob("manifest-*.json")]:
            if path.name != "manifest-000001.json":
                path.unlink()
        for path in [*data.glob("fragments/*/*.arrow")]:
            if not path.name.startswith("base."):
                path.unlink()
        shutil.rmtree(data / "runs", ignore_errors=True)


def _alone(folder: Path, runner: str, workers: int, port: int) -> dict[str, float]:
    return _side_by_side([("fragments", folder, runner, workers)], port)[0]


def _run(job: str, folder: Path, runner: Runner, port: int) -> RunSummary | None:
    if job == "fragments":
        return fragments.run(folder, runner)
    if job == "import":
        from pipelines.importers.image_folder import ImageFolder, ImageFolderConfig

        config = ImageFolderConfig(path=str(folder / "pictures"), rows_per_slice=FRAGMENT_ROWS)
        return run_import(ImageFolder(config), folder / "imported", runner)
    if job == "hash":
        from pipelines.dedupe.keys import DedupeConfig, DedupeKeys

        return run_step(DedupeKeys(DedupeConfig()), folder / "data", runner)
    if job == "download":
        from pipelines.download import Download, DownloadConfig

        options = {"image_size": 336, "resize_mode": "keep_ratio", "respect_robots_txt": False, "host_limit": 64}
        config = DownloadConfig(**options, allow_private_hosts=["127.0.0.1"])
        return run_step(Download(config), folder / "data", runner)
    from pipelines.mix import MixRecipe, MixSource, run_mix

    source = MixSource(captions="alt_text", images=str(folder / "data"))
    image = {"mode": "pad", "image_size": 336, "patch_size": 14}
    recipe = MixRecipe(sources={"s": source}, tokenizer=str(TOKENIZER), template="v1", image=image)
    return run_mix(recipe, folder / "mixed", runner)


def _one(job: str, folder: str, runner: str, workers: str, port: int) -> None:
    """One run in a process of its own: waits for the sign to start, prints its seconds."""
    sys.stdin.readline()
    started = time.perf_counter()
    _run(job, Path(folder), Runner(runner, int(workers)), port)
    print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)
    sys.stdin.readline()  # so that its processor time can still be read


def _side_by_side(runs: list[tuple[str, Path, str, int]], port: int) -> list[dict[str, float]]:
    command = [sys.executable, "-m", "bench.scale", "--port", str(port), "--one"]
    started = [
        subprocess.Popen(
            [*command, job, str(folder), runner, str(workers)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for job, folder, runner, workers in runs
    ]
    time.sleep(3)  # imports done
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return _watched(started)


def _watched(started: list[subprocess.Popen]) -> list[dict[str, float]]:
    """Seconds, CPU seconds and peak memory of each run, with all its processes."""
    peaks, cpu = [0.0] * len(started), [dict[int, float]() for _ in started]
    lines: list[str] = [""] * len(started)
    while not all(lines):
        for place, process in enumerate(started):
            if not lines[place] and _readable(process):
                assert process.stdout is not None
                lines[place] = process.stdout.readline() or "{}"
            peaks[place] = max(peaks[place], _look(process.pid, cpu[place]))
        time.sleep(0.1)
    for process in started:
        process.communicate("done\n")
    return [
        {**json.loads(line), "peak_mb": round(peak), "cpu": round(sum(spent.values()), 1)}
        for line, peak, spent in zip(lines, peaks, cpu, strict=True)
    ]


def _look(pid: int, cpu: dict[int, float]) -> float:
    """Resident MB of a process and its descendants now; notes what CPU seconds each has used."""
    total = 0.0
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        try:
            times = process.cpu_times()
            total += process.memory_info().rss / 1e6
            cpu[process.pid] = times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return total


def _readable(process: subprocess.Popen) -> bool:
    import select

    return bool(select.select([process.stdout], [], [], 0)[0])


@contextmanager
def _server() -> Iterator[int]:
    from bench.downloading.materials import make

    make(WORK / "web", DISTINCT)
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.downloading.server", str(WORK / "web")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["http"]
    finally:
        process.terminate()
        process.wait()


def _say(job: str, how: str, rows: int, one: dict[str, float]) -> None:
    rate = rows / one["seconds"]
    print(f"{job:9} {how:16} {rate:7.1f} rows/s, {one['cpu']:6.1f} s CPU, peak {one['peak_mb']:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
