"""The `score` step: one decode per picture, and a column from each scorer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BeforeValidator, Field, SerializeAsAny

from pipelines.engine.step import Config, Context, Needs, Runtime, Step
from pipelines.models.batches import Failed, in_batches
from pipelines.models.needs import model_needs
from pipelines.models.pictures import decoded
from pipelines.models.words import text_of
from pipelines.score.registry import DEFAULT, scorer, settings_of
from pipelines.score.scorer import Encoders, Sample, Scorer, Settings, Value
from schemas.dataset import Dataset, Fragment
from schemas.errors import InputError
from schemas.pictures import PictureError, read

IMAGE = "image"


class ScoreStatus(StrEnum):
    """Whether a row has all its scores; else the first reason in this order. The others are there nevertheless."""

    ok = "ok"
    failed = "failed"  # a scorer raised on this row alone; the detail says which and what
    undecodable = "undecodable"  # the bytes are there and no decoder reads them
    no_image = "no_image"  # the row has no picture bytes
    no_text = "no_text"  # the text is null, or blank
    no_value = "no_value"  # a column that a scorer needs is null
    no_score = "no_score"  # a scorer found nothing to say (NaN; the language of "123"); the detail says which


_ORDER = list(ScoreStatus)[1:]


class ScoreConfig(Config):
    """Which scorers, and what they look at."""

    scorers: Annotated[tuple[SerializeAsAny[Settings], ...], BeforeValidator(settings_of)] = Field(
        DEFAULT,
        validate_default=True,
        min_length=1,
        description="names (resolution,blur), or mappings with options ({name: nsfw, model: FOLDER}): docs/score.md",
    )
    text: str = Field("alt_text", description="the column that scorers of texts read: text, texts, or `messages`")
    side: int = Field(512, ge=64, le=1024, description="maximum pixels of the longer side of the measured copy")
    drop: Annotated[bool, Runtime()] = Field(
        False, description="remove existing scores that are not among `scorers`; refused otherwise"
    )
    batch: Annotated[int, Runtime()] = Field(32, ge=1, description="batch size of models")
    device: Annotated[str | None, Runtime()] = Field(None, description="cpu, cuda...; by default cuda if there is one")


class Score(Step[ScoreConfig]):
    """Adds a column per scorer, null where a row has no such score, and a status. No row is left out by it."""

    name, version, Config = "score", 1, ScoreConfig
    statuses = ScoreStatus
    passed_over = frozenset({ScoreStatus.no_image, ScoreStatus.no_text, ScoreStatus.no_value})

    @cached_property
    def scorers(self) -> list[Scorer[Any]]:
        """Raises InputError for two with one column, and for a column that is named like a verdict."""
        made = [scorer(one.name)(one, self.config.text) for one in self.config.scorers]
        names = [field.name for one in made for field in one.adds]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"score: two scorers make the column {twice!r}. Give one of them another `column`.")
        verdict = next((name for name in names if name.endswith(("_status", "_detail"))), None)
        if verdict is not None:
            raise InputError(f"score: {verdict!r} is the name of a status column. Give another `column`.")
        return made

    @property
    def reads(self) -> tuple[str, ...]:
        pictures = (IMAGE,) if any(one.sees for one in self.scorers) else ()
        return tuple(dict.fromkeys([*pictures, *(name for one in self.scorers for name in (*one.texts, *one.others))]))

    @property
    def adds(self) -> tuple[pa.Field, ...]:
        return tuple(field for one in self.scorers for field in one.adds)

    @property
    def needs(self) -> Needs:
        """A process per core, or one with threads where there is a model."""
        models = [path for one in self.scorers for path in one.models]
        return model_needs(models, self.config.device) if models else Needs()

    def depends_on(self) -> dict[str, Any]:
        """Each scorer's version and what it depends on, in the order of their columns."""
        # Under a name that is no option's: it would replace that option, and with it names of columns and thresholds.
        return {"scorer_versions": [[one.name, one.version, one.check()] for one in self.scorers]}

    def fragments(self, dataset: Dataset) -> Sequence[Fragment]:
        """All. Raises InputError where scores of an earlier run would vanish without having been asked to."""
        first, asked = next(iter(dataset.fragments), None), [name for name in self.reads if name != IMAGE]
        if first is not None and asked and set(asked) <= set(first.owner):
            schema = first.read(asked).schema
            for one in self.scorers:
                one.check_columns(schema)
        own = {field.name for field in self.output_schema}
        files = (fragment.entry.files.get(self.name) for fragment in dataset.fragments)
        lost = [column for file in files if file is not None for column in file.columns if column not in own]
        if lost and not self.config.drop:
            raise InputError(
                f"score: {dataset.path} has the scores {', '.join(dict.fromkeys(lost))}, which this run would remove: "
                "list all scorers of a dataset together. Add these, or give --drop."
            )
        return dataset.fragments

    def setup(self, context: Context) -> None:
        encoders = Encoders(self.config.device)
        for one in self.scorers:
            one.setup(encoders)

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        # Where no model wants several, one decoded picture at a time is in memory.
        several = any(one.models for one in self.scorers) or not self._sees_pixels
        together = self.config.batch if several else 1
        columns: dict[str, list[Any]] = {field.name: [] for field in self.output_schema}
        for start in range(0, batch.num_rows, together):
            for name, values in self._scored(batch.slice(start, together)).items():
                columns[name] += values
        arrays = [pa.array(columns[field.name], field.type) for field in self.output_schema]
        return pa.RecordBatch.from_arrays(arrays, schema=self.output_schema)

    def _scored(self, batch: pa.RecordBatch) -> dict[str, list[Any]]:
        """The columns of a few rows."""
        opened = [self._opened(row) for row in batch.to_pylist()]
        reasons: list[dict[ScoreStatus, str | None]] = [{} for _ in opened]
        columns: dict[str, list[Any]] = {}
        for one in self.scorers:
            ready = []
            for row, (sample, problem) in enumerate(opened):
                missing = _missing(one, sample, problem)
                if missing is None:
                    ready.append(row)
                else:
                    reasons[row].setdefault(*missing)
            values: list[Value] = [None] * len(opened)
            for row, made in zip(ready, self._made(one, [opened[row][0] for row in ready]), strict=True):
                if isinstance(made, Failed):
                    reasons[row].setdefault(ScoreStatus.failed, f"{one.column}: {made.detail}")
                elif _is_nothing(made):
                    reasons[row].setdefault(ScoreStatus.no_score, one.column)
                else:
                    values[row] = made
            for number, field in enumerate(one.adds):
                several = len(one.adds) > 1
                columns[field.name] = [value[number] if several and value is not None else value for value in values]  # type: ignore[index]
        found = [next(((status, why[status]) for status in _ORDER if status in why), ("ok", None)) for why in reasons]
        columns[f"{self.name}_status"] = [str(status) for status, _ in found]
        columns[f"{self.name}_detail"] = [detail for _, detail in found]
        return columns

    def _made(self, one: Scorer[Any], samples: Sequence[Sample]) -> list[Value | Failed]:
        return in_batches(samples, max(len(samples), 1), one.scores)

    def _opened(self, row: dict[str, Any]) -> tuple[Sample, tuple[ScoreStatus, str | None] | None]:
        """The row for scorers, and what is wrong with its picture. A picture is decoded where one asks for pixels."""
        data = (row.pop(IMAGE, None) or {}).get("bytes")
        sample = Sample(row, side=self.config.side)
        if not data:
            return sample, (ScoreStatus.no_image, None)
        try:
            sample.header = read(data)
            if self._sees_pixels:
                sample.pixels = decoded(data, sample.header)
        except PictureError as error:
            return sample, (ScoreStatus.undecodable, str(error))
        return sample, None

    @cached_property
    def _sees_pixels(self) -> bool:
        return any(one.sees == "pixels" for one in self.scorers)


def _missing(
    one: Scorer[Any], sample: Sample, problem: tuple[ScoreStatus, str | None] | None
) -> tuple[ScoreStatus, str | None] | None:
    """Why a scorer cannot look at a row."""
    if (one.sees == "pixels" and sample.pixels is None) or (one.sees == "header" and sample.header is None):
        return problem
    if any(text_of(sample.row[column], column) is None for column in one.texts):
        return ScoreStatus.no_text, None
    empty = next((column for column in one.others if sample.row[column] is None), None)
    return (ScoreStatus.no_value, empty) if empty is not None else None


def _is_nothing(value: Value) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))
