"""The importer interface: a source cut into slices, and the rows of one slice.

A slice becomes one fragment. `slices` runs once, in the process that starts the run; `rows` runs in
workers, for slices whose fragment does not exist yet. Rows in = rows out: a row whose values are
unusable keeps its place with a reason; a source that cannot be parsed at all stops the import before
anything is written.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain, islice, repeat
from typing import Any, ClassVar, Generic, Self, TypeVar

import pyarrow as pa

from pipelines.engine.step import C
from schemas.entries import StatusRule
from schemas.records import BASE, MESSAGE
from schemas.standing import NOT_OK, OK

Item = TypeVar("Item")

ROWS_PER_SLICE = 1000
"""Rows of one slice unless configured: seconds to minutes of downloading, so little is lost to a kill."""


class ImportStatus(StrEnum):
    """The outcome of one source row. Rows that are not ok stay in the dataset, with the reason in `import_detail`.

    All but `bad_value` exclude the row from later steps.
    """

    ok = "ok"
    no_url = "no_url"  # the url cell is empty, and the source brings no picture
    bad_value = "bad_value"  # a cell cannot be read as its column's type; it is left empty, the row can be used
    no_image = "no_image"  # the picture that the row names does not exist or is empty
    undecodable = "undecodable"  # the bytes are not a picture, or a cut or damaged one; they are not kept
    bad_conversation = "bad_conversation"  # turns out of order, an unknown speaker, or no turns


@dataclass(frozen=True)
class Slice:
    """Consecutive rows of a source.

    `digest` covers the source bytes of these rows and the number of the first one, so equal digests
    mean equal rows. `location` says where the rows are; it is no part of any fingerprint, so a source
    that moved to another folder is still the same source.
    """

    start: int
    rows: int
    digest: str
    location: Mapping[str, Any] = field(default_factory=dict)
    offset: int = 0
    """Added to row numbers used as keys, so that those of several sources in a dataset differ."""

    def placed(self, offset: int) -> Self:
        """The same rows, with another offset."""
        return replace(self, offset=offset)

    @property
    def first(self) -> int:
        """The number of the first row, for keys."""
        return self.start + self.offset


class Importer(ABC, Generic[C]):
    """Base class of importers: set the four class attributes, implement `slices` and `rows`."""

    name: ClassVar[str]
    version: ClassVar[int]
    makes: ClassVar[str]
    """The schema of the rows: `images` or `conversations`."""
    Config: type[C]
    located_by: ClassVar[tuple[str, ...]] = ("path",)
    """The options that identify the source; two imports with equal values are of the same source."""
    statuses: ClassVar[type[StrEnum]] = ImportStatus
    """All statuses of its rows."""
    leaves_out: ClassVar[frozenset[str]] = frozenset(ImportStatus) - {ImportStatus.ok, ImportStatus.bad_value}
    """Statuses of unusable rows (schemas/standing.py); `standing.NOT_OK` for all but `ok`."""

    def __init__(self, config: C):
        self.config = config

    def __reduce__(self) -> tuple:
        """Pickled as its config alone: what an importer has read stays in its process."""
        return type(self), (self.config,)

    @abstractmethod
    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        """Cut the source; the same source gives the same slices.

        `known` are the row counts of the fragments that an earlier import made, in order. The source is
        cut there first, so that rows appended to it leave the earlier slices (and all that was computed
        from them) as they were. Raises schemas.errors.InputError for a source that cannot be read.
        """

    @abstractmethod
    def rows(self, slice: Slice) -> pa.Table:
        """The rows of one slice, exactly `slice.rows`, with the columns of the base schema and a status."""

    def notes(self) -> list[str]:
        """Messages to the user about the source as a whole, available after `slices`."""
        return []

    @property
    def status_column(self) -> str:
        """`conversations` have a `status`; images get `import_status` and `import_detail`."""
        return "status" if self.makes == "conversations" else "import_status"

    @property
    def status_rule(self) -> StatusRule:
        """The statuses as stored in the manifest: by name, so that several sources of a dataset can be compared.

        A status that `statuses` lacks leaves its row out.
        """
        known = {status.value for status in self.statuses} - {OK}
        out = known if self.leaves_out >= NOT_OK else set(map(str, self.leaves_out))
        return StatusRule(
            step="import", column=self.status_column, unusable=sorted({"*"} | out), usable=sorted(known - out)
        )


STATUS_FIELDS = (pa.field("import_status", pa.string(), nullable=False), pa.field("import_detail", pa.string()))


def image_table(rows: Sequence[Mapping[str, Any]], extra: Sequence[pa.Field] = ()) -> pa.Table:
    """Rows of the `images` schema (absent names are null) with `extra` columns and their import status."""
    return _table(rows, pa.schema([*BASE["images"], *extra, *STATUS_FIELDS]))


def conversation_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows of the `conversations` schema; absent names are null.

    Each row is taken apart as it comes: pyarrow reads nested dictionaries at a fifth of the speed, and a thousand rows
    of them keep the garbage collector busy.
    """
    schema = BASE["conversations"]
    columns: dict[str, list[Any]] = {name: [] for name in schema.names if name != "messages"}
    messages = _Messages()
    for row in rows:
        for name, values in columns.items():
            values.append(row.get(name))
        messages.add(row.get("messages"))
    arrays = {name: storable_array(values, schema.field(name).type) for name, values in columns.items()}
    return pa.Table.from_arrays(
        [arrays[name] if name in arrays else pa.array(messages) for name in schema.names], schema=schema
    )


