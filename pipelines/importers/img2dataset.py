"""Import what img2dataset wrote, as it is: its webdataset, parquet, files and arrow outputs.

A shard is `00012.parquet` with a row per URL, failed ones included, and the pictures beside it: in `00012.tar`, in the
folder `00012/`, or in a column of the same file. `00012.arrow` is such a file with a column of pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any

import fsspec
import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Config, Later, Runtime
from pipelines.importers.arrow import ArrowSource
from pipelines.importers.base import ROWS_PER_SLICE, Importer, ImportStatus, Slice, digest
from pipelines.importers.boxes import BoxUnit
from pipelines.importers.huggingface import Target
from pipelines.importers.mapping import image_row, match
from pipelines.importers.parquet import ParquetSource
from pipelines.importers.stored import stored_row, stored_table
from pipelines.importers.tars import whole_members
from schemas.errors import InputError

FORMATS = ("jpg", "png", "webp")
"""img2dataset's encode_format: the name of its column, and the ending of its files."""

GetPicture = Callable[[dict[str, Any]], bytes | None]


class Img2datasetConfig(Config):
    """Where the output folder is and what its columns mean."""

    path: Annotated[str, Runtime()] = Field(description="the output_folder of img2dataset; any fsspec location")
    columns: dict[Target, str] = Field(
        {}, description="mapping of our column to img2dataset's column, if the names differ"
    )
    boxes: Annotated[BoxUnit | None, Later()] = Field(
        None, description="what the four numbers of a box are; pixels are those of the picture before it was resized"
    )
    source: str | None = Field(None, description="value of `source` if a row has none")
    license: str | None = Field(None, description="value of `license` if a row has none")
    rows_per_slice: Annotated[int, Runtime()] = Field(ROWS_PER_SLICE, ge=1, description="rows per fragment, at most")


class Img2dataset(Importer[Img2datasetConfig]):
    """One row per row of img2dataset, in its order, with its keys. A URL that it failed to fetch keeps its row.

    `sha256` is img2dataset's where it computed one: of the bytes as received, as the `download` step's.
    """

    name = "img2dataset"
    version = 2
    makes = "images"
    Config = Img2datasetConfig

    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        """Shards never change once written and new ones sort after them, so they alone decide where to cut."""
        made: list[Slice] = []
        for path in _shards(self.config.path):
            source, beside = _source(path), _beside(path)
            for row in range(0, source.rows, self.config.rows_per_slice):
                rows = min(self.config.rows_per_slice, source.rows - row)
                start = made[-1].start + made[-1].rows if made else 0
                location = {"path": path, "row": row}
                made.append(
                    Slice(
                        start, rows, digest(0, _stem(path).encode(), beside, *_identity_of(source, row, rows)), location
                    )
                )
        return made

    def rows(self, slice: Slice) -> pa.Table:
        path = slice.location["path"]
        picture = _pictures(path)
        values = _source(path).read(slice.location["row"], slice.rows)
        return stored_table([self._row(row, picture) for row in values])

    def _row(self, values: dict[str, Any], picture: GetPicture) -> dict[str, Any]:
        hashed = values.pop("sha256", None)
        row = image_row(values, match(self.config.columns, values), False, boxes=self.config.boxes)
        row["key"], row["source"] = str(values["key"]), row.get("source") or self.config.source
        row["license"] = row.get("license") or self.config.license
        if values.get("status") != "success":
            cause = values.get("error_message") or values.get("status") or "no reason given"
            return row | {"import_status": ImportStatus.no_image, "import_detail": f"img2dataset: {cause}"}
        stored = stored_row(picture(values), row["key"])
        if stored["import_status"] == ImportStatus.ok:
            stored["sha256"] = hashed or stored["sha256"]
            stored.pop("import_status")
        return row | stored


