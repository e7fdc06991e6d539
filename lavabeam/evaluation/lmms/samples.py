"""Read lmms-eval's samples and detect what it silently scores: failures, empty answers, missing images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lavabeam.evaluation.layouts import json_object, rows_in, values_of
from lavabeam.evaluation.table import Table, Total, figures
from schemas.errors import InputError

FAILED = "[LMMS_EVAL_REQUEST_FAILED"
"""How the text begins that its API models put in place of an answer (lmms_eval/models/*/openai.py)."""
_FILE = re.compile(r"_samples_(.+)\.jsonl$")
_CATEGORIES = ("category", "question_category", "question_type", "type")
_LONGEST = 200
_KNOWN = frozenset(
    ("doc_id", "doc", "doc_hash", "target", "arguments", "input", "input_media", "resps", "filtered_resps")
) | {"token_counts", "per_sample_scores"}
"""What a line holds beside metrics."""


@dataclass(frozen=True)
class Sample:
    """One row. `texts`: its answers, one but for tasks that ask several times; `metrics`: what lmms-eval says of it."""

    number: int
    texts: tuple[str, ...]
    metrics: Mapping[str, Any]
    where: str


def read_samples(runs: Path) -> dict[str, list[Sample]]:
    """All samples by task, in the order of their rows. Raises InputError when there are none, for a row that is there
    twice, and for a line that is no sample."""
    found: dict[str, list[Sample]] = {}
    for file in sorted(runs.rglob("*_samples_*.jsonl")):
        match = _FILE.search(file.name)
        assert match is not None
        rows = [_sample(row, where) for where, row in rows_in(values_of(file), file)]
        twice = [number for number, count in Counter(one.number for one in rows).items() if count > 1]
        if twice or match[1] in found:
            what = f"row {twice[0]} of task {match[1]}" if twice else f"task {match[1]}"
            raise InputError(f"{file}: {what} is there twice. Run it again into another --output.")
        found[match[1]] = sorted(rows, key=lambda one: one.number)
    if not any(found.values()):
        raise InputError(f"{runs}: lmms-eval wrote no samples.")
    return found


def check_samples(samples: Mapping[str, Sequence[Sample]], bare: Mapping[str, int], empty_allowed: bool) -> None:
    """Raises InputError with the counts of failed requests, rows without a picture, and empty answers, where they are
    not allowed. bare: rows without a picture by task."""
    every = [(task, one) for task, rows in samples.items() for one in rows]
    failed = [(task, one) for task, one in every if any(text.startswith(FAILED) for text in one.texts)]
    empty = [(task, one) for task, one in every if not "".join(one.texts).strip()]
    count = sum(bare.values())
    wrong = [f"{len(failed)} failed requests"] * bool(failed) + [f"{count} rows without a picture"] * bool(count)
    wrong += [f"{len(empty)} empty answers"] * bool(empty and not empty_allowed)
    if not wrong:
        return
    hints = []
    if failed:
        (task, one), text = failed[0], next(text for text in failed[0][1].texts if text.startswith(FAILED))
        hints.append(f"row {one.number} of {task} says {text:.{_LONGEST}}")
    if count:
        hints.append("an answer to a row without a picture is none")
    if empty and not empty_allowed:
        hints.append(f"row {empty[0][1].number} of {empty[0][0]} is empty (--allow-missing counts empty ones as wrong)")
    raise InputError(
        f"lmms-eval: {', '.join(wrong)} among {len(every)} rows, which it scores as answers: no figure is taken from "
        f"it. {'; '.join(hints)}."
    )


def read_bare(notes: Path) -> dict[str, int]:
    """Rows without a picture by task, as launch.py noted them, 0 included."""
    if not notes.is_file():
        raise InputError(f"{notes}: lmms-eval ended before its rows' pictures were noted. Run it again.")
    lines = [line.split("\t") for line in notes.read_text(encoding="utf-8").splitlines()]
    return {task: int(bare) for task, bare, _ in lines}


def task_figures(samples: Mapping[str, Sequence[Sample]], runs: Path) -> dict[str, dict[str, Any]]:
    """By task: `rows`, `lmms_eval` (its own figures), and `metrics`: ours of each that has a number per row, with
    interval and categories. Ours are means of what it gave each row, in its unit; others (F1, CIDEr) have none."""
    official = _official(runs)
    found = {}
    for task, rows in samples.items():
        names = dict.fromkeys(name for row in rows for name in row.metrics)
        known = {name: value for name, value in official.get(task, {}).items() if isinstance(value, int | float)}
        ours = {name: made for name in names if (made := _metric(name, rows)) is not None}
        found[task] = {"rows": len(rows), "lmms_eval": known, "metrics": ours}
    return found


def _metric(name: str, rows: Sequence[Sample]) -> dict[str, Any] | None:
    values = [(row.metrics[name], _number(row.metrics[name])) for row in rows if name in row.metrics]
    if not values or any(number is None for _, number in values):
        return None
    numbers = [float(number) for _, number in values if number is not None]
    table = Table(
        columns=np.array(numbers).reshape(-1, 1),
        labels=[(_category(value),) for value, _ in values],
        metrics={name: lambda means: means[..., 0]},
        totals=(Total(name),),
        scores=numbers,
    )
    made = figures(table)
    return {
        "rows": len(numbers),
        **made["scores"][name],
        "categories": made["categories"],
        "interval": made["interval"],
    }


def _number(value: Any) -> float | None:
    if isinstance(value, Mapping):
        value = value.get("score")
    return float(value) if isinstance(value, bool | int | float) else None


def _category(value: Any) -> str:
    named = [str(value[key]) for key in _CATEGORIES if value.get(key)] if isinstance(value, Mapping) else []
    return named[0] if named else "all"


def _official(runs: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in sorted(runs.rglob("*_results.json")):
        found |= json_object(file).get("results") or {}
    return found


def _sample(row: dict[str, Any], where: str) -> Sample:
    number, said = row.get("doc_id"), row.get("filtered_resps")
    if not isinstance(number, int) or said is None:
        raise InputError(f"{where}: expected a sample of lmms-eval with doc_id and filtered_resps.")
    texts = tuple(one if isinstance(one, str) else str(one) for one in (said if isinstance(said, list) else [said]))
    metrics = {name: value for name, value in row.items() if name not in _KNOWN}
    return Sample(number, texts, metrics, where)
