"""Import pictures out of Hugging Face datasets: a `save_to_disk` folder, or Arrow and Parquet files.

Only the storage is read (a picture is a struct of bytes and path), so neither the library nor the hub is needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

import fsspec
import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Config, Runtime
from pipelines.importers.arrow import ArrowSource
from pipelines.importers.base import ROWS_PER_SLICE, Importer, Slice, cut, digest
from pipelines.importers.files import expand, reading
from pipelines.importers.mapping import check_key, image_row, match
from pipelines.importers.parquet import ParquetSource
from pipelines.importers.stored import stored_row, stored_table
from schemas.config import nearest
from schemas.errors import InputError
from schemas.store import leads_outside

Target = Literal["key", "url", "alt_text", "captions", "boxes", "facts", "source", "license"]


class HuggingFaceConfig(Config):
    """Where the dataset is and what its columns mean."""

    path: Annotated[str, Runtime()] = Field(description="a save_to_disk folder, an arrow or parquet file, or a pattern")
    split: str | None = Field(None, description="of a folder with several")
    image: str = Field("image", description="the column with the picture")
    columns: dict[Target, str] = Field({}, description="our column: the dataset's column, where the names differ")
    source: str | None = Field(None, description="written into `source` where the dataset has no such column")
    license: str | None = Field(None, description="written into `license` where the dataset has no such column")
    rows_per_slice: Annotated[int, Runtime()] = Field(ROWS_PER_SLICE, ge=1, description="rows per fragment")


class HuggingFace(Importer[HuggingFaceConfig]):
    """Rows of the dataset with their pictures. Without a `key` column a row's key is its number.

    Whether a file changed is decided by its name, size and time of change, as for `image_folder`.
    """

    name = "huggingface"
    version = 2
    makes = "images"
    Config = HuggingFaceConfig
    located_by = ("path", "split")

    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        remaining = [rows for rows in known if rows > 0]
        made: list[Slice] = []
        seen: set[str] = set()
        for path in self._files():
            source = _opened(path)
            if self.config.image not in source.columns:
                raise InputError(
                    f"{path}: no column {self.config.image!r} with pictures. "
                    f"Columns found: {', '.join(source.columns)}. Say which one it is with `image`."
                )
            keys = match(self.config.columns, source.columns).get("key")
            for number, key in enumerate(source.values(keys) if keys else ()):
                check_key(key, f"{path}, row {number}", seen)
            row = 0
            for numbers in cut(range(source.rows), remaining[len(made) :], self.config.rows_per_slice):
                start = made[-1].start + made[-1].rows if made else 0
                content = digest(start, _identity_of(path), f"{row}+{len(numbers)}".encode())
                made.append(Slice(start, len(numbers), content, {"path": path, "row": row}))
                row += len(numbers)
        return made

    def rows(self, slice: Slice) -> pa.Table:
        found = _opened(slice.location["path"]).read(slice.location["row"], slice.rows)
        return stored_table([self._row(values, slice.first + index) for index, values in enumerate(found)])

    def _row(self, values: dict[str, Any], number: int) -> dict[str, Any]:
        image = values.pop(self.config.image)
        row = image_row(values, match(self.config.columns, values), needs_url=False)
        data, name = _bytes(image)
        picture = stored_row(data, name)
        if row["import_status"] != "ok" and picture["import_status"] == "ok":
            picture.pop("import_status")
        row |= picture
        row["key"] = row.get("key") or f"{number:09d}"
        row["source"] = row.get("source") or self.config.source
        row["license"] = row.get("license") or self.config.license
        return row

    def _files(self) -> list[str]:
        fs, root = fsspec.core.url_to_fs(self.config.path)
        if not fs.isdir(root):
            return expand(self.config.path)
        folder = self.config.path.rstrip("/")
        if fs.exists(f"{root}/dataset_dict.json"):
            with reading(f"{folder}/dataset_dict.json", "a list of splits"):
                splits = [str(split) for split in json.loads(fs.cat_file(f"{root}/dataset_dict.json"))["splits"]]
            if self.config.split not in splits:
                raise InputError(f"{folder}: no split {self.config.split!r}. {nearest(str(self.config.split), splits)}")
            folder, root = f"{folder}/{self.config.split}", f"{root}/{self.config.split}"
        if fs.exists(f"{root}/state.json"):
            with reading(f"{folder}/state.json", "the state of a saved dataset"):
                files = json.loads(fs.cat_file(f"{root}/state.json"))["_data_files"]
                names = [str(file["filename"]) for file in files]
            outside = next((name for name in names if leads_outside(name)), None)
            if outside is not None:
                raise InputError(f"{folder}/state.json: {outside!r} is not in this folder. Do not use this dataset.")
            return [f"{folder}/{name}" for name in names]
        raise InputError(
            f"{folder}: not a `save_to_disk` dataset (state.json is missing). "
            f"Give a pattern such as {folder}/*.parquet or {folder}/*.arrow."
        )


def _opened(path: str) -> ParquetSource | ArrowSource:
    return ParquetSource(path) if path.endswith(".parquet") else ArrowSource(path)


def _identity_of(path: str) -> bytes:
    fs, name = fsspec.core.url_to_fs(path)
    entry = fs.info(name)
    return f"{name.rsplit('/', 1)[-1]} {entry['size']} {entry.get('etag') or entry.get('mtime')}".encode()


def _bytes(image: object) -> tuple[bytes | None, str | None]:
    """The bytes and name of an image cell: raw bytes, or a struct with bytes, or with the path of a file here.

    An address instead of a path is not read: what fetches URLs, behind its guard, is `download`.
    """
    if not isinstance(image, dict):
        return (image, None) if isinstance(image, bytes) else (None, None)
    data, path = image.get("bytes"), image.get("path")
    data, path = data if isinstance(data, bytes) else None, path if isinstance(path, str) else None
    if data is None and path and "://" not in path and "::" not in path:
        fs, name = fsspec.core.url_to_fs(path)
        with suppress(OSError):  # not allowed, or not to be read: no bytes
            data = fs.cat_file(name) if fs.isfile(name) else None
    return data, path.rsplit("/", 1)[-1] if path else None
