"""Our engine on a list of URLs, in a process of its own. Prints one JSON line: CPU ms per image, peak MB, rows ok.

`python -m bench.downloading.ours keep|encode URLS_FILE THREADS [DATASET]`; with DATASET, as a whole run of the
pipeline that writes a dataset, in fragments of 1,000 rows.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from pipelines.download import Download, DownloadConfig
from pipelines.engine.runners import Runner
from pipelines.engine.step import Context
from pipelines.engine.work import run_step
from schemas import Dataset
from schemas.columnfile import write_column_file
from schemas.records import BASE
from schemas.store import Store
from schemas.writing import write_dataset

SIZE = 384


def main() -> None:
    mode, urls_file, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    urls = urls_file.read_text().split()
    step = Download(config(mode, threads))
    target = sys.argv[4] if len(sys.argv) > 4 else ""
    print(json.dumps(whole_run(step, urls, target) if target else one_fragment(step, urls)))


def config(mode: str, threads: int) -> DownloadConfig:
    resized = {"resize_mode": "keep_ratio", "image_size": SIZE, "skip_reencode": False}
    return DownloadConfig(
        thread_count=threads,
        host_limit=threads,
        allow_private_hosts=("localhost",),
        ca_file=os.environ.get("SSL_CERT_FILE"),
        decode_threads=1,
        **(resized if mode == "encode" else {}),
    )


def one_fragment(step: Download, urls: list[str]) -> dict:
    """Fetch, check, hash and write one column file; imports and set-up are outside the measurement."""
    from pipelines.download.pictures import single_threaded

    single_threaded()
    table = pa.table({"key": [str(number) for number in range(len(urls))], "url": urls})
    step.setup(Context(run="bench", dataset=""))
    with tempfile.TemporaryDirectory() as folder:
        before, started = cpu(), time.perf_counter()
        made = step.process_fragment(iter(table.to_batches(max_chunksize=64)))
        entry = write_column_file(
            Store(folder),
            "download.arrow",
            made,
            step.output_schema,
            "images",
            fingerprint="bench",
            status_column="download_status",
        )
        used, seconds = cpu() - before, time.perf_counter() - started
    step.teardown()
    return reported(entry.statuses.get("ok", 0), len(urls), used, seconds)


def whole_run(step: Download, urls: list[str], target: str) -> dict:
    shutil.rmtree(target, ignore_errors=True)
    keys = [f"{number:06d}" for number in range(len(urls))]
    rows = [{"key": key, "url": url} for key, url in zip(keys, urls, strict=True)]
    parts = [rows[start : start + 1000] for start in range(0, len(rows), 1000)]
    write_dataset(target, "images", [pa.Table.from_pylist(part, BASE["images"]) for part in parts])
    before, started = cpu(), time.perf_counter()
    run_step(step, target, Runner("local", 2))
    used, seconds = cpu() - before, time.perf_counter() - started
    ok = Dataset.open(target).manifest.statuses()["download"].get("ok", 0)
    shutil.rmtree(target)
    return reported(ok, len(urls), used, seconds)


def reported(ok: int, count: int, used: float, seconds: float) -> dict:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    # Pages of files are the kernel's to drop; what a process really holds is its anonymous memory.
    peak, now_files = int(status["VmHWM"].split()[0]), int(status["RssFile"].split()[0])
    return {
        "ok": ok,
        "count": count,
        "cpu_ms": round(1000 * used / count, 3),
        "seconds": round(seconds, 2),
        "peak_mb": round(peak / 1024, 1),
        "file_mb": round(now_files / 1024, 1),
    }


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