def _shards(folder: str) -> list[str]:
    """The table of every shard, sorted; raises InputError when the folder holds none that is read here."""
    fs, root = fsspec.core.url_to_fs(folder)
    if not fs.isdir(root):
        raise InputError(f"{folder}: no such folder. Give the output_folder of img2dataset.")
    names = [entry.rsplit("/", 1)[-1] for entry in fs.ls(root, detail=False)]
    tables = sorted(name for name in names if name.endswith((".parquet", ".arrow")) and not name.startswith("_"))
    if not tables:
        other = ""
        if any(".tfrecord" in name for name in names):
            other = " It holds tfrecord files, which cannot be read."
        elif any(name.endswith(".tar") for name in names):
            other = f" It holds only tar files: `lavabeam import webdataset --path '{folder.rstrip('/')}/*.tar'`."
        raise InputError(
            f"{folder}: no img2dataset shard (00000.parquet or 00000.arrow) here. "
            f"Its outputs webdataset, parquet, files and arrow are read.{other}"
        )
    stems = {name.rpartition(".")[0] for name in tables}
    lone = sorted(name for name in names if name.endswith(".tar") and name.removesuffix(".tar") not in stems)
    if lone:
        raise InputError(
            f"{folder}: {lone[0]} has no table {lone[0].removesuffix('.tar')}.parquet beside it ({len(lone)} such "
            "archives): img2dataset is still writing it, or was stopped. Rerun it with the same options to fetch the "
            "rest, or remove the archive."
        )
    return [f"{folder.rstrip('/')}/{name}" for name in tables]


def _source(path: str) -> ParquetSource | ArrowSource:
    source = ArrowSource(path) if path.endswith(".arrow") else ParquetSource(path)
    missing = {"key", "url", "status"} - set(source.columns)
    if missing:
        raise InputError(f"{path}: not written by img2dataset, the columns {sorted(missing)} are missing.")
    return source


def _identity_of(source: ParquetSource | ArrowSource, row: int, rows: int) -> Iterator[bytes]:
    """What tells whether these rows changed."""
    if isinstance(source, ParquetSource):
        yield from source.digests(row, rows)
    else:
        yield f"{row}+{rows}".encode()
        for values in source.read(row, rows):
            yield f"{values['key']} {values['status']} {values.get('sha256')}".encode()


def _beside(path: str) -> bytes:
    """The size of the archive beside a table: another one means other pictures."""
    fs, name = fsspec.core.url_to_fs(_stem_path(path) + ".tar")
    return str(fs.size(name)).encode() if fs.exists(name) else b""


def _pictures(path: str) -> GetPicture:
    """How a row's picture is found; raises InputError when the shard has none beside or inside it."""
    columns = _source(path).columns
    inside = next((name for name in FORMATS if name in columns), None)
    if inside:
        return lambda values: values.get(inside)
    stem = _stem_path(path)
    fs, root = fsspec.core.url_to_fs(stem)
    if fs.exists(root + ".tar"):
        return lambda values: _member(stem + ".tar", str(values["key"]))
    if fs.isdir(root):
        return lambda values: _file(fs, f"{root}/{values['key']}")
    raise InputError(
        f"{path}: its pictures are missing. Expected {_stem(path)}.tar or the folder {_stem(path)}/ beside it, "
        f"or a column named {', '.join(FORMATS)} in it."
    )


def _file(fs: fsspec.AbstractFileSystem, name: str) -> bytes | None:
    return next((fs.cat_file(f"{name}.{ending}") for ending in FORMATS if fs.exists(f"{name}.{ending}")), None)


def _member(path: str, key: str) -> bytes | None:
    span = _members(path).get(key)
    if span is None:
        return None
    with fsspec.open(path, "rb") as file:
        file.seek(span[0])
        return file.read(span[1])


@lru_cache(maxsize=4)
def _members(path: str) -> dict[str, tuple[int, int]]:
    """Key -> (offset, bytes) of every picture of an archive, from its headers alone."""
    named = ((member.name.rpartition("."), member) for member in whole_members(path))
    return {stem: (member.offset_data, member.size) for (stem, _, end), member in named if end in FORMATS}


def _stem_path(path: str) -> str:
    return path.rpartition(".")[0]


def _stem(path: str) -> str:
    return _stem_path(path).rsplit("/", 1)[-1]
