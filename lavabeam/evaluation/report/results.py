"""The results of one evaluation, and the same as a conversations dataset with the scores beside the answers."""

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
from schemas.records import BASE
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
)


@dataclass(frozen=True)
class Result:
    """One question with its answer (None: there is none), what is right, and the score (None: not scored)."""

    id: str
    question: str
    image: str | None
    category: str
    answer: str | None
    truth: Any
    score: float | None

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
    `evaluation_right` are beside it. A question without an answer has status `no_answer`.
    """
    draft, target = results.folder / f"{DATASET}.part", results.folder / DATASET
    shutil.rmtree(draft, ignore_errors=True)
    names = _keys(results.rows)
    rows = [_row(results, name, row) for name, row in zip(names, results.rows, strict=True)]
    schema = pa.schema([*BASE["conversations"], *COLUMNS])
    info = {"evaluation": {name: results.figures.get(name) for name in ("benchmark", "protocol", "metric", "scores")}}
    write_dataset(draft, "conversations", [pa.Table.from_pylist(rows, schema)], info)
    if target.exists() and not Dataset.exists(target):
        raise InputError(f"{target}: is in the way: the results as a dataset go there. Move it.")
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    return Dataset.open(target)


def _row(results: Results, key: str, row: Result) -> dict[str, Any]:
    messages = [{"role": "user", "content": [{"type": "text", "text": row.question}]}]
    if row.image:
        messages[0]["content"].insert(0, {"type": "image", "text": None})  # type: ignore[attr-defined]
    if row.answer is not None:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": row.answer}]})
    return {
        "key": key,
        "image_keys": [row.image] if row.image else [],
        "messages": messages,
        "kind": row.category,
        "source": results.title,
        "status": "ok" if row.answer is not None else "no_answer",
        "id": row.id,
        "evaluation_answer": row.answer,
        "references": row.references,
        "evaluation_score": row.score,
        "evaluation_right": results.right(row),
    }


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
    category, image = str(row.get("category") or "all"), row.get("image")
    return Result(str(row["question_id"]), row["question"], image, category, row["answer"], row.get("truth"), score)
