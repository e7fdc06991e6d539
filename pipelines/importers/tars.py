"""Tar archives as WebDataset lays them out: the files of one sample are adjacent and share a base name.

A base name ends at the first dot of the file's own name (webdataset's `base_plus_ext`, and energon's rule); the rest,
in lower case, is the ending: `a/12.seg.PNG` is `seg.png` of the sample `a/12`. Samples are found from headers alone.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

import fsspec

from pipelines.importers.base import storable
from pipelines.importers.files import reading
from schemas.errors import InputError

NameEnds = Literal["first_dot", "last_dot"]

ARCHIVE = ("a tar archive", "Unpack compressed archives first.")
_META = re.compile(r"__[^/]*__(?:$|/)")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Sample:
    """Files that belong together: ending -> header, in the order of the archive."""

    name: str
    """Without an ending, and without `./` in front."""
    files: dict[str, tarfile.TarInfo]

    @property
    def identity(self) -> Iterator[bytes]:
        """What tells whether the sample changed: names, sizes and times of its files."""
        return (storable(f"{file.name} {file.size} {file.mtime}").encode() for file in self.files.values())

    @property
    def start(self) -> int:
        """The offset of its first header."""
        return next(iter(self.files.values())).offset

    @property
    def end(self) -> int:
        """The offset after the last byte of its last file, padding included."""
        last = next(reversed(self.files.values()))
        return last.offset_data + -(-last.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The regular files of an archive, one header in memory at a time. Raises tarfile.ReadError for a sparse one."""
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
        if not member.isfile():
            continue
        if member.issparse():
            # A header of 512 bytes may say that a terabyte of zeros follows.
            raise tarfile.ReadError(f"{member.name!r} is a sparse file, which is not read here")
        yield member


def whole_members(path: str) -> Iterator[tarfile.TarInfo]:
    """The regular files of the archive at `path`. InputError when it is none, was cut, or goes on after its end."""
    with reading(path, *ARCHIVE), open_archive(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        yield from members(archive)
        _check_end(file, archive.offset, path)


def _check_end(file: BinaryIO, offset: int, path: str) -> None:
    """tarfile silently stops at a damaged header, at the end of a cut file, and after the first of joined
    archives."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise InputError(
            f"{path}: the archive ends at byte {offset + len(block)} without the block of zeros that closes one: it "
            "was cut, or its writer was stopped. Get it again, or write it again."
        )
    if block.strip(b"\0"):
        raise InputError(f"{path}: the header at byte {offset} is damaged, and files follow. Get the archive again.")
    while block := file.read(_CHUNK):
        if block.strip(b"\0"):
            raise InputError(
                f"{path}: the archive ends at byte {offset}, and more follows: archives that were joined (cat a.tar "
                "b.tar), of which readers see only the first. Give them one by one, or unpack with `tar -xif` and "
                "pack again."
            )


def samples(
    found: Iterable[tarfile.TarInfo], path: str, ends: NameEnds | None, skipped: Counter[str] | None = None
) -> Iterator[Sample]:
    """Consecutive files of one base name. `skipped` counts files that belong to no sample, by name of their kind.

    Raises InputError for a file that repeats in a sample (webdataset does too), and, unless `ends` says which dot ends
    a name, for a sample that looks like several whose names differ after their first dot.
    """
    name, files = None, dict[str, tarfile.TarInfo]()
    for file in found:
        own, ending = split(file.name, ends)
        if own is None:
            if skipped is not None:
                skipped[ending] += 1
            continue
        if own != name:
            if name is not None:
                yield _checked(Sample(name, files), path, ends)
            name, files = own, {}
        if ending in files:
            raise InputError(
                f"{path}: the sample {name!r} has {ending!r} twice ({files[ending].name!r}, {file.name!r}; endings are "
                "compared in lower case). Rename one of them."
            )
        files[ending] = file
    if name is not None:
        yield _checked(Sample(name, files), path, ends)


def split(path: str, ends: NameEnds | None = None) -> tuple[str | None, str]:
    """`a/b/12.seg.PNG` -> ("a/b/12", "seg.png"). (None, what it is) for a file of no sample: webdataset skips them."""
    path = path.removeprefix("./")
    if _META.match(path):
        return None, "metadata (__NAME__)"
    folder, slash, file = path.rpartition("/")
    stem, dot, ending = file.rpartition(".") if ends == "last_dot" else file.partition(".")
    if not dot or not stem or file.startswith("."):
        return None, "hidden" if file.startswith(".") else "without an ending"
    return f"{folder}{slash}{stem}", ending.lower()


def picture_endings(sample: Sample, endings: Collection[str]) -> list[str]:
    """The files of a sample that are pictures, in the archive's order: those whose whole ending is one of `endings`.

    Where there is none, those whose last part is one: `left.jpg` and `right.jpg`, but no mask `seg.png` beside a `jpg`.
    """
    whole = [ending for ending in sample.files if ending in endings]
    return whole or [ending for ending in sample.files if ending.rpartition(".")[2] in endings]


def open_archive(path: str) -> BinaryIO:
    return fsspec.open(path, "rb").open()


def _checked(sample: Sample, path: str, ends: NameEnds | None) -> Sample:
    """The sample; InputError where files form separate groups after its first dot, as `shot 1.0.jpg` and
    `shot 1.0.txt`, `shot 1.5.jpg` and `shot 1.5.txt` do. Two pictures alone (`left.jpg`, `right.jpg`) are one sample,
    and so is one with a mask and its description (`jpg`, `seg.png`, `seg.json`)."""
    dotted = [ending for ending in sample.files if "." in ending]
    if ends is not None or len(dotted) < 2:
        return sample
    groups: dict[str, list[str]] = defaultdict(list)
    for ending in dotted:
        groups[ending.rpartition(".")[0]].append(sample.files[ending].name)
    large = [names for names in groups.values() if len(names) > 1]
    plain = [file.name for ending, file in sample.files.items() if "." not in ending]
    if not large or (len(large) == 1 and plain and _kinds(plain) != _kinds(large[0])):
        return sample
    shown = [names[0] for names in [plain, *groups.values()] if names][:2]
    shown = shown if len(shown) > 1 else large[0]
    raise InputError(
        f"{path}: {shown[0]!r} and {shown[1]!r} belong to one sample {sample.name!r} by webdataset's rule, which "
        f"ends a name at its first dot; endings here are {', '.join(map(repr, dotted[:4]))}. Set `name_ends: last_dot` "
        "if the dot belongs to the name, `name_ends: first_dot` if it does not."
    )


def _kinds(names: Iterable[str]) -> set[str]:
    """The part after the last dot of names, in lower case."""
    return {name.rpartition(".")[2].lower() for name in names}
