"""The results of one evaluation, and their conversion to a conversations dataset with scores."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from lavabeam.evaluation.custom.metrics import METRICS
from lavabeam.evaluation.layouts import json_object, rows_of
from lavabeam.evaluation.run import RESULTS, SCORES
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.records import BASE, MESSAGE
from schemas.writing import write_dataset

DATASET = "rows"
"""The folder of the dataset, in that of the results."""
HALF = 0.5
"""Score from which an answer counts as right where a benchmark gives parts of a point: VQA accuracy's two people."""
COLUMNS = (
    pa.field("evaluation_answer", pa.string()),
    pa.field("references", pa.list_(pa.string())),
    pa.field("evaluation_score", pa.float64()),
    pa.field("evaluation_right", pa.bool_()),
    pa.field("evaluation_detail", pa.string()),
)


@dataclass(frozen=True)
class Result:
    """One question with its answer (None: there is none), what is right, and the score (None: not scored; `detail` may
    say why)."""

    id: str
    question: str
    image: str | None
    category: str
    answer: str | None
    truth: Any
    score: float | None
    detail: str | None = None

    @property
    def references(self) -> list[str]:
        """What is right, as texts."""
        several = self.truth if isinstance(self.truth, list | tuple) else [self.truth]
        return [
            one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in several if one is not None
        ]


@dataclass(frozen=True)
class Results:
    """All results in `folder`, and the figures of `scores.json`."""

    folder: Path
    figures: dict[str, Any]
    rows: list[Result] = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Raises InputError for a folder without results, or whose results have no scores."""
        missing = [name for name in (SCORES, RESULTS) if not (folder / name).is_file()]
        if missing:
            raise InputError(f"{folder}: holds no {missing[0]}. Give the --output of `lavabeam evaluate`.")
        rows = [_result(row, where) for where, row in rows_of(folder / RESULTS)]
        if not any(row.score is not None for row in rows):
            raise InputError(f"{folder / RESULTS}: no answer is scored. Evaluate with the truth (--truth).")
        return cls(folder, json_object(folder / SCORES), rows)

    @property
    def title(self) -> str:
        """The benchmark's name, or the custom set's."""
        made_of = self.figures.get("set")
        return Path(made_of).name if made_of else str(self.figures.get("benchmark", "evaluation"))

    @property
    def metric(self) -> str:
        """The custom set's metric; empty for an official benchmark."""
        return str(self.figures.get("metric") or "")

    @cached_property
    def threshold(self) -> float | None:
        """The score from which an answer is right; None where a metric (CIDEr, BLEU, ROUGE) does not say."""
        known = METRICS.get(self.metric)
        return HALF if known is None else known.right

    def right(self, row: Result) -> bool | None:
        if row.score is None or self.threshold is None:
            return None
        return row.score >= self.threshold


def write_rows(results: Results) -> Dataset:
    """The results as a conversations dataset, in the folder `rows` beside them; an earlier one there is replaced.

    A row is a question with the model's answer; `evaluation_answer`, `references`, `evaluation_score` and
    `evaluation_right` are beside it, and `evaluation_detail`: why the judge left it without a score. A question without
    an answer has status `no_answer`.
    """
    draft, target = results.folder / f"{DATASET}.part", results.folder / DATASET
    shutil.rmtree(draft, ignore_errors=True)
    info = {"evaluation": {name: results.figures.get(name) for name in ("benchmark", "protocol", "metric", "scores")}}
    write_dataset(draft, "conversations", [_table(results)], info)
    if target.exists() and not Dataset.exists(target):
        raise InputError(f"{target}: already exists, but the results dataset is written there. Move it.")
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    return Dataset.open(target)


def _table(results: Results) -> pa.Table:
    """All rows, column by column: a list of dictionaries takes nearly twice as long."""
    rows, empty = results.rows, pa.schema([*BASE["conversations"], *COLUMNS])
    columns: dict[str, Any] = {
        "key": _keys(rows),
        "image_keys": [[row.image] if row.image else [] for row in rows],
        "messages": _messages(rows),
        "kind": [row.category for row in rows],
        "source": [results.title] * len(rows),
        "status": ["no_answer" if row.answer is None else "ok" for row in rows],
        "id": [row.id for row in rows],
        "evaluation_answer": [row.answer for row in rows],
        "references": [row.references for row in rows],
        "evaluation_score": [row.score for row in rows],
        "evaluation_right": [results.right(row) for row in rows],
        "evaluation_detail": [row.detail for row in rows],
    }
    arrays = []
    for column in empty:
        values = columns.get(column.name)
        made = pa.nulls(len(rows), column.type) if values is None else values
        arrays.append(made if isinstance(made, pa.Array) else pa.array(made, column.type))
    return pa.Table.from_arrays(arrays, schema=empty)


def _messages(rows: Sequence[Result]) -> pa.Array:
    """The question, with its picture in front, and the answer, where there is one."""
    kinds: list[str] = []
    texts: list[str | None] = []
    roles: list[str] = []
    part_ends, message_ends = [0], [0]
    for row in rows:
        for role, text in (("user", row.question), ("assistant", row.answer)):
            if text is None:
                continue
            if role == "user" and row.image:
                kinds.append("image")
                texts.append(None)
            kinds.append("text")
            texts.append(text)
            roles.append(role)
            part_ends.append(len(kinds))
        message_ends.append(len(roles))
    parts = pa.StructArray.from_arrays([pa.array(kinds, pa.string()), pa.array(texts, pa.string())], ["type", "text"])
    contents = pa.ListArray.from_arrays(pa.array(part_ends, pa.int32()), parts)
    messages = pa.StructArray.from_arrays([pa.array(roles, pa.string()), contents], ["role", "content"])
    return pa.ListArray.from_arrays(pa.array(message_ends, pa.int32()), messages).cast(pa.list_(MESSAGE))


def _keys(rows: Sequence[Result]) -> list[str]:
    """The ids, with a number behind those that a benchmark uses again."""
    seen: Counter[str] = Counter()
    keys = []
    for row in rows:
        seen[row.id] += 1
        keys.append(row.id if seen[row.id] == 1 else f"{row.id}#{seen[row.id]}")
    return keys


def _result(row: dict[str, Any], where: str) -> Result:
    lacking = {"question_id", "question", "answer", "score"} - row.keys()
    score = row.get("score")
    if lacking or not (score is None or isinstance(score, int | float)):
        what = f"no {min(lacking)!r}" if lacking else f"score {score!r:.40}"
        raise InputError(f"{where}: {what}; expected a result of `lavabeam evaluate --output`.")
    name, category, image = str(row["question_id"]), str(row.get("category") or "all"), row.get("image")
    return Result(name, row["question"], image, category, row["answer"], row.get("truth"), score, row.get("detail"))
