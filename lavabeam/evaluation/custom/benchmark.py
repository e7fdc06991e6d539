"""A custom set as a benchmark: questions are asked verbatim and scored by the chosen metric."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from lavabeam.evaluation.benchmarks.base import Benchmark
from lavabeam.evaluation.custom.judged import JUDGE, judged_table
from lavabeam.evaluation.custom.metrics import find_metric, table_of
from lavabeam.evaluation.custom.sets import CustomSet, read_set
from lavabeam.evaluation.question import LLAVA, Answered, Question
from lavabeam.evaluation.review.mmvet import GradeSettings
from lavabeam.evaluation.table import Table
from schemas.config import load_yaml
from schemas.errors import InputError

_MISSING = "missing"


class Custom(Benchmark):
    """Made for one run: it keeps the set that it has read, for its pictures."""

    name = "custom"
    title = "the custom set"
    source = "a dataset of yours"
    tokens: ClassVar = {LLAVA: 1024}
    protocols: ClassVar = (LLAVA,)
    truth_file = "nothing: a custom set holds its answers"

    def __init__(
        self,
        metric: str = "exact",
        images: Path | None = None,
        judge: Path | None = None,
        budget: Path | None = None,
        min_graded: float | None = None,
    ):
        """judge: a YAML file of GradeSettings, for the metric `judge`. budget: what its caps count for. min_graded: the
        smallest share of graded answers that is scored; by default all must be."""
        if (metric == JUDGE) != (judge is not None):
            raise InputError("--metric judge takes --judge FILE (YAML: model, provider, base_url, ...), others do not.")
        if min_graded is not None and judge is None:
            raise InputError(f"--min-graded is for --metric judge; {metric} grades every answer.")
        self._judge = None if judge is None else load_yaml(judge, GradeSettings)
        self._budget = budget or Path(JUDGE)
        self._min_graded = 1.0 if min_graded is None else min_graded
        self._metric = None if metric == JUDGE else find_metric(metric)
        self._images = images
        self._read: CustomSet | None = None

    @property
    def set(self) -> CustomSet:
        """What `questions` has read."""
        if self._read is None:
            raise InputError("custom: no questions were read.")
        return self._read

    def questions(self, path: Path, protocol: str) -> list[Question]:
        self._read = read_set(path, self._images)
        return self._read.questions

    def score(self, rows: Sequence[Answered], protocol: str) -> Table:
        made_of = {"set": self.set.path, "left_out": self.set.left}
        if self._judge is not None:
            return judged_table(rows, self._judge, self._budget, self._min_graded, made_of)
        assert self._metric is not None
        return table_of(self._metric, rows, made_of)

    def stored(self, questions: Sequence[Question], folder: Path) -> list[Question]:
        """The questions with their pictures in `folder`, each once, under names of their contents.

        One whose picture is nowhere keeps its place, with a name that is not there: it is answered by a status.
        """
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for question, names in zip(questions, self.set.shown, strict=False):
            pictures = tuple(self._stored(name, folder) for name in names)
            found.append(replace(question, image=pictures or None))
        return found

    def _stored(self, name: object, folder: Path) -> str:
        try:
            picture = self.set.pictures.find(name)
            data = picture if isinstance(picture, bytes) else picture.read_bytes()
        except (InputError, OSError):
            return f"{_MISSING}/{name}"
        kept = folder / (hashlib.sha256(data).hexdigest()[:32] + (".png" if data.startswith(b"\x89PNG") else ".jpg"))
        if not kept.is_file():
            draft = kept.with_suffix(".part")
            draft.write_bytes(data)
            draft.replace(kept)
        return kept.name
