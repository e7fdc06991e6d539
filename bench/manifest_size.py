"""A manifest of 100k fragments x 5 column files (100M rows): time and private memory of what people do with it.

`python -m bench.manifest_size [--fragments 100000] [--files 5]`. Only the manifest is made, no column files. Each
measurement runs in a process of its own; seconds are CPU time of all its threads, memory is private dirty memory that
it adds. Goals: open 1 s and 250 MB, commit of one more column 5 s. Beside it, where it is small enough to wait for: the
same list as one JSON document (folder format 1), read with `json` alone.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from bench.dataset_open import figure, private_mb

WORK = Path(__file__).parent / "output" / "manifest_size"
NAMES = ("base", "download", "dedupe_keys", "dedupe", "caption", "score_size", "score_text", "judge")
ROWS = 1000
VERSION = "images/1.0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fragments", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=5, choices=range(1, len(NAMES)))
    parser.add_argument("--side", choices=SIDES)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(SIDES[arguments.side], arguments.fragments, arguments.files)))
        return
    size = f"{arguments.fragments} fragments x {arguments.files} files"
    shutil.rmtree(WORK, ignore_errors=True)
    found = {}
    for name in SIDES:
        found[name] = run(name, arguments.fragments, arguments.files)
        print(f"{name:28} {found[name]['cpu']:7.2f} s CPU {found[name]['private_mb']:6.0f} MB private", flush=True)
    stored = sum(path.stat().st_size for path in WORK.rglob("*") if path.is_file())
    head = (WORK / "photos" / "manifest-000002.json").stat().st_size
    print(f"{size}: a head of {head / 1e3:.0f} KB; {stored / 1e6:.0f} MB on disk, format 1 included")
    shutil.rmtree(WORK)
    peer = found["json (format 1) read"]
    goals = {"open": (1.0, 250.0), "show": (1.0, 250.0), "log": (1.0, 250.0), "commit one more column": (5.0, None)}
    figures = []
    for name, (cpu, memory) in goals.items():
        figures.append(figure(f"{name}, {size}, CPU s", found[name]["cpu"], peer["cpu"], cpu))
        if memory:
            figures.append(figure(f"{name}, {size}, private MB", found[name]["private_mb"], peer["private_mb"], memory))
    print(json.dumps(figures))


def run(side: str, fragments: int, files: int) -> dict:
    command = [sys.executable, "-m", "bench.manifest_size", "--side", side]
    command += ["--fragments", str(fragments), "--files", str(files)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, cwd=Path(__file__).parent.parent).stdout)


def measure(side: Callable[[int, int], Callable[[], object]], fragments: int, files: int) -> dict:
    """CPU seconds and private memory that the side's second part adds; its first part prepares."""
    work = side(fragments, files)
    before, started = private_mb(), time.process_time()
    kept = work()
    return {"cpu": time.process_time() - started, "private_mb": private_mb() - before, "kept": kept is not None}


def entry(fragment: int, place: int):
    from schemas.manifest import FileEntry

    name, word = NAMES[place], word_of(fragment, place)
    hosts = {f"host{fragment * other % 997}.com": {"ok": 90, "timeout": 10} for other in range(1, 11)}
    return FileEntry(
        path=f"fragments/{fragment_id(fragment)}/{name}.{word}.arrow",
        fingerprint=word * 4,
        plan=word * 4,
        inputs={"base": word_of(fragment, 0) * 4} if place else {},
        version=VERSION,
        columns=["key", "url", "image", "width"] if name == "base" else [f"{name}_status", f"{name}_detail", name],
        rows=ROWS,
        bytes=123_456_789,
        sha256=word * 4,
        statuses={"not_found": 50, "ok": 900, "timeout": 50},
        groups=hosts if name == "download" else {},
    )


def word_of(fragment: int, place: int) -> str:
    return f"{(fragment * len(NAMES) + place + 1) * 0x9E3779B97F4A7C15 % 2**64:016x}"


def fragment_id(fragment: int) -> str:
    return f"{fragment:04d}-{word_of(fragment, 0)[:8]}"


def listed(fragments: int, files: int) -> list:
    from schemas.manifest import FragmentEntry

    return [
        FragmentEntry(
            id=fragment_id(number), rows=ROWS, files={NAMES[place]: entry(number, place) for place in range(files)}
        )
        for number in range(fragments)
    ]


def first_commit(fragments: int, files: int) -> Callable[[], object]:
    from schemas.commit import Change, commit
    from schemas.store import Store

    change = Change(0, VERSION, fragments=listed(fragments, files))
    return lambda: commit(Store(WORK / "photos"), change)


def more_files(fragments: int, files: int) -> Callable[[], object]:
    from schemas.commit import Change, commit
    from schemas.store import Store

    made = {fragment_id(number): {NAMES[files]: entry(number, files)} for number in range(fragments)}
    return lambda: commit(Store(WORK / "photos"), Change(1, VERSION, files=made))


def append(fragments: int, files: int) -> Callable[[], object]:
    from schemas.commit import Change, commit
    from schemas.dataset import Dataset
    from schemas.manifest import FragmentEntry

    new = FragmentEntry(id=fragment_id(fragments), rows=ROWS, files={"base": entry(fragments, 0)})

    def work() -> object:
        opened = Dataset.open(WORK / "photos")
        change = Change(opened.manifest.number, VERSION, fragments=[*opened.manifest.fragments, new])
        return commit(opened.store, change)

    return work


def open_dataset(fragments: int, _: int) -> Callable[[], object]:
    from schemas.dataset import Dataset

    def work() -> object:
        opened = Dataset.open(WORK / "photos")
        return opened, opened.rows, opened.columns, opened.locate(fragments * ROWS // 2)

    return work


def one_fragment(fragments: int, _: int) -> Callable[[], object]:
    from schemas.dataset import Dataset

    opened = Dataset.open(WORK / "photos")
    return lambda: opened.fragments[fragments // 2].columns


def every_fragment(_: int, files: int) -> Callable[[], object]:
    from schemas.dataset import Dataset

    opened = Dataset.open(WORK / "photos")
    return lambda: sum(len(fragment.inputs(["key", f"{NAMES[files - 1]}_status"])) for fragment in opened.fragments)


def command(*arguments: str) -> Callable[[int, int], Callable[[], object]]:
    def prepare(_: int, __: int) -> Callable[[], object]:
        from lavabeam.cli.main import app

        def work() -> object:
            with redirect_stdout(io.StringIO()):
                return app(list(arguments), standalone_mode=False) or True

        return work

    return prepare


def json_document(fragments: int, files: int) -> Callable[[], object]:
    from dataclasses import asdict

    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "format1.json").open("w") as file:
        for number in range(0, fragments):
            one = {"id": fragment_id(number), "rows": ROWS}
            one["files"] = {NAMES[place]: asdict(entry(number, place)) for place in range(files)}
            file.write(("[" if not number else ",") + json.dumps(one, indent=1))
        file.write("]")
    return lambda: json.loads((WORK / "format1.json").read_text())


PHOTOS = str(WORK / "photos")
SIDES: dict[str, Callable[[int, int], Callable[[], object]]] = {
    "first commit": first_commit,
    "commit one more column": more_files,
    "open": open_dataset,
    "columns of one fragment": one_fragment,
    "inputs of every fragment": every_fragment,
    "show": command("show", PHOTOS),
    "log": command("log", PHOTOS),
    "files --step base": command("files", PHOTOS, "--step", "base"),
    "gc --dry-run": command("gc", PHOTOS, "--dry-run"),
    "append one fragment": append,
    "json (format 1) read": json_document,
}


if __name__ == "__main__":
    main()
