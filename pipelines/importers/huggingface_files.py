"""The files of a Hugging Face dataset on disk: a `save_to_disk` folder, a folder of Parquet files, or any such files.

Only the storage is read, so neither the library nor the hub is needed. Every file gets a name that does not depend on
where the dataset is: rows are called by it and by their number in the file.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, TypeVar

import fsspec
from pydantic import Field

from pipelines.engine.step import Config, Later, Runtime
from pipelines.importers.arrow import ArrowSource
from pipelines.importers.base import ROWS_PER_SLICE, Importer, Slice, cut_weighted, digest
from pipelines.importers.cells import holds_pictures, is_list, without_bytes
from pipelines.importers.files import expand, reading
from pipelines.importers.json_source import JsonSource
from pipelines.importers.mapping import check_key
from pipelines.importers.parquet import ParquetSource
from schemas.config import nearest
from schemas.errors import InputError
from schemas.store import leads_outside
from schemas.streams import plain_suffix

ENDINGS = (".parquet", ".arrow", ".jsonl", ".json")
DataSource = ParquetSource | ArrowSource | JsonSource
PICTURES = ("image", "images")
"""Columns with pictures that are found by themselves; the first one counts."""
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}(?:-[0-9a-f]{16})?")


class HuggingFaceFilesConfig(Config):
    """Where the dataset is, and which of its columns has the pictures."""

    path: Annotated[str | list[str], Runtime()] = Field(
        description="a save_to_disk folder, a folder of parquet files, a parquet, arrow or jsonl file, several, or a "
        "pattern"
    )
    split: str | None = Field(None, description="the split of a folder with several")
    image: str | None = Field(None, description="the column with the pictures; by default image, else images")
    key_prefix: Annotated[str, Later()] = Field(
        "", description="prefix of every key, such as ai2d/, if files in several folders have the same name"
    )
    rows_per_slice: Annotated[int, Runtime()] = Field(ROWS_PER_SLICE, ge=1, description="rows per fragment")


F = TypeVar("F", bound=HuggingFaceFilesConfig)


@dataclass(frozen=True)
class DataFile:
    """A file, and what it is called in keys: its path in the dataset, without the ending."""

    path: str
    name: str

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def identity(self) -> bytes:
        """What tells whether it changed: hashing the bytes would cost more than the import."""
        fs, name = fsspec.core.url_to_fs(self.path)
        entry = fs.info(name)
        return f"{self.name} {entry['size']} {entry.get('etag') or entry.get('mtime')}".encode()


class HuggingFaceImporter(Importer[F]):
    """Rows of the files, in their order. A row is called `FILE/NUMBER`, or what the column mapped to `key` says."""

    located_by = ("path", "split")

    @abstractmethod
    def check(self, source: DataSource, file: DataFile) -> None:
        """Raises InputError for a file that this importer cannot read."""

    @abstractmethod
    def key_column(self, columns: Iterable[str]) -> str | None:
        """The column that is mapped to `key`, if one is."""

    @abstractmethod
    def sizes(self, source: DataSource) -> Iterable[int]:
        """How many rows each row of the file becomes."""

    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        remaining = [rows for rows in known if rows > 0]
        made: list[Slice] = []
        seen: set[str] = set()
        for file in self.files():
            source = opened(file.path)
            self.check(source, file)
            keys = self.key_column(source.columns)
            for number, key in enumerate(source.values(keys) if keys else ()):
                check_key(key, f"{file.path}, row {number}", seen)
            row = 0
            weighted = ((number, rows) for number, rows in enumerate(self.sizes(source)))
            for group, rows in cut_weighted(weighted, remaining[len(made) :], self.config.rows_per_slice):
                start = made[-1].start + made[-1].rows if made else 0
                content = digest(0, file.identity, f"{row}+{len(group)}".encode())
                location = {"path": file.path, "name": file.name, "row": row, "rows": len(group)}
                made.append(Slice(start, rows, content, location))
                row += len(group)
        return made

    def key(self, file: str, row: int, given: object = None) -> str:
        """`train-00000-of-00001/000000012`, or the row's own key."""
        return self.config.key_prefix + (str(given) if given not in (None, "") else f"{file}/{row:09d}")

    def picture_column(self, columns: Iterable[str]) -> str | None:
        """The column with pictures: the one that is configured, or one that is called so."""
        names = set(columns)
        wanted = PICTURES if self.config.image is None else (self.config.image,)
        return next((name for name in wanted if name in names), None)

    def check_pictures(self, source: DataSource, file: DataFile) -> None:
        """Raises InputError for a column of pictures that holds something else."""
        column = self.picture_column(source.columns)
        kind = source.schema.field(column).type if column else None
        if kind is not None and not holds_pictures(kind):
            raise InputError(
                f"{file.path}: the column {column!r} holds {kind!s:.200}; expected pictures as bytes, as structs of "
                "bytes and path, as text (base64, paths, addresses), or lists of those."
            )

    def files(self) -> list[DataFile]:
        """The files in order; raises InputError where there is none, or where two would give the same keys."""
        found = self._found()
        names: dict[str, str] = {}
        for file in found:
            if file.name in names:
                raise InputError(
                    f"{file.path}: {names[file.name]} has the same name in keys, {file.name!r}. Rename one."
                )
            names[file.name] = file.path
        return found

    def _found(self) -> list[DataFile]:
        path = self.config.path
        fs, root = fsspec.core.url_to_fs(path) if isinstance(path, str) else (None, "")
        if fs is None or not fs.isdir(root):
            paths = expand(path)
            return [DataFile(one, _named(one, _common(paths))) for one in paths]
        folder = str(path).rstrip("/")
        inside = folder
        if fs.exists(f"{root}/dataset_dict.json"):
            with reading(f"{folder}/dataset_dict.json", "a list of splits"):
                splits = [str(split) for split in json.loads(fs.cat_file(f"{root}/dataset_dict.json"))["splits"]]
            if self.config.split not in splits:
                raise InputError(f"{folder}: no split {self.config.split!r}. {nearest(str(self.config.split), splits)}")
            inside, root = f"{folder}/{self.config.split}", f"{root}/{self.config.split}"
        if fs.exists(f"{root}/state.json"):
            paths = [f"{inside}/{name}" for name in _saved(fs, inside, root)]
        else:
            paths = _below(fs, folder, root, self.config.split)
        return [DataFile(one, _named(one, folder)) for one in paths]


