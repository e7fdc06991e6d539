"""Manifest entries of fragments and column files: small values that are passed between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One column file: `rows` of its fragment, in the same order, with `columns`."""

    path: str
    fingerprint: str
    plan: str = ""
    """The fingerprint that a run looks for: `fingerprint`, unless failed rows were tried again since."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """File name -> fingerprint of every column file of the same fragment that this one was made from."""
    version: str
    """The schema version that it was written in: files of several versions may make up a fragment."""
    columns: list[str]
    rows: Count
    bytes: Count
    sha256: str
    statuses: Mapping[str, Count] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Count]] = field(default_factory=dict)
    """Statuses by a column of the step's choice (`download`: by host), for the largest groups and the `other` rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentEntry:
    """A few hundred to a few thousand rows, and the column files that hold them (`base` first).

    `files` of a manifest's own fragments is a view that reads its entries on demand; pickled, it is a plain dict.
    """

    id: str
    rows: Count
    files: Mapping[str, FileEntry]


class StatusRule(BaseModel):
    """Where a column file keeps its rows' statuses, and which of them leave a row out (`schemas/standing.py` reads it).

    `*` among `unusable` means every status except `ok` and those in `usable`.
    """

    model_config = ConfigDict(frozen=True)

    step: str
    """The step as users call it: the file of `generate` and of imports is called `base`."""
    column: str
    unusable: list[str] = []
    """Statuses of rows that nobody can use."""
    usable: list[str] = []
    """Statuses besides `ok` of rows that may be used."""
    by_choice: dict[str, str] = {}
    """Status -> reason: rows that are left out unless whoever reads them takes that reason's rows."""


class SourceEntry(BaseModel):
    """One source of imported rows."""

    model_config = ConfigDict(frozen=True)

    importer: str
    """Empty in datasets of before 0.2, which recorded the options alone."""
    version: int
    config: dict[str, Any]
    statuses: StatusRule | None = None
    """What the importer says of its statuses; the entry of the rows keeps what all sources say together."""


class StepEntry(BaseModel):
    """How a column file was made (`log` shows it, `--retry` and `import` go by it), and what its statuses mean."""

    model_config = ConfigDict(frozen=True)

    version: int
    config: dict[str, Any]
    name: str = ""
    """Of `base`: what made the rows (`import`, `mix`, or the step); empty in datasets of before 0.2."""
    sources: list[SourceEntry] = []
    """Of `base`, where the rows are imported: every source, in the order of their rows."""
    depends_on: dict[str, Any] = {}
    """What decided the output beside the configuration: hashes of prompts or weights, manifest numbers of datasets."""
    statuses: StatusRule | None = None
    """None for a file without a status column, and in manifests written before there were rules."""


class Parent(BaseModel):
    """A dataset that this one was made from, as it was then."""

    model_config = ConfigDict(frozen=True)

    path: str
    manifest: int
    sha256: str
