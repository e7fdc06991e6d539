"""The manifest: the file that lists the contents of a dataset. Files it does not reference do not exist.

`manifest-000007.json` is the seventh version; the newest number wins, the others stay readable as history. It is a
small head; the list of files is in chunks (`schemas/chunks.py`) that versions share and that are read when asked for.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from schemas.chunks import FOLDER, SUFFIX, ChunkRef
from schemas.config import nearest
from schemas.entries import Count, FileEntry, FragmentEntry, Parent, StepEntry
from schemas.errors import InputError, StorageError, VersionError
from schemas.format1 import ranges_of
from schemas.listing import Fragments, Range, RangeRef
from schemas.records import parse_version
from schemas.store import Store

__all__ = ["FileEntry", "FragmentEntry", "Manifest", "Parent", "StepEntry", "file_name", "numbers", "read"]

FORMAT = 2
"""Version of the folder layout itself. A newer one is refused."""

READER_FLAGS: frozenset[str] = frozenset()
"""Flags of features without which a dataset is misread. A manifest with any other is refused on open."""
WRITER_FLAGS: frozenset[str] = frozenset()
"""Flags of features that a writer must keep up. A dataset with any other is read, but not committed to nor cleaned."""

LARGEST = 10**18 - 1
"""The largest number of a manifest: its name has 18 digits at most."""

LARGEST_FILE = 1 << 29
"""Bytes of a manifest: 100,000 fragments with 5 column files each take 0.2 MB in format 2 and 0.3 GB in format 1."""

_NAME = re.compile(r"^manifest-(\d{6,18})\.json$")
_CHUNK = re.compile(rf"^{FOLDER}/[^/\\\x00]+{re.escape(SUFFIX)}$")


class Totals(BaseModel):
    """Sums over all fragments, so that `show` and `log` read nothing but the head."""

    model_config = ConfigDict(frozen=True)

    rows: Count
    fragments: Count
    bytes: Count
    statuses: dict[str, dict[str, Count]] = {}
    groups: dict[str, dict[str, dict[str, Count]]] = {}
    columns: list[str] = []
    """Columns that every fragment has, as they are stored."""
    file_versions: list[str] = []
    """Schema versions of the column files."""


class Manifest(BaseModel):
    """One version of a dataset. `fragments` is a sequence that reads its entries on demand."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    number: int
    previous: int = 0
    schema_version: str
    created: str
    run: str = ""
    """The run that committed this version; its log is under `runs/`."""
    message: str = ""
    reader_flags: list[str] = []
    writer_flags: list[str] = []
    totals: Totals
    steps: dict[str, StepEntry] = {}
    parents: list[Parent] = []
    versions: dict[str, str] = {}
    info: dict[str, Any] = {}
    names: list[str] = []
    """Names of column files in the order in which the dataset first got them: a later one's column hides an earlier."""
    ranges: list[RangeRef]

    _fragments: Fragments = PrivateAttr()

    @property
    def fragments(self) -> Fragments:
        return self._fragments

    def over(self, ranges: list[Range]) -> Manifest:
        """This head with its ranges to read from."""
        self._fragments = Fragments(ranges)
        return self

    @property
    def rows(self) -> int:
        return self.totals.rows

    def statuses(self) -> dict[str, dict[str, int]]:
        """Step -> status -> rows, added up over fragments; steps in the order in which they ran."""
        return {name: dict(counts) for name, counts in self.totals.statuses.items()}

    def groups(self, step: str) -> dict[str, dict[str, int]]:
        """Group -> status -> rows of one step, added up over fragments; the largest group first.

        A group that is small in a fragment, or not among the largest of the dataset, is counted as `other`.
        """
        return {name: dict(counts) for name, counts in self.totals.groups.get(step, {}).items()}

    def to_bytes(self) -> bytes:
        return json.dumps(self.model_dump(), indent=1, ensure_ascii=False).encode()


def file_name(number: int) -> str:
    return f"manifest-{number:06d}.json"


