"""Import pictures out of WebDataset archives: tar files in which the files of one sample share a name.

`000012.jpg`, `000012.txt` and `000012.json` are one row: picture, alt text, and the values of named columns. The
conversations that such archives hold are imported by webdataset_chat.py.
"""

from __future__ import annotations

import io
import json
import tarfile
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar

import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Config, Later, Runtime
from pipelines.importers.base import ROWS_PER_SLICE, Importer, ImportStatus, Slice, cut_weighted, digest
from pipelines.importers.boxes import BoxUnit
from pipelines.importers.files import expand, reading
from pipelines.importers.huggingface import Target
from pipelines.importers.image_folder import ENDINGS
from pipelines.importers.mapping import image_row, match
from pipelines.importers.stored import stored_row, stored_table
from pipelines.importers.tars import (
    ARCHIVE,
    NameEnds,
    Sample,
    members,
    open_archive,
    picture_endings,
    samples,
    whole_members,
)
from schemas.chat.shapes import shape_of
from schemas.errors import InputError

TEXTS = ("txt", "text", "caption")
"""Endings of files that hold a text about the picture; the first one found is the alt text."""


class SamplesConfig(Config):
    """Where the archives are, and how names and endings are read."""

    path: Annotated[str | list[str], Runtime()] = Field(description="a tar file, several, or a pattern with *")
    name_ends: Annotated[NameEnds | None, Later()] = Field(
        None,
        description="where a sample's name ends: at the first dot (webdataset's rule, the default, which refuses "
        "samples that look like two), or at the last one",
    )
    endings: Annotated[tuple[str, ...], Later()] = Field(ENDINGS, description="extensions of image files")
    key_prefix: Annotated[str, Later()] = Field(
        "", description="prefix of every key, such as part-1/, if archives in several folders have the same name"
    )
    rows_per_slice: Annotated[int, Runtime()] = Field(ROWS_PER_SLICE, ge=1, description="rows per fragment")


S = TypeVar("S", bound=SamplesConfig)


