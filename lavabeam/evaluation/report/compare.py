"""Compare two models on the same questions, with a significance test."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lavabeam.evaluation.custom.significance import exact_test
from lavabeam.evaluation.interval import SEED, percentiles, resampled_means
from lavabeam.evaluation.report.results import Result, Results
from schemas.errors import InputError

ALL = "all questions"
Pair = tuple[Result, Result]


@dataclass(frozen=True)
class Comparison:
    """`pairs`: the two results of each question that both have scored; `unscored`: how many questions are not."""

    first: Results
    second: Results
    pairs: list[Pair]
    unscored: int = 0

    @property
    def test(self) -> str:
        """McNemar's where answers are right or wrong, a sign test where they have scores alone."""
        return "McNemar's exact test" if self.first.threshold is not None else "exact sign test"

    def better(self, pair: Pair) -> int:
        """-1 where the first model does better, 1 where the second does, 0 where neither: by right and wrong, or by
        scores where a metric knows no right answers."""
        mine, other = (self._mark(results, row) for results, row in zip((self.first, self.second), pair, strict=True))
        return int(other > mine) - int(mine > other)

    def report(self) -> dict[str, Any]:
        """Figures by category and for `all questions`: means x 100 of both models, their difference (second - first)
        with a 95% interval (bootstrap by question), how many questions only one does better, and the p-value."""
        groups: dict[str, list[Pair]] = {ALL: self.pairs}
        named: defaultdict[str, list[Pair]] = defaultdict(list)
        for pair in self.pairs:
            named[pair[0].category].append(pair)
        if len(named) > 1:
            groups |= dict(sorted(named.items()))
        return {
            "first": str(self.first.folder),
            "second": str(self.second.folder),
            "benchmark": self.first.title,
            "test": self.test,
            "unscored": self.unscored,
            "categories": {name: self._figures(pairs) for name, pairs in groups.items()},
        }

    def _figures(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        scores = np.array([(one.score, other.score) for one, other in pairs], np.float64)
        differences = 100 * (scores[:, 1] - scores[:, 0]).reshape(-1, 1)
        low, high = percentiles(resampled_means(differences, np.random.default_rng(SEED))[:, 0])
        marks = [self.better(pair) for pair in pairs]
        return {
            "questions": len(pairs),
            "first": 100 * float(scores[:, 0].mean()),
            "second": 100 * float(scores[:, 1].mean()),
            "difference": float(differences.mean()),
            "low": low,
            "high": high,
            "only_first": marks.count(-1),
            "only_second": marks.count(1),
            "p": exact_test(marks.count(-1), marks.count(1)),
        }

    @staticmethod
    def _mark(results: Results, row: Result) -> float:
        found = results.right(row)
        return float(row.score or 0) if found is None else float(found)


def compare(first: Results, second: Results) -> Comparison:
    """The two evaluations joined by question. Raises InputError where benchmark or metric differ, where one has
    questions that the other lacks, and where truths differ: then the files were of other versions."""
    for name in ("benchmark", "metric", "protocol"):
        mine, other = first.figures.get(name), second.figures.get(name)
        if mine != other:
            raise InputError(f"{second.folder}: {name} {other}, and {first.folder} has {mine}. Use equal settings.")
    mine, other = _by_question(first), _by_question(second)
    lonely = [key for key in mine if key not in other], [key for key in other if key not in mine]
    if any(lonely):
        example = (lonely[0] or lonely[1])[0]
        raise InputError(
            f"{second.folder}: other questions than {first.folder}: {len(lonely[0])} are only there, {len(lonely[1])} "
            f"only here (first: id {example[0]}, {example[1]!r:.60}). Evaluate both on one set."
        )
    pairs = [(mine[key], other[key]) for key in mine if None not in (mine[key].score, other[key].score)]
    changed = next((one.id for one, two in pairs if one.truth != two.truth), None)
    if changed is not None:
        raise InputError(f"{second.folder}: question {changed} has another truth than in {first.folder}. Use one file.")
    if not pairs:
        raise InputError(f"{second.folder}: no question is scored in both. Evaluate with the truth (--truth).")
    return Comparison(first, second, pairs, len(mine) - len(pairs))


def _by_question(results: Results) -> dict[tuple[str, str, int], Result]:
    """By id and words; benchmarks that ask the same twice get a number."""
    seen: Counter[tuple[str, str]] = Counter()
    found: dict[tuple[str, str, int], Result] = {}
    for row in results.rows:
        found[row.id, row.question, seen[row.id, row.question]] = row
        seen[row.id, row.question] += 1
    return found
