"""Additional source columns to keep, each with one type per source.

The type is the source's: of parquet the column's, of JSON what all its values have in common, of delimited text
always text. Asking for a type (`{similarity: {column: SIMILARITY, type: float}}`) reads any of them as that type.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.importers.files import reading
from schemas.config import StrictModel
from schemas.records import BASE, STORED_IMAGE

TAKEN = frozenset((*BASE["images"].names, *(field.name for field in STORED_IMAGE)))


class TypedColumn(StrictModel):
    """A column of the source, and the type that its cells are read as."""

    column: str
    """The column's name in the source."""
    type: Literal["text", "int", "float", "bool"]
    """The type of its cells; a cell of another type becomes null and is noted in the row."""


Extra = dict[str, str | TypedColumn]
"""Our name -> the source's column."""

_ASKED = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


def check_names(extra: Extra) -> Extra:
    """Raises ValueError for a name that is a column of ours."""
    for name in extra:
        if name in TAKEN or name.endswith(("_status", "_detail")):
            raise ValueError(f"{name!r} is one of LavaBeam's own columns; choose another name, such as {name}_of_list")
    return extra


class ExtraColumns:
    """The types of the extra columns of one source, from all that `see` and `see_types` are given."""

    def __init__(self, extra: Extra):
        self.columns = {name: one if isinstance(one, str) else one.column for name, one in extra.items()}
        self._asked = {name: _ASKED[one.type] for name, one in extra.items() if isinstance(one, TypedColumn)}
        self._seen: dict[str, pa.DataType] = dict.fromkeys(self.columns.keys() - self._asked.keys(), pa.null())
        self._mixed: dict[str, str] = {}

    def see(self, values: Mapping[str, Any]) -> None:
        """Take a record's values, by the source's column names, into account."""
        for name, seen in self._seen.items():
            value = values.get(self.columns[name])
            if value not in (None, "") and (other := type_of(value)) is not seen:
                self._widen(name, other)

    def see_types(self, types: Mapping[str, pa.DataType]) -> None:
        """Take the types of a file's columns, by the source's column names, into account."""
        for name in self._seen:
            if self.columns[name] in types:
                self._widen(name, _kept(types[self.columns[name]]))

    def types(self) -> dict[str, pa.DataType]:
        """The type of each column, in the order of the configuration."""
        found = {**{name: _final(seen) for name, seen in self._seen.items()}, **self._asked}
        return {name: found[name] for name in self.columns}

    def notes(self) -> list[str]:
        """What a user should know: columns whose values have no type in common."""
        return [f"extra column {name!r} holds {what}, and is kept as text." for name, what in self._mixed.items()]

    def _widen(self, name: str, other: pa.DataType) -> None:
        before = self._seen[name]
        self._seen[name] = joined = join(before, other)
        if pa.types.is_string(joined) and before != other and not any(map(pa.types.is_null, (before, other))):
            self._mixed.setdefault(name, f"{before} and {other}")


def mark(types: Mapping[str, pa.DataType]) -> list[bytes]:
    """What types add to the digest of rows: nothing where all are text, as all were before types were kept."""
    other = {name: str(type) for name, type in types.items() if type != pa.string()}
    return [json.dumps(other).encode()] if other else []


def fields(types: Mapping[str, pa.DataType]) -> list[pa.Field]:
    return [pa.field(name, type) for name, type in types.items()]


def converters(types: Mapping[str, pa.DataType]) -> dict[str, Callable[[Any], Any]]:
    """How a cell of each column is read; they raise ValueError for one that is something else."""
    return {name: _reader(type, _READ) for name, type in types.items()}


def schema_of(path: str) -> dict[str, pa.DataType]:
    """The types of a Parquet file's columns. Raises InputError for another file."""
    with reading(path, "a Parquet file"), fsspec.open(path, "rb") as file:
        schema = pq.read_schema(file)
        return dict(zip(schema.names, schema.types, strict=True))


def is_binary(type: pa.DataType) -> bool:
    """Whether a column holds bytes, as some writers store text."""
    if pa.types.is_dictionary(type) or pa.types.is_list(type) or pa.types.is_large_list(type):
        return is_binary(type.value_type)
    return pa.types.is_binary(type) or pa.types.is_large_binary(type) or pa.types.is_binary_view(type)


