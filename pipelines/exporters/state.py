"""The state of an export between shards, so that the same command resumes after a kill."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.exporters.base import Written
from schemas.errors import CorruptError, InputError
from schemas.store import in_our_words

DONE = "export.json"
UNFINISHED = ".lavabeam-export.json"
LOCK = ".lavabeam-export.lock"
FORMAT = 1


@dataclass
class State:
    """Everything before `position` is in finished shards, or counted as left out."""

    identity: dict[str, Any]
    position: int = 0
    """Rows of the dataset that were looked at."""
    shards: list[Written] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    tally: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    """The exporter's own."""

    @property
    def written(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def save(self, folder: Path) -> None:
        write_json(folder / UNFINISHED, asdict(self))


def load(folder: Path, identity: dict[str, Any]) -> tuple[State, bool]:
    """The state of an export in `folder`, and whether it is finished.

    Raises InputError where `folder` holds something else, CorruptError where shards are missing or of another length.
    """
    for name, finished in ((DONE, True), (UNFINISHED, False)):
        path = folder / name
        if path.exists():
            state = _read(path, identity)
            _check_shards(folder, state)
            return state, finished
    others = sorted(path.name for path in folder.iterdir() if path.name != LOCK) if folder.is_dir() else []
    if others:
        raise InputError(f"{folder}: not empty ({others[0]}). Give a new or empty folder.")
    return State(identity), False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other exports out of `folder`, which is made, until the block ends. Raises InputError while one is there."""
    with in_our_words(str(folder)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:
            raise InputError(f"{folder}: cannot create the folder ({error.strerror}). Name another one.") from error
        handle = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise InputError(f"{folder}: another export is writing here. Wait for it, or give another folder.") from error
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        os.close(handle)


def finished_shard(folder: Path, path: str, rows: int) -> Written:
    """The entry of a file that is finished."""
    with open(folder / path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Written(path, rows, (folder / path).stat().st_size, digest)


def write_json(path: Path, value: Any) -> None:
    """Write a small file whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _read(path: Path, identity: dict[str, Any]) -> State:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        shards = [Written(**one) for one in kept["shards"]]
        names = ("position", "left_out", "tally", "memory")
        state = State(kept["identity"], shards=shards, **{name: kept[name] for name in names})
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(
            f"{path}: not what an export writes ({error}). Delete the folder, and export again."
        ) from error
    if state.identity != identity:
        differ = [name for name in identity if state.identity.get(name) != identity[name]]
        found = ", ".join(f"{name} {state.identity.get(name)!r} (now {identity[name]!r})" for name in differ)
        raise InputError(
            f"{path.parent}: the export here is another one: {found}. Name a new folder, or delete this one."
        )
    return state


def _check_shards(folder: Path, state: State) -> None:
    for shard in state.shards:
        path = folder / shard.path
        found = path.stat().st_size if path.exists() else None
        if found != shard.bytes:
            raise CorruptError(
                f"{path}: {'missing' if found is None else f'{found} bytes'}; the export wrote {shard.bytes}. Delete "
                "the folder; export again.",
                kind="missing" if found is None else "cut",
            )
