"""The output of a run: rows of a dataset, or columns added to its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from schemas.commit import Change
from schemas.manifest import FileEntry, FragmentEntry


@dataclass(frozen=True)
class Rows:
    """Files of rows: the fragments that such a run lists are the fragments of the dataset from then on."""

    file: ClassVar[str] = "base"

    def listed(self, fragments: list[FragmentEntry]) -> list[FragmentEntry] | None:
        """What a commit says about the list of fragments."""
        return fragments

    def complete(self, change: Change, made: Mapping[str, FileEntry]) -> Change:
        """`change` with the files that were made, by fragment."""
        listed = [
            FragmentEntry(id=entry.id, rows=made[entry.id].rows, files={self.file: made[entry.id]})
            if entry.id in made
            else entry
            for entry in change.fragments or []
        ]
        return replace(change, fragments=listed)


@dataclass(frozen=True)
class Columns:
    """One more column file for each fragment; the list of fragments stays as it is."""

    file: str
    """The name of the step."""

    def listed(self, fragments: list[FragmentEntry]) -> list[FragmentEntry] | None:
        """None: the list of fragments stays."""
        return None

    def complete(self, change: Change, made: Mapping[str, FileEntry]) -> Change:
        """`change` with the files that were made, by fragment."""
        return replace(change, files={fragment: {self.file: entry} for fragment, entry in made.items()})


Output = Rows | Columns
