"""Import pictures out of WebDataset archives: tar files in which members of one sample share a name.

`000012.jpg`, `000012.txt` and `000012.json` are one row: picture, alt text, and the values of named columns.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, BinaryIO

import fsspec
import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Config, Runtime
from pipelines.importers.base import ROWS_PER_SLICE, Importer, ImportStatus, Slice, cut, digest, storable
from pipelines.importers.files import expand, reading
from pipelines.importers.huggingface import Target
from pipelines.importers.image_folder import ENDINGS
from pipelines.importers.mapping import check_key, image_row, match
from pipelines.importers.stored import stored_row, stored_table

ARCHIVE = ("a tar archive", "Unpack compressed archives first.")


class WebDatasetConfig(Config):
    """Where the archives are and what their JSON members mean."""

    path: Annotated[str | list[str], Runtime()] = Field(description="a tar file, several, or a pattern with *")
    columns: dict[Target, str] = Field({}, description="our column: the name in the json member, where they differ")
    source: str | None = Field(None, description="written into `source` where the json has none")
    license: str | None = Field(None, description="written into `license` where the json has none")
    rows_per_slice: Annotated[int, Runtime()] = Field(ROWS_PER_SLICE, ge=1, description="rows per fragment")


class WebDataset(Importer[WebDatasetConfig]):
    """One row per sample, in the order of the archives. Its key is the archive's and the sample's name.

    Whether a sample changed is decided by its members' headers (name, size, time); their bytes are read once.
    """

    name = "webdataset"
    version = 2
    makes = "images"
    Config = WebDatasetConfig

    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        remaining = [rows for rows in known if rows > 0]
        made: list[Slice] = []
        seen: set[str] = set()
        for path in expand(self.config.path):
            for samples in cut(_samples_of(path), remaining[len(made) :], self.config.rows_per_slice):
                start = made[-1].start + made[-1].rows if made else 0
                for sample in samples:
                    check_key(_key(path, sample), path, seen)
                first, last = samples[0][0], samples[-1][-1]
                headers = [_identity_of(member) for sample in samples for member in sample]
                end = last.offset_data + -(-last.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                location = {"path": path, "offset": first.offset, "length": end - first.offset}
                made.append(Slice(start, len(samples), digest(0, _stem(path).encode(), *headers), location))
        return made

    def rows(self, slice: Slice) -> pa.Table:
        path = slice.location["path"]
        with _open(path) as file:
            file.seek(slice.location["offset"])
            content = file.read(slice.location["length"])
        with reading(path, *ARCHIVE), tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            samples = list(_samples(archive))
            return stored_table([self._row(archive, sample, _key(path, sample)) for sample in samples])

    def _row(self, archive: tarfile.TarFile, sample: list[tarfile.TarInfo], key: str) -> dict[str, Any]:
        contents = {_split(member.name)[1]: _read(archive, member) for member in sample}
        values, problem = _values(contents.get("json"))
        row = image_row(values, match(self.config.columns, values), needs_url=False)
        if problem:
            row.update(import_status=ImportStatus.bad_value, import_detail=problem)
        if "txt" in contents:
            row["alt_text"] = contents["txt"].decode(errors="replace").strip() or row.get("alt_text")
        ending = next((ending for ending in contents if ending in ENDINGS), None)
        name = _split(sample[0].name)[0]
        picture = stored_row(contents.get(ending) if ending else None, f"{name}.{ending}" if ending else name)
        if row["import_status"] != ImportStatus.ok and picture["import_status"] == ImportStatus.ok:
            picture.pop("import_status")
        row |= picture
        row["key"] = key
        row["source"] = row.get("source") or self.config.source
        row["license"] = row.get("license") or self.config.license
        return row


def _samples_of(path: str) -> Iterator[list[tarfile.TarInfo]]:
    """The samples of one archive, read from its headers alone; raises InputError when it is none, or was cut."""
    with reading(path, *ARCHIVE), _open(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        yield from _samples(archive)


def _samples(archive: tarfile.TarFile) -> Iterator[list[tarfile.TarInfo]]:
    """Consecutive files whose names are equal up to the first dot of their last part (WebDataset's rule)."""
    group: list[tarfile.TarInfo] = []
    for member in archive:
        if not member.isfile():
            continue
        if member.issparse():
            # A header of 512 bytes may say that a terabyte of zeros follows.
            raise tarfile.ReadError(f"{member.name!r} is a sparse file, which is not read here")
        if group and _split(member.name)[0] != _split(group[0].name)[0]:
            yield group
            group = []
        group.append(member)
    if group:
        yield group


def _split(name: str) -> tuple[str, str]:
    """`a/b/12.seg.png` -> ("a/b/12", "seg.png"), in lower case after the dot."""
    folder, _, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return f"{folder}/{stem}" if folder else stem, ending.lower()


def _values(content: bytes | None) -> tuple[dict[str, Any], str | None]:
    """The named values of a sample's JSON member, and what is wrong with it."""
    try:
        values = json.loads(content) if content else {}
    except (ValueError, RecursionError) as error:
        return {}, f"the json member cannot be read: {error}"
    return (values, None) if isinstance(values, dict) else ({}, "the json member is not an object")


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


def _identity_of(member: tarfile.TarInfo) -> bytes:
    return storable(f"{member.name} {member.size} {member.mtime}").encode()


def _key(path: str, sample: list[tarfile.TarInfo]) -> str:
    return f"{_stem(path)}/{_split(sample[0].name)[0]}"


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".tar")


def _open(path: str) -> BinaryIO:
    return fsspec.open(path, "rb").open()
