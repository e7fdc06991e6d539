"""MM-Vet: 218 open questions that need several capabilities; a judge gives each answer 0 to 1 in tenths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lavabeam.evaluation.benchmarks.base import Benchmark, write_json
from lavabeam.evaluation.layouts import field, identity, json_object
from lavabeam.evaluation.question import LLAVA, LMMS_EVAL, Answered, Question
from lavabeam.evaluation.table import Metric, Table, Total, share
from schemas.errors import InputError
from schemas.streams import plain_suffix

_LMMS_EVAL_FIRST = (
    "First please perform reasoning, and think step by step to provide best answer to the following question: \n\n"
)


class Mmvet(Benchmark):
    """lmms-eval asks for reasoning first, which changes answers and scores."""

    name = "mm-vet"
    title = "MM-Vet"
    source = "Yu et al. 2023, arXiv:2308.02490; github.com/yuweihao/MM-Vet"
    tokens: ClassVar = {LLAVA: 1024, LMMS_EVAL: 1024}
    reviewed: ClassVar = True
    truth_file = "mm-vet.json, which names the capabilities"
    upload_file = "an object of answers by v1_N, as MM-Vet's evaluator takes it"

    def questions(self, path: Path, protocol: str) -> list[Question]:
        """LLaVA's llava-mm-vet.jsonl, or the official mm-vet.json."""
        if plain_suffix(path.name) == ".jsonl":
            return super().questions(path, protocol)
        found = []
        for key, row in json_object(path).items():
            where = f"{path}, {key!r}"
            if not isinstance(row, dict):
                raise InputError(f"{where}: is {row!r:.60}; expected a question. Give mm-vet.json.")
            official = {"question_id": key, "text": field(row, "question", where), "image": row.get("imagename")}
            found.append(self.question(official, where, protocol))
        return found

    def question(self, row: dict[str, Any], where: str, protocol: str) -> Question:
        stem = field(row, "text", where)
        name = self.plain_id(identity(field(row, "question_id", where), where))
        asked = stem if protocol == LLAVA else f"{_LMMS_EVAL_FIRST}{stem}"
        return Question(name, asked, stem, row.get("image"))

    def plain_id(self, name: str) -> str:
        return name.removeprefix("v1_")

    def review_table(self, questions: Sequence[Question], paths: Sequence[Path], truth: Path | None) -> Table:
        """Scores in the `*_gpt-4-grade-Nruns.json` of MM-Vet's evaluator; a question's is the mean of its runs."""
        if truth is None:
            raise InputError(f"MM-Vet's capabilities are in its truth file. Give --truth: {self.truth_file}.")
        grades = [scores for path in paths for scores in self._runs(questions, path)]
        columns = np.array(grades).T
        needs = self._capabilities(truth)
        if missing := [question.id for question in questions if question.id not in needs]:
            raise InputError(f"{truth}: has no v1_{missing[0]}, nor {len(missing) - 1} others. Give {self.truth_file}.")
        labels = [(*needs[one.id], *{"+".join(needs[one.id])} - {*needs[one.id]}) for one in questions]
        metrics: dict[str, Metric] = {"score": lambda means: 100 * means.mean(axis=-1)}
        metrics |= {f"run {number}": share(number - 1) for number in range(1, len(grades) + 1)}
        each = (100 * columns.mean(axis=0)).tolist()
        scores = columns.mean(axis=1).tolist()
        more = {"runs": each, "spread": float(np.std(each))}
        return Table(columns, labels, metrics, (Total("score"),), scores, more=more)

    def _runs(self, questions: Sequence[Question], path: Path) -> list[list[float]]:
        """A list of scores, in the questions' order, for each run in a file."""
        graded = {self.plain_id(key): row for key, row in json_object(path).items()}
        if foreign := graded.keys() - {question.id for question in questions}:
            raise InputError(f"{path}: {len(foreign)} grades of other questions, such as v1_{min(foreign)}.")
        rows = []
        for question in questions:
            row = graded.get(question.id)
            scores = row.get("score") if isinstance(row, dict) else None
            if not isinstance(scores, list) or not scores:
                raise InputError(f"{path}: no grade of v1_{question.id}. Give the grade file of MM-Vet's evaluator.")
            if not all(isinstance(one, int | float) and 0 <= one <= 1 for one in scores):
                raise InputError(f"{path}: the grades of v1_{question.id} are {scores!r:.60}; expected 0 to 1.")
            rows.append(scores)
        runs = {len(scores) for scores in rows}
        if len(runs) > 1:
            raise InputError(f"{path}: between {min(runs)} and {max(runs)} grades a question; all need as many.")
        return [list(run) for run in zip(*rows, strict=True)]

    def _capabilities(self, path: Path) -> dict[str, tuple[str, ...]]:
        found = {}
        for key, row in json_object(path).items():
            needs = row.get("capability") if isinstance(row, dict) else None
            if not isinstance(needs, list):
                raise InputError(f"{path}, {key!r}: names no capability. Give {self.truth_file}.")
            found[self.plain_id(key)] = tuple(sorted(map(str, needs)))
        return found

    def upload(self, rows: Sequence[Answered], path: Path, every: Path | None) -> int:
        write_json(path, {f"v1_{row.question.id}": row.text or "" for row in rows})
        return len(rows)
