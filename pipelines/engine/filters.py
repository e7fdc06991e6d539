"""A step defined by one function from a row to a score or (False, reason).

The engine provides what every step has: resume, retry, worker processes, counts by status, mixes and reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from numbers import Real
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.engine.step import Config, Step
from schemas.errors import InputError
from schemas.pictures import PictureError

Verdict = float | tuple[bool, str]
IMAGE = "image"
_OWN = ("ok", "no_image", "undecodable", "no_score")


class FilterStep(Step[Config]):
    """Adds the score of `score` as a float32 column with the step's name; null if there is none.

    Statuses: `ok`; `no_image` for a row without picture bytes, which `score` never sees; `undecodable` for a picture
    that schemas/pictures.py refuses; `no_score` for NaN and infinity; and the declared reasons.
    """

    score: ClassVar[Callable[..., Verdict]]
    takes_config: ClassVar[bool] = False

    def __init__(self, config: Config | None = None):
        super().__init__(type(self).Config() if config is None else config)

    @property
    def adds(self) -> tuple[pa.Field, ...]:
        return (pa.field(self.name, pa.float32()),)

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.rows_to_batch([self._scored(row) for row in batch.to_pylist()])

    def _scored(self, row: dict[str, Any]) -> dict[str, Any]:
        if IMAGE in self.reads:
            row[IMAGE] = (row[IMAGE] or {}).get("bytes")
            if not row[IMAGE]:
                return {"status": "no_image"}
        try:
            verdict = self._score(row, self.config) if self.takes_config else self._score(row)
        except PictureError as error:
            return {"status": "undecodable", "detail": str(error)}
        if isinstance(verdict, Real) and not isinstance(verdict, bool):
            value = float(verdict)
            return {self.name: value, "status": "ok"} if math.isfinite(value) else {"status": "no_score"}
        if isinstance(verdict, tuple) and len(verdict) == 2 and verdict[0] is False and verdict[1] in self._reasons:
            return {"status": str(verdict[1])}
        declared = ", ".join(sorted(self._reasons)) or "none"
        raise InputError(
            f"filter {self.name!r} returned {verdict!r}: expected a number, or (False, reason) with one of its "
            f"reasons (declared: {declared})."
        )

    @cached_property
    def _reasons(self) -> frozenset[str]:
        return frozenset(status.value for status in self.statuses) - set(_OWN)

    @property
    def _score(self) -> Callable[..., Verdict]:
        return type(self).score


def filter_step(
    name: str,
    *,
    version: int,
    reads: Sequence[str] = (IMAGE,),
    reasons: Sequence[str] = (),
    config: type[Config] | None = None,
) -> Callable[[Callable[..., Verdict]], type[FilterStep]]:
    """Turns `row -> score, or (False, reason)` into a step (a class) called `name`.

    The function gets a mapping of the columns that it `reads`; `image` is the encoded bytes, for schemas/pictures.py.
    With `config` its second argument is an instance of it. `reasons` declares every reason it may return: these are the
    statuses for `--retry` and mixes. Increment `version` when the score of a row can change. Raises InputError for a
    reason that is a built-in status.
    """
    taken = [reason for reason in reasons if reason in _OWN]
    if taken:
        raise InputError(f"filter {name!r}: {taken[0]!r} is a status of every filter. Give the reason another name.")

    def made(function: Callable[..., Verdict]) -> type[FilterStep]:
        statuses = StrEnum("statuses", {word: word for word in (*_OWN, *reasons)})  # type: ignore[misc]
        body: Mapping[str, Any] = {
            "name": name,
            "version": version,
            "reads": tuple(reads),
            "statuses": statuses,
            "score": staticmethod(function),
            "takes_config": config is not None,
            "Config": config or Config,
            "__doc__": function.__doc__,
            # The decorated name is the class, so processes find it where the function was defined.
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
        }
        return type(function.__name__, (FilterStep,), dict(body))

    return made
