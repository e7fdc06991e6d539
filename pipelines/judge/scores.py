"""The judge's axes and answer format, and the detection of uninformative scores."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from pipelines.llm.answer import AnswerStatus
from pipelines.llm.reading.parsers import parse_json
from pipelines.llm.request import AnswerSchema
from schemas.dataset import Dataset

ASKS = {
    "relevance": "the answers answer the questions that were asked",
    "accuracy": "nothing in them contradicts the notes or is made up",
    "completeness": "they use what there is to say, at the length the question wants",
    "language": "they are correct, fluent, and speak of the picture, never of notes",
}
AXES = tuple(ASKS)
FEWEST = 5
"""Equal scores of fewer conversations than this are no sign: a few good ones may well be all without fault."""
_ORDERS = tuple(itertools.permutations(AXES))


class Scores(BaseModel):
    """What the judge answers: each axis from 1 (bad) to 5 (very good)."""

    model_config = ConfigDict(extra="forbid")

    reason: str
    """Comes first: what is written before the scores is thought about before them."""
    relevance: int = Field(ge=1, le=5)
    accuracy: int = Field(ge=1, le=5)
    completeness: int = Field(ge=1, le=5)
    language: int = Field(ge=1, le=5)


def in_order_of(key: str) -> list[dict[str, str]]:
    """The axes (name, asks) in one of their 24 orders, always the same for the same row key.

    A judge that fills a form by habit writes the same numbers in the same places: then its axes disagree from row to
    row, where a fixed order would make the habit look like an opinion.
    """
    number = int(hashlib.sha256(f"axes/{key}".encode()).hexdigest()[:16], 16)
    return [{"name": name, "asks": ASKS[name]} for name in _ORDERS[number % len(_ORDERS)]]


def schema_of(axes: Sequence[Mapping[str, str]]) -> AnswerSchema:
    """The JSON schema of `Scores` with its keys in the order of `axes`: servers that enforce one write in its order."""
    schema = Scores.model_json_schema()
    names = ["reason", *(axis["name"] for axis in axes)]
    properties = {name: schema["properties"][name] for name in names}
    return AnswerSchema("scores", {**schema, "properties": properties, "required": names})


def read_scores(text: str) -> Scores:
    """Raises ValueError for an answer without scores of the asked form."""
    return Scores.model_validate(parse_json(text))


def doubt_about(dataset: Dataset) -> str:
    """A sentence when all conversations (at least `FEWEST`) have the same scores; empty otherwise.

    The same by axis, or by the place at which each row's question names an axis: a form filled in by habit. Reads the
    score columns up to the first row that settles it.
    """
    by_axis: set[tuple[int, ...]] = set()
    by_place: set[tuple[int, ...]] = set()
    rows = 0
    for row in _scored(dataset):
        by_axis.add(tuple(row[f"judge_{axis}"] for axis in AXES))
        by_place.add(tuple(row[f"judge_{axis['name']}"] for axis in in_order_of(row["key"])))
        rows += 1
        if len(by_axis) > 1 and len(by_place) > 1:
            return ""
    if rows < FEWEST:
        return ""
    shown = min(by_axis, by_place, key=len)
    same = ", ".join(f"{axis} {score}" for axis, score in zip(AXES, *shown, strict=True)) if len(by_axis) == 1 else ""
    where = f"({same})" if same else f"by the place of the axis in the question ({', '.join(map(str, *shown))})"
    return (
        f"all {rows} conversations have the same scores {where}. Such a judge is of no use: read some judge_reason, "
        f"then use another model or prompt, or do not filter on these scores."
    )


def _scored(dataset: Dataset) -> Iterator[dict[str, Any]]:
    columns = ["key", "judge_status", *(f"judge_{axis}" for axis in AXES)]
    for fragment in dataset.fragments:
        if "judge_status" in fragment.owner:
            table = fragment.read(columns)
            for batch in table.filter(pc.equal(table.column("judge_status"), str(AnswerStatus.ok))).to_batches(1024):
                yield from batch.to_pylist()
