"""metadata.csv or metadata.jsonl beside pictures, as Hugging Face's imagefolder reads them.

Each row names a picture by `file_name`, from the folder of the metadata file on; its other columns say something about
it. See https://huggingface.co/docs/datasets/image_dataset (ImageFolder).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.importers.extra import ExtraColumns
from pipelines.importers.mapping import match
from pipelines.importers.records import Layout, TextSource
from schemas.errors import InputError
from schemas.picturenames import plain_name

FILE_NAME = "file_name"
NAMES = {"metadata.csv": "csv", "metadata.jsonl": "jsonl"}


class Metadata:
    """What the metadata files of a folder say: `of(key)`, the cells that become columns. A row of them takes about its
    length in the file of memory, beside the picture's name.

    Raises InputError for a file that cannot be read, for a picture that two rows describe, and for a configured
    column that no file has.
    """

    def __init__(self, columns: Mapping[Any, str | None], extra: ExtraColumns):
        self._columns, self.extra = {"key": None, **columns, **extra.columns}, extra
        self._cells: dict[str, str] = {}
        self._found: set[str] = set()
        self._left: Counter[str] = Counter()
        self._notes: list[str] = []

    def read(self, root: str, names: Iterable[str], keys: Mapping[str, str]) -> None:
        """Read those of the `names` in folder `root` that are metadata. keys: name of a picture -> its key."""
        files = [name for name in sorted(names) if name.rpartition("/")[2] in NAMES]
        known = set(keys.values())
        for name in files:
            self._read(f"{root}/{name}", name, known)
        if self._cells or files:
            self._check()
            without = sum(key not in self._cells for key in known)
            if self._cells and without:
                self._notes.append(f"{without} of {len(known)} pictures have no row in the metadata.")

    def of(self, key: str) -> str | None:
        """The cells of a picture by the columns of the metadata, as JSON; None for one without a row."""
        return self._cells.get(key)

    def columns(self, cells: Mapping[str, Any]) -> dict[str, str]:
        """Our column -> the metadata's column, for cells that `of` gave."""
        return match(self._columns, cells)

    def notes(self) -> list[str]:
        """What a user should know about the files as a whole."""
        left = ", ".join(f"{name} ({count} rows)" for name, count in self._left.most_common(10))
        kept = [f"columns of the metadata that are not kept: {left}; `extra` keeps them."] if left else []
        return [*self._notes, *kept, *self.extra.notes()]

    def _read(self, path: str, name: str, known: set[str]) -> None:
        source = TextSource(path, Layout(NAMES[name.rpartition("/")[2]]))
        folder = name.rpartition("/")[0]
        lost: list[str] = []
        for number, raw in enumerate(source.records()):
            values = source.parse(raw)
            if FILE_NAME not in values:
                if number == 0:
                    self._notes.append(f"{name} has no column {FILE_NAME!r} and is left alone ({', '.join(values)}).")
                    return
                raise InputError(f"{path}:{raw.line}: no {FILE_NAME!r}. Each row names its picture.")
            key = plain_name(f"{folder}/{values[FILE_NAME]}" if folder else str(values[FILE_NAME]))
            self._found.update(values)
            if key not in known:
                lost.append(f"{values[FILE_NAME]!r} in line {raw.line}")
            else:
                self._keep(key, values, f"{path}:{raw.line}")
        if lost:
            self._notes.append(f"{name}: {len(lost)} rows name a picture that is not there (first: {lost[0]}).")

    def _keep(self, key: str, values: Mapping[str, Any], where: str) -> None:
        if key in self._cells:
            raise InputError(
                f"{where}: {key!r} has a row already. Join the rows (`captions` takes a list), or import with "
                "`metadata: false`."
            )
        matched = self.columns(values)
        kept = {column: values[column] for column in matched.values()}
        self.extra.see(values)
        self._left.update(column for column in values if column not in kept and column != FILE_NAME)
        self._cells[key] = json.dumps(kept)

    def _check(self) -> None:
        missing = {target: name for target, name in self._columns.items() if name and name not in self._found}
        for target, name in missing.items():
            raise InputError(
                f"the metadata has no column {name!r}, which is to become {target!r}. Columns found: "
                f"{', '.join(sorted(self._found)) or 'none'}."
            )
