"""A custom set as a benchmark: asked in its own words, scored by the metric that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from lavabeam.evaluation.benchmarks.base import Benchmark
from lavabeam.evaluation.custom.metrics import find_metric, table_of
from lavabeam.evaluation.custom.sets import CustomSet, read_set
from lavabeam.evaluation.question import LLAVA, Answered, Question
from lavabeam.evaluation.table import Table
from schemas.errors import InputError


class Custom(Benchmark):
    """Made for one run: it keeps the set that it has read, for its pictures."""

    name = "custom"
    title = "the custom set"
    source = "a dataset of yours"
    protocols: ClassVar = (LLAVA,)

    def __init__(self, metric: str = "exact", images: Path | None = None):
        self.metric = find_metric(metric)
        self.images = images
        self._read: CustomSet | None = None

    @property
    def set(self) -> CustomSet:
        """What `questions` has read."""
        if self._read is None:
            raise InputError("custom: no questions were read.")
        return self._read

    def questions(self, path: Path, protocol: str) -> list[Question]:
        self._read = read_set(path, self.images)
        return self._read.questions

    def score(self, rows: Sequence[Answered], protocol: str) -> Table:
        return table_of(self.metric, rows, {"set": self.set.path, "left_out": self.set.left})
