"""Import a folder of pictures. A row's key is the picture's path in the folder, as LLaVA's JSON names it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import fsspec
import pyarrow as pa
from pydantic import AfterValidator, Field

from pipelines.engine.step import Config, Later, Runtime
from pipelines.importers.base import ROWS_PER_SLICE, Importer, ImportStatus, Slice, cut, digest, image_table, storable
from pipelines.importers.extra import Extra, ExtraColumns, check_names, converters, fields, mark
from pipelines.importers.files import is_local
from pipelines.importers.folders import files_below
from pipelines.importers.mapping import image_row
from pipelines.importers.metadata import NAMES, Metadata
from pipelines.importers.stored import stored_row
from schemas.decoding import BUDGET
from schemas.errors import InputError
from schemas.picturenames import ENDINGS, plain_name
from schemas.records import STORED_IMAGE

_NO_ENDING = "none"
"""What `_ending_of` calls the ending of a name without one."""

Target = Literal["url", "alt_text", "captions", "boxes", "facts", "source", "license"]


class ImageFolderConfig(Config):
    """Which pictures of the folder, and where they are from."""

    path: Annotated[str, Runtime()] = Field(description="the folder; folders inside it are searched too")
    endings: tuple[str, ...] = Field(ENDINGS, description="extensions of image files; '' stands for names without one")
    metadata: Annotated[bool, Later()] = Field(
        True, description="whether to read metadata.csv and metadata.jsonl next to the images"
    )
    columns: Annotated[dict[Target, str | None], Later()] = Field(
        {}, description="mapping of our column to the metadata's column, if the names differ; null ignores a column"
    )
    extra: Annotated[Extra, Later(), AfterValidator(check_names)] = Field(
        {},
        description="further columns of the metadata to keep, with their types: name: column, or name: {column: NAME, "
        "type: float} to say the type",
    )
    source: str | None = Field(None, description="written into `source`")
    license: str | None = Field(None, description="written into `license`")
    rows_per_slice: Annotated[int, Runtime()] = Field(ROWS_PER_SLICE, ge=1, description="rows per fragment")


class ImageFolder(Importer[ImageFolderConfig]):
    """Pictures in the order of their paths. A file that cannot be decoded keeps its row, without bytes.

    Whether a file changed is decided by its path, size and time of change: hashing a million pictures at the
    start of every run would cost more than the run. Pictures whose paths sort after all others form new slices.
    """

    name = "image_folder"
    version = 2
    makes = "images"
    Config = ImageFolderConfig

    def __init__(self, config: ImageFolderConfig):
        super().__init__(config)
        self._metadata = Metadata(config.columns, ExtraColumns(config.extra))
        self._notes: list[str] = []

    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        self._notes, self._metadata = [], Metadata(self.config.columns, ExtraColumns(self.config.extra))
        files, others = self._files()
        keys = keys_of([name for name, _ in files])
        self._metadata.read(self.config.path.rstrip("/"), others, keys)
        types = self._metadata.extra.types()
        made: list[Slice] = []
        for group in cut(files, known, self.config.rows_per_slice):
            start = made[-1].start + made[-1].rows if made else 0
            names = [name for name, _ in group]
            said = [self._metadata.of(keys[name]) for name in names]
            location = {"names": names, "keys": [keys[name] for name in names], "said": said, "types": types}
            content = [storable(f"{name}\0{stamp}").encode() for name, stamp in group]
            content += _marks(location)
            made.append(Slice(start, len(group), digest(0, *content), location))
        return made

    def notes(self) -> list[str]:
        return [*self._notes, *self._metadata.notes()]

    def rows(self, slice: Slice) -> pa.Table:
        fs, root = fsspec.core.url_to_fs(self.config.path)
        names, keys, said, types = (slice.location[name] for name in ("names", "keys", "said", "types"))
        read = converters(types)
        rows = []
        for name, key, cells in zip(names, keys, said, strict=True):
            row = self._described(json.loads(cells), read) if cells else {}
            stored = _stored(fs, f"{root}/{name}", name)
            if stored["import_status"] == ImportStatus.ok and row:
                stored["import_status"] = row["import_status"]
            rows.append({"source": self.config.source, "license": self.config.license, **row, "key": key, **stored})
        return image_table(rows, [*STORED_IMAGE, *fields(types)])

    def _described(self, cells: dict[str, Any], read: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
        """The columns that the metadata gives a picture, where there is something in them."""
        row = image_row(cells, self._metadata.columns(cells), needs_url=False, extra=read)
        return {name: value for name, value in row.items() if value is not None}

    def _files(self) -> tuple[list[tuple[str, str]], list[str]]:
        """(path in the folder, size and time of change) of every picture, sorted by path; and metadata files."""
        fs, root = fsspec.core.url_to_fs(self.config.path)
        if not fs.isdir(root):
            raise InputError(f"{self.config.path}: no such folder. Check the path.")
        endings = tuple(f".{ending.lower().lstrip('.')}" for ending in self.config.endings if ending)
        bare = "" in self.config.endings
        files, others, left, loops = [], [], Counter[str](), list[str]()
        for name, stamp in files_below(fs, root, loops):
            if name.lower().endswith(endings) or (bare and _ending_of(name) == _NO_ENDING):
                files.append((name, stamp))
            elif self.config.metadata and name.rpartition("/")[2] in NAMES:
                others.append(name)
            else:
                left[_ending_of(name)] += 1
        if not files:
            found = f"; found: {_counted(left)}" if left else ""
            raise InputError(f"{self.config.path}: no pictures here (files ending in {', '.join(endings)}{found}).")
        if left:
            self._notes.append(
                f"files that are no pictures by their ending were ignored: {_counted(left)}. `endings` names others."
            )
        if loops:
            self._notes.append(
                f"{len(loops)} links lead back to a parent folder and are not followed (first: {min(loops)})."
            )
        return sorted(files), others


def keys_of(names: Sequence[str]) -> dict[str, str]:
    """The key of each file: its plain name (schemas/picturenames.py), unless another file has that one too."""
    plain = {name: plain_name(name) for name in names}
    if all(name == key for name, key in plain.items()):
        return plain
    times = Counter(plain.values())
    return {name: name if times[key] > 1 else key for name, key in plain.items()}


def _marks(location: Mapping[str, Any]) -> Iterable[bytes]:
    """What decides the rows besides the files: nothing for pictures that were all there was before."""
    if location["keys"] != location["names"]:
        yield b"keys of plain names"
    if any(location["said"]):
        yield json.dumps(location["said"]).encode()
    yield from mark(location["types"])


def _ending_of(name: str) -> str:
    base = name.rpartition("/")[2].lower()
    return "." + base.rpartition(".")[2] if "." in base.lstrip(".") else _NO_ENDING


def _counted(endings: Counter[str]) -> str:
    most = sorted(endings.items(), key=lambda item: (-item[1], item[0]))[:8]
    shown = ", ".join(f"{ending} ({count})" for ending, count in most)
    return f"{shown}, ..." if len(endings) > 8 else shown


def _stored(fs: fsspec.AbstractFileSystem, path: str, name: str) -> dict[str, Any]:
    """The row of one file; of one that cannot be read (a link to nowhere, no permission) the reason."""
    try:
        if is_local(fs):
            if not os.path.isfile(path):  # a pipe or a device, also through a link: reading might never end
                return {"import_status": ImportStatus.no_image, "import_detail": f"{name}: this is not a file"}
            if (size := os.path.getsize(path)) > BUDGET:
                detail = f"{name}: {size} bytes, more than the {BUDGET} that a picture may take decoded"
                return {"import_status": ImportStatus.undecodable, "import_detail": detail}
        return stored_row(fs.cat_file(path), name)
    except OSError as error:
        return {"import_status": ImportStatus.no_image, "import_detail": f"{name}: {error.strerror or error}"}
