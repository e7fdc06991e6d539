"""Tar files of samples, a sample the files of one name: webdataset, and energon with its folder of metadata.

Layout: a sample's name ends at the first dot of its files' names, and its files are adjacent (webdataset's
documentation; energon's docs/source/basic/data_prep.md). Names are numbers: keys have dots and slashes.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any, ClassVar

from pipelines.exporters.base import Exporter, Facts, Item, LeftOut, Shard, Written
from pipelines.exporters.names import extension
from pipelines.exporters.source import Row
from pipelines.exporters.state import write_json, write_text
from schemas.chat.as_written import as_written
from schemas.errors import InputError
from schemas.pictures import PictureError

BLOCK = 512
"""Bytes of a tar's header, and what contents are padded to (POSIX ustar)."""

CAPTIONS = ("caption", "captions", "alt_text")
"""Columns of images that a sample's text is taken from: the first that has one."""


class WebDataset(Exporter):
    """`shard-000000.tar`, ...: `000000000.json` with the row, `000000000.jpg` with its picture, or `.0.jpg`, `.1.jpg`.

    A row of images has its caption in `.txt` too.
    """

    name = "webdataset"
    version = 1
    takes: ClassVar[tuple[str, ...]] = ("conversations", "samples", "images")
    shard_bytes = 1 << 30

    def shard_path(self, number: int) -> str:
        return f"shard-{number:06d}.tar"

    def open(self, path: Path) -> Shard:
        return _Tar(path)

    def item(self, row: Row, number: int) -> Item:
        try:
            endings = [extension(one.content) for one in row.pictures]
        except PictureError as error:
            raise LeftOut("picture_unreadable") from error
        if len(endings) > 1:
            endings = [f"{index}.{ending}" for index, ending in enumerate(endings)]
        files = [(f"{number:09d}.{ending}", one.content) for ending, one in zip(endings, row.pictures, strict=True)]
        if self.source.kind == "images":
            files.append((f"{number:09d}.txt", _caption(row.values).encode()))
        files.append((f"{number:09d}.json", _json(self._content(row, endings))))
        return Item(files, sum(BLOCK + -(-len(content) // BLOCK) * BLOCK for _, content in files))

    def notes(self) -> list[str]:
        return self.columns_note() if self.source.kind == "images" else []

    def _content(self, row: Row, endings: list[str]) -> dict[str, Any]:
        values = row.values
        if self.source.kind == "images":
            return {name: value for name, value in values.items() if value is not None}
        try:
            written = as_written(
                values["messages"], [one.name for one in row.pictures], row.key, values.get("id"), values.get("extra")
            )
        except InputError as error:
            raise LeftOut("cannot_encode") from error
        about = {"key": row.key, "kind": values.get("kind"), "source": values.get("source"), "pictures": endings}
        return {**written, "lavabeam": about}


class Energon(WebDataset):
    """webdataset's shards, and `.nv-meta` with a CrudeWebdataset: rows with any number of pictures, and with none.

    `energon prepare` adds the index: its format is energon's own.
    """

    name = "energon"
    version = 1
    takes = ("conversations", "samples")

    def finish(self, facts: Facts) -> list[Written]:
        folder = self.folder / ".nv-meta"
        folder.mkdir(exist_ok=True)
        write_text(folder / "dataset.yaml", "__module__: megatron.energon\n__class__: CrudeWebdataset\n")
        write_json(folder / ".info.json", {"shard_counts": {shard.path: shard.rows for shard in facts.shards}})
        names = [shard.path for shard in facts.shards]
        parts = {"train": names, "val": [], "test": []}
        listed = "".join(f"  {part}:{_yaml(found)}" for part, found in parts.items())
        write_text(folder / "split.yaml", f"exclude: []\nsplit_parts:\n{listed}")
        return list(facts.shards)


def _yaml(names: list[str]) -> str:
    return "".join(f"\n  - {name}" for name in names) + "\n" if names else " []\n"


class _Tar(Shard):
    """A tar whose headers say nothing of time and place."""

    def __init__(self, path: Path):
        self.tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed by `close`)

    def add(self, item: Item) -> None:
        for name, content in item.content:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = 0o644
            self.tar.addfile(info, io.BytesIO(content))

    def close(self) -> None:
        self.tar.close()


def _caption(values: dict[str, Any]) -> str:
    for name in CAPTIONS:
        found = values.get(name)
        if found:
            return str(found[0]) if isinstance(found, list) else str(found)
    return ""


def _json(value: dict[str, Any]) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, default=_plain).encode()
    except UnicodeEncodeError:  # half a surrogate pair, which only an escape can hold
        return json.dumps(value, default=_plain).encode()


def _plain(value: Any) -> str:
    """Values of columns that JSON has no type for: times as ISO text, bytes as hexadecimal digits."""
    return value.hex() if isinstance(value, bytes) else str(value)
