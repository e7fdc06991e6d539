"""Read access to a dataset: rows by number, columns as numpy, fragments batch by batch."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa

from schemas import manifest as manifests
from schemas.columnfile import BATCH_ROWS, current_columns, read_column_file
from schemas.config import nearest
from schemas.errors import InputError, SchemaError
from schemas.listing import Files
from schemas.manifest import FragmentEntry, Manifest, Parent
from schemas.records import ADDED, BASE, is_current, parse_version
from schemas.store import Store


class Fragment:
    """Some consecutive rows of a dataset, whose columns are in one file per step."""

    def __init__(self, store: Store, entry: FragmentEntry):
        self.store, self.entry = store, entry
        self.id, self.rows = entry.id, entry.rows

    @cached_property
    def owner(self) -> dict[str, str]:
        """Column -> name of the column file that holds it. A step's column hides one of `base` of the same name."""
        return {column: name for name in self.entry.files for column in self.columns_of(name)}

    def columns_of(self, name: str) -> Sequence[str]:
        """The columns of one file, including hidden ones, by their current names, with those of later minor
        versions."""
        files = self.entry.files
        version, columns = (
            files.layout(name) if isinstance(files, Files) else (files[name].version, files[name].columns)
        )
        if not is_current(version, self.store.path(self.id)):
            columns = current_columns(self.store, files[name])
        return with_added(version.partition("/")[0], columns) if "key" in columns else columns

    @property
    def columns(self) -> list[str]:
        return list(self.owner)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The columns (all by default) of every row. Memory-mapped: bytes are read when accessed."""
        names = list(dict.fromkeys(self.columns if columns is None else columns))
        owners = {name: self._owner_of(name) for name in names}
        tables = {
            file: self._read_file(file, [name for name in names if owners[name] == file])
            for file in dict.fromkeys(owners.values())
        }
        return pa.table({name: tables[owners[name]].column(name) for name in names})

    def _read_file(self, file: str, names: list[str]) -> pa.Table:
        """Columns of one file; null where a later minor version added them."""
        entry = self.entry.files[file]
        schema = entry.version.partition("/")[0]
        added = [name for name in ADDED.get(schema, ()) if name in names]
        absent = set(added) - set(current_columns(self.store, entry)) if added else set()
        there = [name for name in names if name not in absent]
        table = read_column_file(self.store, entry, there or ["key"])
        for name in absent:
            table = table.append_column(name, pa.nulls(self.rows, BASE[schema].field(name).type))
        return table

    def batches(self, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """`read`, cut into batches of `batch_rows` rows (the last one may be shorter)."""
        table = self.read(columns)
        for start in range(0, self.rows, batch_rows):
            part = table.slice(start, batch_rows).combine_chunks()
            yield from part.to_batches()

    def inputs(self, columns: Sequence[str]) -> dict[str, str]:
        """File name -> fingerprint of every column file that these columns come from."""
        names = {self._owner_of(column) for column in columns}
        files = self.entry.files
        if isinstance(files, Files):
            return {name: files.fingerprint(name) or "" for name in sorted(names)}
        return {name: files[name].fingerprint for name in sorted(names)}

    def _owner_of(self, column: str) -> str:
        try:
            return self.owner[column]
        except KeyError:
            raise SchemaError(
                f"{self.store.root}, fragment {self.id}: no column {column!r}. "
                f"{nearest(column, self.columns)} Run the step that adds it first."
            ) from None


def with_added(schema: str, columns: Sequence[str]) -> list[str]:
    """`columns` of a base file, and those that minor versions added to the schema since."""
    return [*columns, *(name for name in ADDED.get(schema, ()) if name not in columns)]


class DatasetFragments(Sequence[Fragment]):
    """The fragments of a dataset, created on demand; recently used ones stay cached."""

    KEPT = 1024

    def __init__(self, store: Store, manifest: Manifest):
        self.store, self.manifest = store, manifest
        self._kept: dict[int, Fragment] = {}

    def __len__(self) -> int:
        return self.manifest.totals.fragments

    @overload
    def __getitem__(self, index: int) -> Fragment: ...
    @overload
    def __getitem__(self, index: slice) -> list[Fragment]: ...
    def __getitem__(self, index: int | slice) -> Fragment | list[Fragment]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        found = self._kept.get(number)
        if found is None:
            found = Fragment(self.store, self.manifest.fragments[number])
            if len(self._kept) >= self.KEPT:
                self._kept.clear()
            self._kept[number] = found
        return found


class Dataset:
    """One version of a dataset. Opening reads only the manifest's head; the file list and the files are read on demand.

    `keep` fragments stay mapped for `take`: few for sequential access, all of them for training in random order.
    """

    def __init__(self, store: Store, manifest: Manifest, keep: int = 8):
        self.store, self.manifest = store, manifest
        self.schema_name = parse_version(manifest.schema_version, store.root)[0]
        self.fragments = DatasetFragments(store, manifest)
        self._recent: OrderedDict[tuple, pa.Table] = OrderedDict()
        self._keep = keep

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.manifest.fragments.row_counts, dtype=np.int64)

    @classmethod
    def open(cls, path: str | Path, at: int | None = None, keep: int = 8, checked: bool = False) -> Dataset:
        """The dataset at `path` (a folder or an fsspec URL), newest version or manifest number `at`.

        `checked`: verify the sha256 of each file before its first read, which reads all of its bytes.
        """
        store = Store(path, checked=checked)
        return cls(store, manifests.read(store, at), keep)

    @classmethod
    def exists(cls, path: str | Path) -> bool:
        return bool(manifests.numbers(Store(path)))

    @property
    def path(self) -> str:
        return self.store.root

    @property
    def schema_version(self) -> str:
        return self.manifest.schema_version

    @property
    def rows(self) -> int:
        return self.manifest.rows

    def __len__(self) -> int:
        return self.rows

    @property
    def columns(self) -> list[str]:
        """Columns that every fragment has, by their current names."""
        if all(is_current(version, self.path) for version in self.manifest.totals.file_versions):
            columns = self.manifest.totals.columns
            return with_added(self.schema_name, columns) if "key" in columns else list(columns)
        common = set.intersection(*(set(fragment.columns) for fragment in self.fragments))
        return [name for name in self.fragments[0].columns if name in common]

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One row with all its columns as Python values."""
        return self.take([row])[0]

    def take(self, rows: Sequence[int], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Rows by number, in the given order, as dictionaries. Raises IndexError outside 0..rows-1."""
        names = list(columns) if columns is not None else self.columns
        found = []
        for row in rows:
            fragment, offset = self.locate(int(row))
            found.append(self._mapped(fragment, tuple(names)).slice(offset, 1).to_pylist()[0])
        return found

    def _mapped(self, fragment: Fragment, names: tuple[str, ...]) -> pa.Table:
        """The columns of a fragment, from the cache if possible."""
        key = (fragment.id, names)
        table = self._recent.pop(key, None)
        if table is None:
            table = fragment.read(names)
        self._recent[key] = table
        if len(self._recent) > self._keep:
            self._recent.popitem(last=False)
        return table

    def locate(self, row: int) -> tuple[Fragment, int]:
        """The fragment of a row, and the row's position in it."""
        if not 0 <= row < self.rows:
            raise IndexError(f"{self.path}: row {row} of {self.rows}")
        number = int(np.searchsorted(self._ends, row, side="right"))
        return self.fragments[number], row - (int(self._ends[number - 1]) if number else 0)

    def numpy(self, column: str) -> np.ndarray:
        """One numeric column of all rows, shape (rows,), read without touching any other column."""
        return self.numeric([column])[0]

    def numeric(self, columns: Sequence[str]) -> list[np.ndarray]:
        """Several numeric columns of all rows, each of shape (rows,); opening the files is most of the cost."""
        tables = (fragment.read(columns) for fragment in self.fragments if fragment.rows)
        parts = [[table.column(name).to_numpy() for name in columns] for table in tables]
        return [np.concatenate(one) for one in zip(*parts, strict=True)] or [np.empty(0, np.int64) for _ in columns]

    def batches(self, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        for fragment in self.fragments:
            yield from fragment.batches(columns, batch_rows)

    def files(self, step: str | None = None) -> Iterator[tuple[str, str, str, int, int, str]]:
        """(path, step, fragment, rows, bytes, sha256) of the column files, or of one step's, fragment by fragment.

        Paths start with the dataset's path. Raises InputError for a step without files in the dataset.
        """
        names = self.manifest.names
        if step is not None and step not in names:
            raise InputError(f"{self.path}: no column file of {step!r}. {nearest(step, names)}")
        return self._files([name for name in names if step in (None, name)])

    def _files(self, names: list[str]) -> Iterator[tuple[str, str, str, int, int, str]]:
        for one in self.manifest.fragments.ranges:
            listed = [(name, one.files[name].table) for name in names if name in one.files]
            columns = [
                (name, *(table.column(key).to_pylist() for key in ("path", "rows", "bytes", "sha256")))
                for name, table in listed
            ]
            for row, fragment in enumerate(one.ids.ids):
                for name, paths, rows, sizes, hashes in columns:
                    if paths[row] is not None:
                        yield self.store.path(paths[row]), name, fragment, rows[row], sizes[row], hashes[row]

    def as_parent(self) -> Parent:
        """The entry that a derived dataset stores about this one."""
        name = manifests.file_name(self.manifest.number)
        digest = hashlib.sha256(self.store.read(name)).hexdigest()
        return Parent(path=self.path, manifest=self.manifest.number, sha256=digest)

    def verify(self) -> list[str]:
        """All damage to the files, one line each (`schemas/verifying.py`). Reads every byte."""
        from schemas.verifying import damages

        return [damage.message for damage in damages(self)]
