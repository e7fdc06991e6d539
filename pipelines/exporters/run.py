"""Runs an export from the first row to the metadata files: one pass over the rows, one open shard.

A shard is finished under its final name, then the state says so; what was begun and not finished is written again. The
same rows and options give the same bytes, killed on the way or not.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.engine.counting import Done
from pipelines.engine.progress import LIVE, Progress
from pipelines.exporters.base import Exporter, Facts, Item, LeftOut, Shard
from pipelines.exporters.config import ExportConfig
from pipelines.exporters.source import Row, Source
from pipelines.exporters.state import DONE, FORMAT, UNFINISHED, State, finished_shard, load, locked, write_json
from pipelines.exporters.tally import Tally
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.store import in_our_words

REPORTED_ROWS = 64


@dataclass(frozen=True)
class ExportSummary:
    """What an export came to. `left_out`: reason -> rows that are not in it. `made`: shards of this run."""

    dataset: str
    folder: str
    to: str
    rows: int
    exported: int
    left_out: dict[str, int]
    files: list[str]
    bytes: int
    made: int
    reused: int
    notes: tuple[str, ...] = ()


def run_export(dataset: str, config: ExportConfig, folder: str | Path) -> ExportSummary:
    """Write `dataset` into the local `folder`, or finish what an earlier call began there.

    Raises InputError for a dataset, option or folder that does not fit, before anything is written.
    """
    if "://" in str(folder):
        raise InputError(f"{folder}: an export is written into a local folder. Name one, and copy it from there.")
    source, kind, target = Source(dataset, config), exporter_of(config.to), Path(folder)
    own = Path(source.dataset.path).resolve()
    if "://" not in source.dataset.path and target.resolve().is_relative_to(own):
        raise InputError(f"{folder}: it is inside the exported dataset, {dataset}. Give a folder outside it.")
    _check(source, kind, config)
    identity = _identity(source, kind, config)
    with locked(target), in_our_words(str(target)):
        state, finished = load(target, identity)
        exporter = kind(target, source, config, state.memory)
        reused = len(state.shards)
        if not finished:
            state.save(target)  # from now on the folder is ours
            _Walk(source, exporter, state, target).run()
            made = len(state.shards) - reused
            state.shards = exporter.finish(Facts(state.shards, Tally(state.tally), state.left_out))
            write_json(target / DONE, asdict(state))
        else:
            made = 0
        (target / UNFINISHED).unlink(missing_ok=True)
        exporter.clean()
    counts = source.rows, state.written, dict(state.left_out)
    files, size = [one.path for one in state.shards], sum(one.bytes for one in state.shards)
    return ExportSummary(dataset, str(folder), config.to, *counts, files, size, made, reused, tuple(exporter.notes()))


def exporter_of(name: str) -> type[Exporter]:
    if name == "llava_json":
        from pipelines.exporters.llava_json import LlavaJson

        return LlavaJson
    if name == "parquet":
        from pipelines.exporters.parquet import Parquet

        return Parquet
    from pipelines.exporters.tars import Energon, WebDataset

    return WebDataset if name == "webdataset" else Energon


class _Walk:
    """The rows that no finished shard has yet, into shards."""

    def __init__(self, source: Source, exporter: Exporter, state: State, folder: Path):
        self.source, self.exporter, self.state, self.folder = source, exporter, state, folder
        self.left_out, self.tally = Counter[str](state.left_out), Tally(state.tally)
        self.position, self.written = state.position, state.written
        self.shard: Shard | None = None
        self.size = self.rows = 0

    def run(self) -> None:
        run = f"export-{os.getpid()}"
        with Progress("export", self.source.rows - self.position, self.source.dataset.store, run, live=True):
            for row in _counted(self.source.read(self.position), run):
                self._take(row)
        self._close()

    def _take(self, row: Row) -> None:
        reason = None if self.source.config.left_out else row.reason
        if reason is None:
            try:
                item = self.exporter.item(row, self.written)
            except LeftOut as error:
                reason = str(error)
            else:
                if self.rows and self.size + item.size > self.exporter.limit:
                    self._close()  # before the row is counted: the next shard begins with it
                self._add(item)
                self.exporter.added(row, item)
                self.tally.add(row)
                self.written += 1
        if reason is not None:
            self.left_out[reason] += 1
        self.position += 1

    def _add(self, item: Item) -> None:
        if self.shard is None:
            path = self.folder / self.exporter.shard_path(len(self.state.shards))
            path.parent.mkdir(parents=True, exist_ok=True)
            self.shard = self.exporter.open(_partial(path))
        self.shard.add(item)
        self.size += item.size
        self.rows += 1

    def _close(self) -> None:
        """Finish the open shard; whatever was looked at so far is then behind us."""
        if self.shard is not None:
            self.shard.close()
            name = self.exporter.shard_path(len(self.state.shards))
            os.replace(_partial(self.folder / name), self.folder / name)
            self.state.shards.append(finished_shard(self.folder, name, self.rows))
        self.shard, self.size, self.rows = None, 0, 0
        self.state.position, self.state.left_out = self.position, dict(sorted(self.left_out.items()))
        self.state.tally, self.state.memory = self.tally.to_json(), self.exporter.memory
        self.state.save(self.folder)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _counted(rows: Iterator[Row], run: str) -> Iterator[Row]:
    passed = 0
    for row in rows:
        yield row
        passed += 1
        if passed == REPORTED_ROWS:
            LIVE.add(run, Done(passed))
            passed = 0
    LIVE.add(run, Done(passed))


def _check(source: Source, kind: type[Exporter], config: ExportConfig) -> None:
    where = source.dataset.path
    if source.kind not in kind.takes:
        raise InputError(f"{where}: holds {source.kind}; {config.to} is written from {' or '.join(kind.takes)}.")
    if config.left_out and config.to != "parquet":
        raise InputError(
            f"--left-out: {config.to} has no place for a row's status. Export to parquet, or leave it out."
        )
    if source.kind == "images" and "image" not in source.dataset.columns:
        raise InputError(f"{where}: no column 'image' in all its fragments. Run `download` first.")
    if source.kind == "conversations" and source.images is None and kind.needs_pictures and _shows_pictures(source):
        raise InputError(
            f"{where}: its conversations show pictures, which are in another dataset. Name it: --images DATASET."
        )


def _shows_pictures(source: Source) -> bool:
    return any(
        any(batch.column(0).to_pylist())
        for fragment in source.dataset.fragments
        for batch in fragment.batches(["image_keys"], 4096)
    )


def _identity(source: Source, kind: type[Exporter], config: ExportConfig) -> dict[str, Any]:
    """What decides the bytes: the datasets' manifests, not where they lie, and the options."""

    def of(dataset: Dataset) -> dict[str, Any]:
        parent = dataset.as_parent()
        return {"name": Path(parent.path).name, "manifest": parent.manifest, "sha256": parent.sha256}

    return {
        "format": FORMAT,
        "exporter": f"{kind.name}/{kind.version}",
        "dataset": of(source.dataset),
        "images": of(source.images.dataset) if source.images else None,
        "options": config.model_dump(mode="json", exclude={"images", "to"}),
    }