def storable(value: Any) -> Any:
    """`value` with unpaired surrogates escaped, as `\\udce9`: no UTF-8 file can hold them.

    They come from JSON escapes that were cut in two, and from file names that are not UTF-8.
    """
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, Mapping):
        return {name: storable(item) for name, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list) else value


def storable_array(values: list[Any], type: pa.DataType) -> pa.Array:
    """The values as Arrow's, `storable`."""
    try:
        return pa.array(values, type)
    except UnicodeEncodeError:
        return pa.array(storable(values), type)


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    try:
        return pa.Table.from_pylist(list(rows), schema)
    except UnicodeEncodeError:
        return pa.Table.from_pylist([storable(row) for row in rows], schema)


class _Messages:
    """Lists of messages, collected column by column."""

    def __init__(self) -> None:
        self._ends, self._part_ends = [0], [0]
        self._missing: list[bool] = []
        self._roles: list[str] = []
        self._kinds: list[str] = []
        self._texts: list[str | None] = []

    def add(self, messages: Sequence[Mapping[str, Any]] | None) -> None:
        roles, kinds, texts, part_ends = self._roles, self._kinds, self._texts, self._part_ends
        for message in messages or ():
            roles.append(message["role"])
            for part in message["content"]:
                kinds.append(part["type"])
                texts.append(part.get("text"))
            part_ends.append(len(kinds))
        self._missing.append(messages is None)
        self._ends.append(len(roles))

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        message = MESSAGE.field("content").type
        parts = pa.StructArray.from_arrays(
            [storable_array(self._kinds, pa.string()), storable_array(self._texts, pa.string())],
            fields=list(message.value_type),
        )
        contents = pa.ListArray.from_arrays(pa.array(self._part_ends, pa.int32()), parts, type=message)
        flat = pa.StructArray.from_arrays([storable_array(self._roles, pa.string()), contents], fields=list(MESSAGE))
        missing = pa.array(self._missing, pa.bool_())
        return pa.ListArray.from_arrays(pa.array(self._ends, pa.int32()), flat, type=pa.list_(MESSAGE), mask=missing)


def cut(items: Iterable[Item], known: Sequence[int], rows: int) -> Iterator[list[Item]]:
    """Group items into lists of the sizes in `known`, then of `rows`; the last list may be shorter."""
    source = iter(items)
    for size in chain((size for size in known if size > 0), repeat(rows)):
        group = list(islice(source, size))
        if not group:
            return
        yield group


def cut_weighted(
    items: Iterable[tuple[Item, int]], known: Sequence[int], rows: int
) -> Iterator[tuple[list[Item], int]]:
    """`cut` for (item, number of rows that it becomes): lists of items, and how many rows each list has.

    A list ends with the item that fills it, so that it may have more rows than asked for; cut again with the sizes that
    came out as `known`, the same items give the same lists.
    """
    sizes = chain((size for size in known if size > 0), repeat(rows))
    group, made, size = list[Item](), 0, next(sizes)
    for item, weight in items:
        group.append(item)
        made += weight
        if made >= size:
            yield group, made
            group, made, size = [], 0, next(sizes)
    if group:
        yield group, made


def digest(start: int, *parts: bytes) -> str:
    """sha256 over the position of a slice and its source bytes."""
    content = hashlib.sha256(str(start).encode())
    for part in parts:
        content.update(b"\0" + part)
    return content.hexdigest()
