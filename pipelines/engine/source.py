"""The importer interface as seen by the engine (pipelines/importers/base.py is the class to extend)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, Self

import pyarrow as pa

from pipelines.engine.step import Config
from schemas.entries import StatusRule


class HasRows(Protocol):
    """What one task reads: a fragment, or a part of a source."""

    @property
    def rows(self) -> int:
        """How many rows are read."""


class SourceSlice(HasRows, Protocol):
    """Consecutive rows of a source; equal digests mean equal rows."""

    @property
    def digest(self) -> str: ...

    def placed(self, offset: int) -> Self:
        """The same rows, with `offset` added to row numbers that become keys."""


class Source(Protocol):
    """A source of rows, cut into slices. `rows` runs in workers."""

    name: ClassVar[str]
    version: ClassVar[int]
    makes: ClassVar[str]
    located_by: ClassVar[tuple[str, ...]]

    @property
    def config(self) -> Config: ...

    @property
    def status_column(self) -> str: ...

    @property
    def status_rule(self) -> StatusRule: ...

    def slices(self, known: Sequence[int] = ()) -> Sequence[SourceSlice]: ...

    def rows(self, slice: Any) -> pa.Table: ...

    def notes(self) -> list[str]: ...