def numbers(store: Store) -> list[int]:
    """The numbers of all manifests in `store`, oldest first."""
    found = [(name, int(match.group(1))) for name in store.list() if (match := _NAME.match(name))]
    return sorted(number for name, number in found if file_name(number) == name)


def read(store: Store, number: int | None = None) -> Manifest:
    """Manifest `number`, or the newest: its head. The file's name says its number, whatever is written in it.

    Raises InputError when there is none, or when it is not a manifest; VersionError for newer formats.
    """
    known = numbers(store)
    if not known:
        raise InputError(
            f"{store.root}: no dataset here (no manifest-*.json). Check the path, or import into it first."
        )
    if number is not None and number not in known:
        raise InputError(f"{store.root}: there is no manifest {number}. Known: {known[0]} to {known[-1]}.")
    number = known[-1] if number is None else number
    where = store.path(file_name(number))
    content = _content(store, file_name(number))
    _check_format(content, where)
    try:
        if content["format"] == 1:
            manifest = _from_format_1(content, where)
        else:
            head = Manifest.model_validate({**content, "number": number})
            _check_chunks(head, where)
            manifest = head.over([Range.open(one, store) for one in head.ranges])
    except ValidationError as error:
        raise InputError(_broken(where, *_first_problem(error))) from error
    parse_version(manifest.schema_version, where)
    return manifest if manifest.number == number else manifest.model_copy(update={"number": number})


def next_number(store: Store, newest: int) -> int:
    """The number of the manifest after `newest`. Raises InputError when there is none."""
    if newest >= LARGEST:
        raise InputError(
            f"{store.path(file_name(newest))}: no larger number can follow; expected at most {LARGEST - 1}. Rename the "
            "file to the number after the one that it was made from."
        )
    return newest + 1


def check_writable(manifest: Manifest, where: str) -> None:
    """Raises VersionError when the dataset has a feature that this code would not keep up."""
    unknown = sorted(set(manifest.writer_flags) - WRITER_FLAGS)
    if unknown:
        raise VersionError(
            f"{where}: its manifest {manifest.number} has the writer flags {unknown}, this code knows "
            f"{sorted(WRITER_FLAGS)}. It can be read, but a change would lose what they stand for. Upgrade lavabeam."
        )


def _content(store: Store, name: str) -> dict[str, Any]:
    where = store.path(name)
    try:
        size = store.size(name) if store.local else 0  # elsewhere it would be one more request for every opening
        if size > LARGEST_FILE:
            raise InputError(_broken(where, "the file", f"{size} bytes long", f"at most {LARGEST_FILE}"))
        raw = store.read(name)
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: this is not JSON ({error}). Restore it, or remove it to return to the one before."
        ) from error
    except OSError as error:
        raise StorageError(
            f"{where}: cannot be read ({error.strerror or error}). Check the file's permissions."
        ) from error
    if not isinstance(content, dict):
        raise InputError(_broken(where, "the file", type(content).__name__, "an object"))
    if b"\\u" in raw or b"\xed" in raw:
        _check_unicode(content, where)
    return content


