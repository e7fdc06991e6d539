"""Metrics of custom sets: a score per question, and the figure of the set."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lavabeam.evaluation.custom.cider import cider_d
from lavabeam.evaluation.interval import Metric as Figure
from lavabeam.evaluation.question import Answered
from lavabeam.evaluation.table import Table, Total, share
from lavabeam.evaluation.vqa import challenge_accuracy
from schemas.errors import InputError

Scorer = Callable[[Sequence[Answered]], np.ndarray]
"""The columns of each row, [questions, columns], the first being its score; `text` None scores 0."""
_FEWEST_PEOPLE = 4
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PRECISIONS = 4
_MARKUP = str.maketrans("", "", "*_`[]")
_NAMED = re.compile(r"(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?:\s+is)?\s*:?\s*\(?([A-Z])\)?(?=[\s.,;:)]|$)")
_HEDGED = re.compile(r"\b[A-Z]\)?\s*(?:or|and|/)\s*\(?[A-Z]\b(?!')")
_ALONE = re.compile(r"\(?([A-Za-z])\)?[.:)]?")


@dataclass(frozen=True)
class Metric:
    """A way to score. `right`: the score from which an answer counts as right, where that can be said."""

    name: str
    about: str
    columns: Scorer
    figure: Figure
    right: float | None = None
    most: float = 1.0
    """The best score of one answer."""


def table_of(metric: Metric, rows: Sequence[Answered], more: Mapping[str, Any] | None = None) -> Table:
    """The scored rows, by category and pooled; `more` is reported beside the figures. Raises InputError for references
    that the metric cannot use."""
    columns = metric.columns(rows)
    if metric.name == "choice":
        more = {**(more or {}), "unreadable": int(columns[:, 1].sum())}
    return Table(
        columns=columns,
        labels=[(row.question.category,) for row in rows],
        metrics={metric.name: metric.figure},
        totals=(Total(metric.name),),
        scores=columns[:, 0].tolist(),
        more={"metric": metric.name, "about": metric.about, **(more or {})},
    )


def find_metric(name: str) -> Metric:
    """Raises InputError naming the known ones, and for a package that is missing."""
    from schemas.config import nearest

    if name not in METRICS:
        raise InputError(f"there is no metric {name!r}. {nearest(name, [*METRICS, 'judge'])}")
    return METRICS[name]


def _best(score: Callable[[str, str], float]) -> Scorer:
    """The best score against any of a question's references."""

    def columns(rows: Sequence[Answered]) -> np.ndarray:
        found = [0.0 if row.text is None else max(score(row.text, one) for one in row.truth) for row in rows]
        return np.array(found).reshape(-1, 1)

    return columns


def _exact(answer: str, reference: str) -> float:
    return float(_plain(answer) == _plain(reference))


def _plain(text: str) -> str:
    """Lower case, single blanks, no final full stop: as `trainer.inference.evaluate` compares."""
    return " ".join(text.lower().split()).removesuffix(".").strip()


def letter_of(text: str) -> str | None:
    """The letter of the option that an answer names; None where it names none, or more than one.

    Beyond LLaVA's three forms: a small letter alone, one in Markdown, after `Answer:` or `Option`, and on a first line.
    """
    from trainer.inference.evaluate import choice

    plain = text.translate(_MARKUP).strip()
    named = set(_NAMED.findall(plain))
    if len(named) > 1 or _HEDGED.search(plain):
        return None
    if named:
        return str(named.pop())
    first = plain.split("\n", 1)[0].strip()
    alone = _ALONE.fullmatch(first)
    return alone[1].upper() if alone else choice(plain)


def _choice(rows: Sequence[Answered]) -> np.ndarray:
    found = []
    for row in rows:
        letters = {letter_of(one) for one in row.truth} - {None}
        if not letters:
            raise InputError(
                f"question {row.question.id}: the reference {row.truth[0]!r:.60} is not an option's letter. Choose "
                "--metric exact, or give letters."
            )
        said = None if row.text is None else letter_of(row.text)
        found.append([float(said in letters), float(row.text is not None and said is None)])
    return np.array(found, float).reshape(-1, 2)


