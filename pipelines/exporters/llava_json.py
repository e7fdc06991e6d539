"""LLaVA's JSON: a list of `{id, image, conversations}`, and a folder with the pictures under the names in `image`.

An imported row is written as it was (schemas/chat/as_written.py). Rows are collected in parts of JSON lines, which
become one list in the end, so that a killed export resumes at its last part.
"""

from __future__ import annotations

import json
import posixpath
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.exporters.base import Exporter, Facts, Item, LeftOut, Shard, Written
from pipelines.exporters.names import PictureFolder, extended
from pipelines.exporters.source import Row
from pipelines.exporters.state import finished_shard
from schemas.chat.as_written import as_written
from schemas.errors import InputError

PARTS = ".parts"
IMAGES = "images"
PART_BYTES = 16 << 20
"""JSON of a part: what a killed export writes again at most."""
LISTED = 20
"""Pictures with another name that export.json lists."""


class LlavaJson(Exporter):
    """`llava.json`, or `llava-00000.json`, ... with `shard_size`, and `images/`."""

    name = "llava_json"
    version = 1
    needs_pictures = False
    shard_bytes = PART_BYTES

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.pictures = PictureFolder(self.folder / IMAGES)
        self.copies = self.source.kind == "samples" or self.source.images is not None

    @property
    def limit(self) -> int:
        return min(PART_BYTES, self.config.shard_size or PART_BYTES)

    def shard_path(self, number: int) -> str:
        return f"{PARTS}/{number:06d}.jsonl"

    def open(self, path: Path) -> Shard:
        return _Lines(path)

    def item(self, row: Row, number: int) -> Item:
        values = row.values
        names = [one.name for one in row.pictures]
        try:
            written = as_written(values["messages"], names, row.key, values.get("id"), values.get("extra"))
        except InputError as error:
            raise LeftOut("cannot_encode") from error
        renamed: list[dict[str, str]] = []
        if self.copies and names:
            placed = [self._place(row, index, renamed) for index in range(len(names))]
            _name(written, placed)
        line = json.dumps(written, ensure_ascii=False)
        try:
            content = line.encode()
        except UnicodeEncodeError:  # half a surrogate pair, which only an escape can hold
            content = json.dumps(written).encode()
        return Item(content, len(content) + 2, renamed)

    def added(self, row: Row, item: Item) -> None:
        self.memory["pictures"] = self.memory.get("pictures", 0) + len(row.pictures)
        self.memory["renamed"] = self.memory.get("renamed", 0) + len(item.note)
        listed = self.memory.setdefault("examples", [])
        listed += item.note[: LISTED - len(listed)]

    def _place(self, row: Row, index: int, renamed: list[dict[str, str]]) -> str:
        """Where the picture lies now; one that no JSON named gets the ending of what it is."""
        picture = row.pictures[index]
        as_is = picture.is_named and row.values.get("extra") is not None and not _is_address(picture.name)
        wanted = picture.name if as_is else extended(picture.name, picture.content)
        placed = self.pictures.place(wanted, picture.content)
        if not _finds(wanted, placed):
            renamed.append({"row": row.key, "picture": picture.name, "file": placed})
        return placed

    def finish(self, facts: Facts) -> list[Written]:
        if self.config.shard_size is None:
            return [self._join(facts.shards, "llava.json")]
        groups = list(_groups(facts.shards, self.config.shard_size))
        return [self._join(parts, f"llava-{number:05d}.json") for number, parts in enumerate(groups)]

    def _join(self, parts: Sequence[Written], name: str) -> Written:
        """Parts of JSON lines as one JSON list, a row a line."""
        partial = self.folder / f".{name}.partial"
        with partial.open("wb") as file:
            file.write(b"[")
            for number, line in enumerate(_lines([self.folder / part.path for part in parts])):
                file.write((b",\n" if number else b"\n") + line)
            file.write(b"\n]\n")
        partial.replace(self.folder / name)
        return finished_shard(self.folder, name, sum(part.rows for part in parts))

    def clean(self) -> None:
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)

    def notes(self) -> list[str]:
        found = []
        if renamed := self.memory.get("renamed"):
            first = self.memory["examples"][0]
            found.append(
                f"{renamed} pictures were renamed, because their name was outside the folder, a URL, or already taken; "
                "their rows have the new name. The first: "
                f"{first['picture']!r} is now {first['file']!r}; export.json lists up to {LISTED}."
            )
        if not self.copies and self.memory.get("pictures"):
            found.append("pictures were not copied: --images DATASET writes them next to the JSON.")
        return found


class _Lines(Shard):
    def __init__(self, path: Path):
        self.file = path.open("wb")

    def add(self, item: Item) -> None:
        self.file.write(item.content + b"\n")

    def close(self) -> None:
        self.file.close()


def _name(row: dict[str, Any], placed: list[str]) -> None:
    """Let `row` name the pictures as they lie: as it was written where that finds them."""
    key = next(one for one in ("image", "images") if row.get(one))
    written = row[key] if isinstance(row[key], list) else [row[key]]
    if not all(isinstance(one, str) and _finds(one, file) for one, file in zip(written, placed, strict=True)):
        row[key] = list(placed) if isinstance(row[key], list) else placed[0]


def _finds(name: str, file: str) -> bool:
    """Whether readers who take `name` for a path in the folder open `file`. An address they would fetch."""
    return posixpath.normpath(name) == file and not _is_address(name)


def _is_address(name: str) -> bool:
    return "://" in name


def _groups(parts: Sequence[Written], limit: int) -> Iterator[list[Written]]:
    """Consecutive parts that stay within `limit` bytes together, at least one."""
    group: list[Written] = []
    for part in parts:
        if group and sum(one.bytes for one in group) + part.bytes > limit:
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def _lines(parts: list[Path]) -> Iterator[bytes]:
    for part in parts:
        with part.open("rb") as file:
            for line in file:
                yield line.rstrip(b"\n")