def type_of(value: Any) -> pa.DataType:
    """The type of a JSON value. An object is kept as JSON text, and an integer beyond 64 bits as its digits."""
    if value is None:
        return pa.null()
    if isinstance(value, list):
        return pa.list_(_common(map(type_of, value)))
    if type(value) is int and not -(2**63) <= value < 2**63:
        return pa.string()
    return _PLAIN.get(type(value), pa.string())


def join(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both; text where no other does."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_list(one) and pa.types.is_list(other):
        return pa.list_(join(one.value_type, other.value_type))
    if _is_number(one) and _is_number(other):
        both = pa.unify_schemas([pa.schema([("a", one)]), pa.schema([("a", other)])], promote_options="permissive")
        return both.field("a").type
    return pa.string()


def _common(types: Iterable[pa.DataType]) -> pa.DataType:
    found = pa.null()
    for one in types:
        found = join(found, one)
    return found


def _is_number(type: pa.DataType) -> bool:
    return pa.types.is_integer(type) or pa.types.is_floating(type)


def _kept(type: pa.DataType) -> pa.DataType:
    """A column's type as it is kept: text in one form, also where it was stored as bytes or with a dictionary."""
    if pa.types.is_dictionary(type):
        return _kept(type.value_type)
    is_text = pa.types.is_large_string(type) or pa.types.is_string_view(type)
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        return pa.list_(_kept(type.value_type))
    return pa.string() if is_text or is_binary(type) else type


def _final(type: pa.DataType) -> pa.DataType:
    """A type for what had no value at all."""
    if pa.types.is_list(type):
        return pa.list_(_final(type.value_type))
    return pa.string() if pa.types.is_null(type) else type


def text(value: Any) -> str | None:
    """A cell as text. Raises ValueError for bytes that are not UTF-8."""
    if value is None or isinstance(value, str):
        return value.strip() or None if value else None
    if isinstance(value, bytes):
        try:
            return value.decode().strip() or None
        except UnicodeDecodeError:
            raise ValueError("the column is binary; text is expected") from None
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _reader(type: pa.DataType, plain: Mapping[pa.DataType, Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """How a value of the type is read; texts in lists stay as they are."""
    if pa.types.is_list(type) and pa.types.is_string(type.value_type):
        return lambda value: (
            None if value in (None, "") else [one if isinstance(one, str) else text(one) for one in value]
        )
    if pa.types.is_list(type):
        inner = _reader(type.value_type, {})
        return lambda value: None if value in (None, "") else [inner(one) for one in value]
    return plain.get(type, _as_it_is)


def _integer(value: Any) -> int | None:
    number = _number(value)
    if number is None:
        return None
    # Not by way of a float: it holds no integer beyond 53 bits.
    digits = isinstance(value, str) and value.strip().lstrip("+-").isdecimal()
    if not digits and not isinstance(value, int) and not number.is_integer():
        raise ValueError(f"{value!r:.40} is not a whole number")
    whole = int(value) if digits or isinstance(value, int) else int(number)
    if not -(2**63) <= whole < 2**63:
        raise ValueError(f"{value!r:.40} does not fit into 64 bits")
    return whole


def _number(value: Any) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool | list | dict):
        raise ValueError(f"{value!r:.40} is not a number")
    try:
        if "_" not in str(value):  # 1_000 is a number in Python alone
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{value!r:.40} is not a number")


def _boolean(value: Any) -> bool | None:
    word = str(value).strip().lower()
    if value is None or not word:
        return None
    if word not in ("true", "false", "1", "0"):
        raise ValueError(f"{value!r:.40} is not true or false")
    return word in ("true", "1")


def _as_it_is(value: Any) -> Any:
    return None if value == "" else value


_PLAIN = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
_READ: dict[pa.DataType, Callable[[Any], Any]] = {
    pa.string(): text,
    pa.int64(): _integer,
    pa.float64(): _number,
    pa.bool_(): _boolean,
}
