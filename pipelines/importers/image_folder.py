"""Import a folder of pictures. A row's key is the picture's path in the folder, as LLaVA's JSON names it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any

import fsspec
import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Config, Runtime
from pipelines.importers.base import ROWS_PER_SLICE, Importer, ImportStatus, Slice, cut, digest, storable
from pipelines.importers.files import is_local
from pipelines.importers.stored import stored_row, stored_table
from schemas.decoding import BUDGET
from schemas.errors import InputError

ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")


class ImageFolderConfig(Config):
    """Which pictures of the folder, and where they are from."""

    path: Annotated[str, Runtime()] = Field(description="the folder; folders inside it are searched too")
    endings: tuple[str, ...] = Field(ENDINGS, description="files with these endings are pictures")
    source: str | None = Field(None, description="written into `source`")
    license: str | None = Field(None, description="written into `license`")
    rows_per_slice: Annotated[int, Runtime()] = Field(ROWS_PER_SLICE, ge=1, description="rows per fragment")


class ImageFolder(Importer[ImageFolderConfig]):
    """Pictures in the order of their paths. A file that cannot be decoded keeps its row, without bytes.

    Whether a file changed is decided by its path, size and time of change: hashing a million pictures at the
    start of every run would cost more than the run. Pictures whose paths sort behind all others come alone.
    """

    name = "image_folder"
    version = 2
    makes = "images"
    Config = ImageFolderConfig

    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        made: list[Slice] = []
        for files in cut(self._files(), known, self.config.rows_per_slice):
            start = made[-1].start + made[-1].rows if made else 0
            content = (storable(f"{name}\0{stamp}").encode() for name, stamp in files)
            made.append(Slice(start, len(files), digest(0, *content), {"names": [name for name, _ in files]}))
        return made

    def rows(self, slice: Slice) -> pa.Table:
        fs, root = fsspec.core.url_to_fs(self.config.path)
        rows = []
        for name in slice.location["names"]:
            row = _stored(fs, f"{root}/{name}", name)
            rows.append({"key": name, "source": self.config.source, "license": self.config.license, **row})
        return stored_table(rows)

    def _files(self) -> list[tuple[str, str]]:
        """(path in the folder, size and time of change) of every picture, sorted by path."""
        fs, root = fsspec.core.url_to_fs(self.config.path)
        if not fs.isdir(root):
            raise InputError(f"{self.config.path}: no such folder. Check the path.")
        found = fs.find(root, detail=True)
        endings = tuple(f".{ending.lower().lstrip('.')}" for ending in self.config.endings)
        start = len(root.rstrip("/")) + 1
        files = [(name[start:], _identity_of(entry)) for name, entry in found.items() if name.lower().endswith(endings)]
        if not files:
            raise InputError(f"{self.config.path}: no pictures here (files ending in {', '.join(endings)}).")
        return sorted(files)


def _stored(fs: fsspec.AbstractFileSystem, path: str, name: str) -> dict[str, Any]:
    """The row of one file; of one that cannot be read (a link to nowhere, no permission) the reason."""
    try:
        if is_local(fs):
            if not os.path.isfile(path):  # a pipe or a device, also behind a link: reading might never end
                return {"import_status": ImportStatus.no_image, "import_detail": f"{name}: this is not a file"}
            if (size := os.path.getsize(path)) > BUDGET:
                detail = f"{name}: {size} bytes, more than the {BUDGET} that a picture may take decoded"
                return {"import_status": ImportStatus.undecodable, "import_detail": detail}
        return stored_row(fs.cat_file(path), name)
    except OSError as error:
        return {"import_status": ImportStatus.no_image, "import_detail": f"{name}: {error.strerror or error}"}


def _identity_of(entry: dict[str, Any]) -> str:
    """Size and time of change, or the tag that an object store keeps."""
    changed = next((entry[name] for name in ("etag", "ETag", "mtime", "LastModified", "created") if name in entry), "")
    return f"{entry['size']} {changed}"
