"""Official files as streams of checked records, and two files joined by id."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from pipelines.importers.files import expand
from pipelines.importers.json_lists import list_values, member_value, object_values
from schemas.errors import InputError
from schemas.streams import open_text

V = TypeVar("V")
Paths = str | Sequence[str]


@dataclass(frozen=True, slots=True)
class Record:
    """One record of an official file. Its methods raise InputError, naming the place, for a field of another type."""

    values: Mapping[str, Any]
    path: str
    line: int
    name: str = ""
    """The member's name where the file is an object of records."""

    def text(self, field: str) -> str:
        """A field that holds a text."""
        value = self.values.get(field)
        return value if isinstance(value, str) else self.refuse(field, "a text")

    def id(self, field: str) -> str:
        """A field that names something: a text or a whole number. Numbers in texts keep their leading zeros."""
        value = self.values.get(field)
        if isinstance(value, str) and value:
            return value
        return str(value) if type(value) is int else self.refuse(field, "a name or a whole number")

    def number(self, field: str) -> int:
        """A field that holds a whole number."""
        value = self.values.get(field)
        return value if type(value) is int else self.refuse(field, "a whole number")

    def texts(self, field: str) -> tuple[str, ...]:
        """A field that holds a list of texts; empty where there is none, as in test splits."""
        value = self.values.get(field)
        if value is None:
            return ()
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return tuple(value)
        return self.refuse(field, "a list of texts")

    def optional(self, field: str, kind: type[V]) -> V | None:
        """A field that test splits lack: None without a value."""
        value = self.values.get(field)
        if value is None or type(value) is kind:
            return value
        return self.refuse(field, f"{kind.__name__} or nothing")

    def refuse(self, field: str, expected: str) -> NoReturn:
        """Raises InputError about one field."""
        whose = f"{self.name!r}: " if self.name else ""
        found = f"is {self.values[field]!r:.80}" if field in self.values else f"is missing ({_keys(self.values)})"
        raise InputError(
            f"{self.path}:{self.line}: {whose}{field!r} {found}; expected {expected}. Give the official file, "
            "or correct it."
        )


def listed(paths: Paths, member: str | None = None) -> Iterator[Record]:
    """The records of the list that each file is, or of its member; files may be patterns and compressed.

    Raises InputError for a file that cannot be read to its end.
    """
    for path in expand(paths if isinstance(paths, str) else list(paths)):
        with open_text(path) as file:
            for raw in list_values(file, path, member):
                yield record_of(raw.value, path, raw.line)


def named(paths: Paths) -> Iterator[Record]:
    """The members of the object of records that each file is; raises as `listed` does."""
    for path in expand(paths if isinstance(paths, str) else list(paths)):
        with open_text(path) as file:
            for name, raw in object_values(file, path):
                yield record_of(raw.value, path, raw.line, name)


def head(path: str, member: str) -> Any:
    """One member of the object that a file is, None without it. Members before it are read, those after it are not."""
    with open_text(path) as file:
        return member_value(file, path, member)


class ById(Generic[V]):
    """What a second file says, looked up by id.

    Official files list questions and answers in the same order, so it is read only as far as it is asked for. What
    was passed on the way is held as JSON text, which makes any other order correct as well, at the price of memory.
    Values are what JSON can hold. Raises InputError for an id that comes twice.
    """

    def __init__(self, pairs: Iterable[tuple[str, V]], source: str):
        self._pairs, self._source = iter(pairs), source
        self._passed: dict[str, str] = {}

    def pop(self, id: str) -> V | None:
        """The value of an id, once; None where the file has none."""
        if id in self._passed:
            return json.loads(self._passed.pop(id))
        for found, value in self._pairs:
            if found == id:
                return value
            self._pass(found, value)
        return None

    def left(self) -> list[str]:
        """Reads the file to its end; the ids that nobody asked for."""
        for found, value in self._pairs:
            self._pass(found, value)
        return list(self._passed)

    def _pass(self, id: str, value: V) -> None:
        if id in self._passed:
            raise InputError(f"{self._source}: {id} appears twice, so it is ambiguous. Remove one.")
        self._passed[id] = json.dumps(value)


def by_id(records: Iterable[Record], field: str, value: Callable[[Record], V], source: str) -> ById[V]:
    """`ById` over records that name their id in `field`."""
    return ById(((one.id(field), value(one)) for one in records), source)


def record_of(value: Any, path: str, line: int, name: str = "") -> Record:
    """One record; raises InputError for another value than an object."""
    if not isinstance(value, dict):
        found = "null" if value is None else f"{type(value).__name__} {value!r:.40}"
        raise InputError(f"{path}:{line}: expected a JSON object, found {found}. Give the official file.")
    return Record(value, path, line, name)


def _keys(values: Mapping[str, Any]) -> str:
    return f"keys found: {', '.join(list(values)[:12]) or 'none'}"