class SampleImporter(Importer[S]):
    """Rows made of samples. A key is the archive's and the sample's name, so that it depends on nothing else.

    Whether a sample changed is decided by its files' headers (name, size, time); their bytes are read once.
    """

    def __init__(self, config: S):
        super().__init__(config)
        self.endings = tuple(ending.lower().lstrip(".") for ending in config.endings)
        self._skipped, self._unread = Counter[str](), Counter[str]()
        self._empty: list[str] = []
        self._talks, self._keys = "", dict[str, None]()  # of the first json file of each archive

    @abstractmethod
    def rows_of(self, sample: Sample) -> int:
        """How many rows a sample becomes, at least one."""

    @abstractmethod
    def made(self, archive: tarfile.TarFile, sample: Sample, path: str) -> list[dict[str, Any]]:
        """The rows of one sample."""

    @abstractmethod
    def reads(self, sample: Sample) -> set[str]:
        """The endings of a sample's files that rows are made of."""

    @abstractmethod
    def table(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        """Rows with the schema's columns."""

    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        remaining = [rows for rows in known if rows > 0]
        made: list[Slice] = []
        self._skipped, self._unread, self._talks, self._keys = Counter[str](), Counter[str](), "", {}
        self._empty = []
        paths = expand(self.config.path)
        names = _Names(paths)
        for path in paths:
            before = len(made)
            found = ((sample, self.rows_of(sample)) for sample in names.checked(self._samples(path), path))
            for group, rows in cut_weighted(found, remaining[len(made) :], self.config.rows_per_slice):
                start = made[-1].start + made[-1].rows if made else 0
                headers = [header for sample in group for header in sample.identity]
                location = {"path": path, "offset": group[0].start, "length": group[-1].end - group[0].start}
                made.append(Slice(start, rows, digest(0, stem(path).encode(), *headers), location))
            if len(made) == before:
                self._empty.append(path)
        if not made:
            others = f" Files that belong to no sample: {_counted(self._skipped)}." if self._skipped else ""
            raise InputError(
                f"{', '.join(paths[:3])}: no sample in the archive. Expected files such as 000.jpg and 000.json."
                f"{others}"
            )
        return made

    def rows(self, slice: Slice) -> pa.Table:
        path = slice.location["path"]
        with open_archive(path) as file:
            file.seek(slice.location["offset"])
            content = file.read(slice.location["length"])
        with reading(path, *ARCHIVE), tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            found = list(samples(members(archive), path, self.config.name_ends))
            return self.table([row for sample in found for row in self.made(archive, sample, path)])

    def notes(self) -> list[str]:
        notes = [f"archives without a sample: {', '.join(self._empty[:5])}."] if self._empty else []
        if self._skipped:
            notes.append(f"files that belong to no sample: {_counted(self._skipped)}.")
        if self._unread:
            notes.append(f"files of samples that are not read: {_counted(self._unread)}.")
        return notes

    def key(self, path: str, sample: Sample, ending: str = "") -> str:
        """`shard-0/000`; `shard-0/000.left.jpg` for one of several pictures."""
        return f"{self.config.key_prefix}{stem(path)}/{sample.name}" + (f".{ending}" if ending else "")

    def pictures(self, sample: Sample, path: str) -> dict[str, str]:
        """Ending -> key of every picture of a sample."""
        found = picture_endings(sample, self.endings)
        return {ending: self.key(path, sample, ending if len(found) > 1 else "") for ending in found}

    def _samples(self, path: str) -> Iterator[Sample]:
        """The samples of an archive. What is not read is counted, and the first json file looked into, for notes."""
        peeked = False
        for sample in samples(whole_members(path), path, self.config.name_ends, self._skipped):
            for ending in sample.files.keys() - self.reads(sample):
                if ending in self._unread or len(self._unread) < 100:
                    self._unread[ending] += 1
            if not peeked and "json" in sample.files:
                peeked = True
                self._peek(path, sample.files["json"])
            yield sample

    def _peek(self, path: str, member: tarfile.TarInfo) -> None:
        with open_archive(path) as file:
            file.seek(member.offset_data)
            values, _ = json_values(file.read(member.size))
        self._talks = self._talks or shape_of(values) or ""
        self._keys |= dict.fromkeys(map(str, values))


class WebDatasetConfig(SamplesConfig):
    """Where the archives are and what their JSON files mean."""

    columns: dict[Target, str] = Field(
        {},
        description="mapping of our column to a name in the json file or the extension of a text file, if they differ",
    )
    boxes: Annotated[BoxUnit | None, Later()] = Field(None, description="what the four numbers of a box are")
    source: str | None = Field(None, description="value of `source` if the json has none")
    license: str | None = Field(None, description="value of `license` if the json has none")


class WebDataset(SampleImporter[WebDatasetConfig]):
    """One row per sample, one per picture of a sample with several, in the order of the archives."""

    name = "webdataset"
    version = 3
    makes = "images"
    Config = WebDatasetConfig

    def rows_of(self, sample: Sample) -> int:
        return max(1, len(picture_endings(sample, self.endings)))

    def reads(self, sample: Sample) -> set[str]:
        return {"json", *TEXTS, *self.config.columns.values(), *picture_endings(sample, self.endings)}

    def table(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        return stored_table(rows)

    def notes(self) -> list[str]:
        talks = f"conversations (`{self._talks}` in json files) are not kept here: `lavabeam import webdataset_chat`."
        return super().notes() + ([talks] if self._talks else [])

    def made(self, archive: tarfile.TarFile, sample: Sample, path: str) -> list[dict[str, Any]]:
        values, problems = self._values(archive, sample)
        pictures = self.pictures(sample, path)
        if not pictures:
            files = ", ".join(sample.files)
            lost = {
                "import_status": ImportStatus.no_image,
                "import_detail": f"the sample holds no picture, but {files}",
            }
            return [self._row(values, problems, lost, self.key(path, sample))]
        rows = []
        for ending, key in pictures.items():
            picture = stored_row(read(archive, sample, ending), f"{sample.name}.{ending}")
            rows.append(self._row(values, problems, picture, key))
        return rows

    def _row(self, values: dict[str, Any], problems: list[str], picture: dict[str, Any], key: str) -> dict[str, Any]:
        columns = match(self.config.columns, values)
        text = next((ending for ending in TEXTS if values.get(ending)), None)
        if text is not None and "alt_text" not in self.config.columns:
            columns["alt_text"] = text
        row = image_row(
            values, columns, False, boxes=self.config.boxes, size=(picture.get("width"), picture.get("height"))
        )
        problems = problems + ([row["import_detail"]] if row["import_detail"] else [])
        if problems:
            row.update(import_status=ImportStatus.bad_value, import_detail="; ".join(problems))
            if picture["import_status"] == ImportStatus.ok:
                picture = {name: value for name, value in picture.items() if name != "import_status"}
        row |= picture
        row["key"] = key
        row["source"] = row.get("source") or self.config.source
        row["license"] = row.get("license") or self.config.license
        return row

    def _values(self, archive: tarfile.TarFile, sample: Sample) -> tuple[dict[str, Any], list[str]]:
        """The named values of a sample's json and texts, and what is wrong with them."""
        values, problems = json_values(read(archive, sample, "json"))
        for ending in sample.files.keys() & {*TEXTS, *self.config.columns.values()}:
            try:
                text = read(archive, sample, ending).decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                problems.append(f"{ending}: this is not UTF-8 ({error})")
                continue
            if ending in TEXTS[:1] or values.get(ending) is None:
                values[ending] = text
        return values, problems


class _Names:
    """Refuses keys that repeat; keeps the names of one archive, and of those whose name repeats among the paths."""

    def __init__(self, paths: Sequence[str]):
        self._left = Counter(map(stem, paths))
        self._others: dict[str, set[str]] = {}

    def checked(self, found: Iterator[Sample], path: str) -> Iterator[Sample]:
        own: set[str] = set()
        others = self._others.setdefault(stem(path), set())
        for sample in found:
            name = sample.name
            if name in own:
                raise InputError(
                    f"{path}: the files of sample {name!r} are not adjacent, so webdataset readers treat them as two "
                    f"samples. Pack the archive in the order of names (tar --sort=name), and check that a "
                    "name's first dot is where its ending begins (else set `name_ends: last_dot`)."
                )
            if name in others:
                raise InputError(
                    f"{path}: the key {stem(path) + '/' + name!r} also appears in an earlier row. Keys are the names "
                    "of archive and sample; import archives of one name one by one, with --key-prefix and --append."
                )
            own.add(name)
            yield sample
        self._left[stem(path)] -= 1
        others |= own
        if not self._left[stem(path)]:
            del self._others[stem(path)]


def json_values(content: bytes) -> tuple[dict[str, Any], list[str]]:
    """The named values of a sample's json file, and what is wrong with it. A list of turns is a conversation."""
    try:
        values = json.loads(content) if content else {}
    except (ValueError, RecursionError) as error:
        return {}, [f"the json member cannot be read: {error}"]
    if isinstance(values, list) and values and all(isinstance(turn, dict) for turn in values):
        return {"conversations": values}, []
    return (values, []) if isinstance(values, dict) else ({}, ["the json member is not an object"])


def read(archive: tarfile.TarFile, sample: Sample, ending: str) -> bytes:
    """The bytes of a sample's file; empty where it has none of that ending."""
    file = archive.extractfile(sample.files[ending]) if ending in sample.files else None
    return file.read() if file else b""


def stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".tar")


def _counted(names: Counter[str]) -> str:
    shown = [f"{name} ({count})" for name, count in names.most_common(10)]
    return ", ".join(shown) + (f" and {len(names) - 10} more kinds" if len(names) > 10 else "")
