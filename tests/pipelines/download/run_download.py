"""Run the step in a process of its own: {"urls", "options", "names", "files"} on stdin, rows and peak memory on stdout.

`names` are host names with the addresses that the system's resolver is to answer, one list per look-up; `files` is how
many files the process may have open.
"""

from __future__ import annotations

import json
import resource
import socket
import sys
from pathlib import Path

import pyarrow as pa

from pipelines.download.config import DownloadConfig
from pipelines.download.step import Download
from pipelines.engine.step import Context

_system = socket.getaddrinfo


def main() -> None:
    task = json.load(sys.stdin)
    _answer_names(task.get("names", {}))
    if task.get("files"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (task["files"], task["files"]))
    step, context = Download(DownloadConfig(**task["options"])), Context(run="test", dataset="none")
    keys = [str(number) for number in range(len(task["urls"]))]
    table = pa.table({"key": keys, "url": pa.array(task["urls"], pa.string())})
    step.setup(context)
    rows = []
    with context.task() as events:
        made = list(step.process_fragment(iter(table.to_batches(max_chunksize=64))))
    for batch in made:
        rows += [{**row, "image": len(row["image"]["bytes"]) if row["image"] else 0} for row in batch.to_pylist()]
    step.teardown()
    json.dump({"rows": rows, "peak_mb": peak_mb(), "log": events}, sys.stdout)


def peak_mb() -> float:
    """Peak resident memory of this process alone: getrusage also counts what its parent had when it was started."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _answer_names(names: dict[str, list[list[str]]]) -> None:
    def answer(host, port, *arguments, **options):
        if host not in names:
            return _system(host, port, *arguments, **options)
        addresses = names[host].pop(0) if len(names[host]) > 1 else names[host][0]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [info for address in addresses for info in _system(address, port, type=socket.SOCK_STREAM)]

    socket.getaddrinfo = answer


if __name__ == "__main__":
    main()