def _check_unicode(content: dict[str, Any], where: str) -> None:
    """Text that is no Unicode (a surrogate alone, which JSON lets pass) can neither be stored nor shown."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(_broken(where, "a text", ascii(error.object[error.start : error.end]), "Unicode")) from error


def _check_format(content: dict[str, Any], where: str) -> None:
    found = content.get("format")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise InputError(_broken(where, "'format'", repr(found), f"a number from 1 to {FORMAT}"))
    if found > FORMAT:
        raise VersionError(
            f"{where}: written in folder format {found}, this code reads up to {FORMAT}. Upgrade lavabeam."
        )
    flags = content.get("reader_flags", [])
    unknown = [flag for flag in flags if flag not in READER_FLAGS] if isinstance(flags, list) else []
    if unknown:
        raise VersionError(
            f"{where}: it has the reader flags {unknown}, this code knows {sorted(READER_FLAGS)}: it would misread "
            "the dataset. Upgrade lavabeam."
        )


def _check_chunks(head: Manifest, where: str) -> None:
    """Raises InputError when a chunk is outside its folder, or a sum is not that of the ranges."""
    refs: list[ChunkRef] = [ref for one in head.ranges for ref in (one, *one.files.values())]
    wrong = next((ref.path for ref in refs if not _CHUNK.match(ref.path)), None)
    if wrong is not None:
        raise InputError(_broken(where, "a chunk's path", repr(wrong), f"{FOLDER}/<name>{SUFFIX}"))
    for name in ("rows", "fragments"):
        found, expected = getattr(head.totals, name), sum(getattr(one, name) for one in head.ranges)
        if found != expected:
            raise InputError(_broken(where, f"'totals.{name}'", str(found), f"{expected}, the sum of its ranges"))
    unknown = next((name for one in head.ranges for name in one.files if name not in head.names), None)
    if unknown is not None:
        raise InputError(
            _broken(where, "a range's file", repr(unknown), f"one of 'names'. {nearest(unknown, head.names)}")
        )


def _from_format_1(content: dict[str, Any], where: str) -> Manifest:
    """A manifest of format 1, whose list of files is part of the JSON."""
    if "fragments" not in content:
        raise InputError(_broken(where, "'fragments'", "nothing", "a list"))
    ranges, names = ranges_of(content["fragments"], where)
    head = {key: value for key, value in content.items() if key in Manifest.model_fields}
    listed = [one.ref for one in ranges]
    made = {"names": names, "ranges": listed, "totals": totals(Fragments(ranges), names)}
    return Manifest.model_validate({**head, **made}).over(ranges)


GROUPS = 1000
"""Groups of a step that a head names; the rest is added up as `other`."""


def totals(fragments: Fragments, names: list[str], old: Manifest | None = None) -> Totals:
    """Sums over `fragments`; those of groups are taken from `old` for names of which nothing changed."""
    refs = [one.ref for one in fragments.ranges]
    statuses = {name: fragments.statuses(name) for name in names}
    groups = {}
    for name in names:
        if old is not None and _chunks(old.ranges, name) == _chunks(refs, name):
            groups[name] = old.totals.groups.get(name, {})
        else:
            groups[name] = fragments.groups(name, GROUPS, "other")
    return Totals(
        rows=sum(one.rows for one in refs),
        fragments=sum(one.fragments for one in refs),
        bytes=sum(files.data_bytes for one in refs for files in one.files.values()),
        statuses={name: counts for name, counts in statuses.items() if counts},
        groups={name: counts for name, counts in groups.items() if counts},
        columns=fragments.columns(),
        file_versions=sorted({version for one in refs for files in one.files.values() for version in files.versions}),
    )


def contradictions(manifest: Manifest, where: str) -> list[str]:
    """What a head says of its chunks that they do not: one line each. Reads every chunk; raises CorruptError."""
    counted = [Range.of(one.ids, one.files) for one in manifest.fragments.ranges]
    wrong = [f"range {n}" for n, (one, ref) in enumerate(zip(counted, manifest.ranges, strict=True)) if one.ref != ref]
    found, expected = manifest.totals, totals(Fragments(counted), manifest.names)
    wrong += [f"totals.{name}" for name in Totals.model_fields if getattr(found, name) != getattr(expected, name)]
    return [
        f"{where}: {name} is not what its chunks add up to. The head was edited: restore it, or remove it to return to "
        "the one before."
        for name in wrong
    ]


def _chunks(ranges: list[RangeRef], name: str) -> list[str]:
    return [one.files[name].sha256 for one in ranges if name in one.files]


def _first_problem(error: ValidationError) -> tuple[str, str, str]:
    """(field, what was found, what was expected) of the first thing that is wrong."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    found = "nothing" if problem["type"] == "missing" else repr(problem["input"])
    return repr(where), found if len(found) < 80 else f"{found[:77]}...", problem["msg"]


def _broken(where: str, field: str, found: str, expected: str) -> str:
    return (
        f"{where}: this is not a manifest: {field} is {found}; expected: {expected}. "
        "Restore the file, or remove it to return to the one before."
    )
