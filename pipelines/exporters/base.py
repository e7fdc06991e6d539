"""The format interface: rows become items, items are added to shards, plus optional metadata files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipelines.exporters.config import ExportConfig
from pipelines.exporters.source import Row, Source
from pipelines.exporters.tally import Tally


class LeftOut(Exception):
    """A row that the format cannot hold; its text is the reason that is counted."""


@dataclass(frozen=True)
class Item:
    """A row as a shard takes it, and how many bytes it adds to the shard, about. note: for `Exporter.added`."""

    content: Any
    size: int
    note: Any = None


@dataclass(frozen=True)
class Written:
    """A finished shard: its path below the export's folder, rows, bytes and sha256."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Facts:
    """What an export has come to, for the files written next to the shards."""

    shards: Sequence[Written]
    tally: Tally
    left_out: dict[str, int]


class Shard(ABC):
    """A file that grows by items."""

    @abstractmethod
    def add(self, item: Item) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Finish the file: its bytes are a function of its items alone."""


class Exporter(ABC):
    """A format. `folder` is the export's own; an export that goes on makes a new one with the `memory` of the old."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised when the same rows give other bytes."""
    takes: ClassVar[tuple[str, ...]] = ("conversations", "samples")
    """The schemas that it writes."""
    needs_pictures: ClassVar[bool] = True
    """Whether conversations that show pictures must come with them."""
    shard_bytes: ClassVar[int]
    """Bytes of a shard unless `shard_size` says otherwise."""

    def __init__(self, folder: Path, source: Source, config: ExportConfig, memory: dict[str, Any]):
        self.folder, self.source, self.config, self.memory = folder, source, config, memory

    @property
    def limit(self) -> int:
        """Bytes after which a shard is full."""
        return self.config.shard_size or self.shard_bytes

    @abstractmethod
    def shard_path(self, number: int) -> str:
        """Where shard `number` lies, below the folder."""

    @abstractmethod
    def open(self, path: Path) -> Shard: ...

    @abstractmethod
    def item(self, row: Row, number: int) -> Item:
        """The row as number `number` of those that are written. Raises LeftOut."""

    def added(self, row: Row, item: Item) -> None:  # noqa: B027 (most formats have nothing to do)
        """Told of each row whose item is in a shard: the place to change `memory`."""

    def finish(self, facts: Facts) -> list[Written]:
        """Write the files next to the shards, the same again when asked again. The files that hold the rows."""
        return list(facts.shards)

    def clean(self) -> None:  # noqa: B027 (likewise)
        """Remove what only an unfinished export needs."""

    def notes(self) -> list[str]:
        """What a user should know about the result."""
        return []

    def columns_note(self) -> list[str]:
        """A note about columns that are not written, for formats that write all columns."""
        if not (names := self.source.partial_columns):
            return []
        words = f"columns that only some fragments have were not written: {', '.join(names)}."
        return [f"{words} Run their step on the whole dataset first, if they are wanted."]
