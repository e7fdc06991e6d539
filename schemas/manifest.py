"""The manifest: the one file that says what a dataset holds. Everything it does not name does not exist.

`manifest-000007.json` is the seventh version; the newest number wins, the others stay readable as history.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from pydantic import BaseModel, ConfigDict

from schemas.errors import InputError, VersionError
from schemas.records import parse_version
from schemas.store import Store

FORMAT = 1
"""Version of the folder layout itself. A newer one is refused."""

_NAME = re.compile(r"^manifest-(\d{6,})\.json$")


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True)


class FileEntry(_Entry):
    """One column file: `rows` of its fragment, in the same order, with `columns`."""

    path: str
    fingerprint: str
    plan: str = ""
    """The fingerprint that a run looks for: `fingerprint`, unless failed rows were tried again since."""
    inputs: dict[str, str] = {}
    """File name -> fingerprint of every column file of the same fragment that this one was made from."""
    version: str
    """The schema version that it was written in: files of several versions may make up a fragment."""
    columns: list[str]
    rows: int
    bytes: int
    sha256: str
    statuses: dict[str, int] = {}
    groups: dict[str, dict[str, int]] = {}
    """Statuses by a column of the step's choice (`download`: by host), for the largest groups and the `other` rows."""


class FragmentEntry(_Entry):
    """A few hundred to a few thousand rows, and the column files that hold them (`base` first)."""

    id: str
    rows: int
    files: dict[str, FileEntry]


class StepEntry(_Entry):
    """How a column file was made, for people and for `lavabeam log`."""

    version: int
    config: dict[str, Any]


class Parent(_Entry):
    """A dataset that this one was made from, as it was then."""

    path: str
    manifest: int
    sha256: str


class Manifest(_Entry):
    format: int = FORMAT
    number: int
    previous: int = 0
    schema_version: str
    created: str
    run: str = ""
    """The run that committed this version; its log lies under `runs/`."""
    message: str = ""
    fragments: list[FragmentEntry]
    steps: dict[str, StepEntry] = {}
    parents: list[Parent] = []
    versions: dict[str, str] = {}
    info: dict[str, Any] = {}

    @property
    def rows(self) -> int:
        return sum(fragment.rows for fragment in self.fragments)

    def statuses(self) -> dict[str, dict[str, int]]:
        """Step -> status -> rows, added up over fragments; steps in the order in which they ran."""
        counts: dict[str, Counter[str]] = {}
        for fragment in self.fragments:
            for name, file in fragment.files.items():
                if file.statuses:
                    counts.setdefault(name, Counter()).update(file.statuses)
        return {name: dict(sorted(counter.items(), key=lambda item: -item[1])) for name, counter in counts.items()}

    def groups(self, step: str) -> dict[str, dict[str, int]]:
        """Group -> status -> rows of one step, added up over fragments; the largest group first.

        A group that is small in a fragment is counted as `other` there.
        """
        counts: dict[str, Counter[str]] = {}
        for fragment in self.fragments:
            for name, statuses in (fragment.files[step].groups if step in fragment.files else {}).items():
                counts.setdefault(name, Counter()).update(statuses)
        order = sorted(counts, key=lambda name: (-counts[name].total(), name))
        return {name: dict(counts[name].most_common()) for name in order}

    def to_bytes(self) -> bytes:
        return json.dumps(self.model_dump(), indent=1, ensure_ascii=False).encode()


def file_name(number: int) -> str:
    return f"manifest-{number:06d}.json"


def numbers(store: Store) -> list[int]:
    """The numbers of all manifests in `store`, oldest first."""
    return sorted(int(found.group(1)) for name in store.list() if (found := _NAME.match(name)))


def read(store: Store, number: int | None = None) -> Manifest:
    """Manifest `number`, or the newest. Raises InputError when there is none, VersionError for newer ones."""
    known = numbers(store)
    if not known:
        raise InputError(
            f"{store.root}: no dataset here (no manifest-*.json). Check the path, or import into it first."
        )
    if number is not None and number not in known:
        raise InputError(f"{store.root}: there is no manifest {number}. Known: {known[0]} to {known[-1]}.")
    name = file_name(known[-1] if number is None else number)
    where = store.path(name)
    try:
        content = json.loads(store.read(name))
    except ValueError as error:
        raise InputError(
            f"{where}: this is not JSON ({error}). Restore it, or remove it to return to the one before."
        ) from error
    if content.get("format", 0) > FORMAT:
        raise VersionError(
            f"{where}: written in folder format {content['format']}, this code reads up to {FORMAT}. Upgrade lavabeam."
        )
    manifest = Manifest.model_validate(content)
    parse_version(manifest.schema_version, where)
    return manifest