def opened(path: str) -> DataSource:
    """The file at `path`; a worker that reads slice after slice opens it once."""
    fs, name = fsspec.core.url_to_fs(path)
    entry = fs.info(name)
    return _opened(path, str(entry["size"]), str(entry.get("etag") or entry.get("mtime")))


@lru_cache(maxsize=2)
def _opened(path: str, size: str, changed: str) -> DataSource:
    format = plain_suffix(path).removeprefix(".").replace("ndjson", "jsonl")
    if format in ("json", "jsonl"):
        return JsonSource(path, format)
    return ParquetSource(path) if path.endswith(".parquet") else ArrowSource(path)


def rows_in(
    source: DataSource, row: int, rows: int, columns: Sequence[str], light: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """`rows` rows from number `row` on, with some columns; those in `light` have b"" for the bytes of pictures."""
    if isinstance(source, JsonSource):
        yield from source.dicts(row, rows, columns)
        return
    for batch in source.table(row, rows, columns, light).to_batches(max_chunksize=64):
        heavy = batch.select([name for name in batch.schema.names if name not in light]).to_pylist()
        cells = {name: without_bytes(batch.column(name)) for name in light}
        for number, values in enumerate(heavy):
            yield values | {name: cells[name][number] for name in light}


def picture_keys(key: str, count: int) -> list[str]:
    """The keys of the pictures in a cell with a list, whose row is called `key`."""
    return [f"{key}/{place}" for place in range(count)]


def rows_per_row(source: DataSource, column: str | None) -> Iterable[int]:
    """How many pictures each row has, at least one: a row without any keeps its place."""
    if column is None or not is_list(source.schema.field(column).type):
        return (1 for _ in range(source.rows))
    return (max(1, size) for size in source.sizes(column))


def _saved(fs: Any, folder: str, root: str) -> list[str]:
    """The files that the state of a saved dataset names."""
    with reading(f"{folder}/state.json", "the state of a saved dataset"):
        files = json.loads(fs.cat_file(f"{root}/state.json"))["_data_files"]
        names = [str(file["filename"]) for file in files]
    outside = next((name for name in names if leads_outside(name)), None)
    if outside is not None:
        raise InputError(f"{folder}/state.json: {outside!r} is not in this folder. Do not use this dataset.")
    return names


def _below(fs: Any, folder: str, root: str, split: str | None) -> list[str]:
    """The Parquet files in a folder and the folders in it; of several splits the one that is asked for."""
    inside = [str(one)[len(root.rstrip("/")) + 1 :] for one in sorted(fs.find(root))]
    inside = [one for one in inside if not any(part.startswith((".", "_")) for part in one.split("/"))]
    names = [one for one in inside if one.endswith(".parquet")]
    if not names:
        raise InputError(
            f"{folder}: not a `save_to_disk` dataset (state.json is missing), and no parquet file is below it. "
            f"Give a pattern such as {folder}/*.parquet or {folder}/*.arrow.{_other_importer(inside)}"
        )
    splits = {name: _split_of(name) for name in names}
    known = sorted({one for one in splits.values() if one})
    if split is not None:
        names = [name for name in names if splits[name] == split]
        if not names:
            raise InputError(f"{folder}: no split {split!r}. {nearest(split, known)}")
    elif len(known) > 1:
        raise InputError(f"{folder}: it has the splits {', '.join(known)}. Choose one with `split`, or give a pattern.")
    return [f"{folder}/{name}" for name in names]


def _other_importer(names: Sequence[str]) -> str:
    """Which importer reads the files that are there."""
    readers = {".tar": "webdataset", ".jsonl": "llava_json", ".json": "llava_json", ".csv": "url_list"}
    ending = next((ending for ending in readers if any(name.endswith(ending) for name in names)), None)
    return f" It holds {ending} files: `lavabeam import {readers[ending]}`." if ending else ""


def _split_of(name: str) -> str:
    """`data/train-00000-of-00002.parquet` -> train, as the hub names the files of a split."""
    found = _SHARD.fullmatch(name.rsplit("/", 1)[-1].rpartition(".")[0])
    return found[1] if found else ""


def _common(paths: Sequence[str]) -> str:
    """The deepest folder that all paths are in."""
    folders = [path.split("/")[:-1] for path in paths]
    depth = 0
    while all(len(folder) > depth and folder[depth] == folders[0][depth] for folder in folders):
        depth += 1
    return "/".join(folders[0][:depth])


def _named(path: str, folder: str) -> str:
    """The path below `folder`, without its ending."""
    below = path[len(folder) + 1 :] if folder and path.startswith(f"{folder}/") else path.lstrip("/")
    ending = next((ending for ending in ENDINGS if below.endswith(ending)), "")
    return below.removesuffix(ending)