def _vqa(rows: Sequence[Answered]) -> np.ndarray:
    for row in rows:
        if len(row.truth) < _FEWEST_PEOPLE:
            raise InputError(
                f"question {row.question.id}: {len(row.truth)} references; VQA accuracy needs the answers of at least "
                f"{_FEWEST_PEOPLE} people (officially ten). Choose --metric exact."
            )
    found = [0.0 if row.text is None else challenge_accuracy(row.text, row.truth) for row in rows]
    return np.array(found).reshape(-1, 1)


def _f1(answer: str, reference: str) -> float:
    """SQuAD's token F1 (Rajpurkar et al., arXiv 1606.05250, section 6.1): without case, punctuation, articles."""
    said, wanted = (
        Counter(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()) for text in (answer, reference)
    )
    if not wanted:  # an article or a sign alone, such as "A": nothing is left to have in common
        return _exact(answer, reference)
    common = (said & wanted).total()
    return 2 * common / (said.total() + wanted.total()) if common else 0.0


def _cider(rows: Sequence[Answered]) -> np.ndarray:
    scores = cider_d([row.text or "" for row in rows], [row.truth for row in rows])
    return np.array(scores).reshape(-1, 1)


def _rouge(rows: Sequence[Answered]) -> np.ndarray:
    scorer = _package("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=False)
    return _best(lambda answer, reference: scorer.score(reference, answer)["rougeL"].fmeasure)(rows)


def _bleu(rows: Sequence[Answered]) -> np.ndarray:
    """Sentence BLEU, then what corpus BLEU is made of: matches and totals by length of run, words, wanted words."""
    bleu = _package("sacrebleu.metrics.bleu").BLEU(lowercase=True, effective_order=True)
    found = []
    for row in rows:
        one = bleu.sentence_score(row.text or "", list(row.truth))
        found.append([one.score / 100, *one.counts, *one.totals, one.sys_len, one.ref_len])
    return np.array(found, float).reshape(len(rows), 3 + 2 * _PRECISIONS)


def _corpus_bleu(means: np.ndarray) -> np.ndarray:
    """Corpus BLEU x 100 of mean columns, [..., columns] (Papineni et al. 2002, section 2.3).

    Without smoothing: a set in which no run of four words is right scores 0.
    """
    counts, totals = means[..., 1 : 1 + _PRECISIONS], means[..., 1 + _PRECISIONS : 1 + 2 * _PRECISIONS]
    said, wanted = means[..., -2], means[..., -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(counts / totals).mean(axis=-1)
        brief = np.minimum(0.0, 1 - wanted / said)
        found = 100 * np.exp(logs + brief)
    return np.where((counts > 0).all(axis=-1), found, 0.0)


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"this metric needs {name.split('.', maxsplit=1)[0]}: pip install 'lavabeam[evaluate]'."
        ) from error


METRICS = {
    one.name: one
    for one in (
        Metric("exact", "share of answers equal to a reference, but for case and blanks", _best(_exact), share(), 1.0),
        Metric("vqa", "VQA accuracy against the answers of several people", _vqa, share(), 0.5),
        Metric("choice", "share of answers with the right option's letter", _choice, share(), 1.0),
        Metric("f1", "SQuAD's token F1, the best of the references", _best(_f1), share(), 0.5),
        Metric("cider", "CIDEr-D x 100, words split by nltk's Treebank tokenizer", _cider, share(), None, 10.0),
        Metric("bleu", "corpus BLEU-4, lower case, sacrebleu's 13a words, unsmoothed", _bleu, _corpus_bleu),
        Metric("rouge", "ROUGE-L F, rouge-score without stemming, best of the references", _rouge, share()),
    )
}
"""All but `judge`, which asks an LLM."""

__all__ = ["METRICS", "Metric", "find_metric", "table_of"]
