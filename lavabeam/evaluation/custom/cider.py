"""CIDEr-D: agreement of a caption with reference captions, weighting rare n-grams higher.

Vedantam, Zitnick, Parikh, arXiv 1411.5726, equations 2 to 5 and section 7 (D: counts are clipped, and a Gaussian of the
difference in length with sigma 6). Equal to the COCO caption evaluation's code on equal words: its tokenizer is
Stanford's in Java, ours nltk's Treebank tokenizer without the same punctuation, which differ in rare words alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from math import exp, log, sqrt

LONGEST, SIGMA, SCALE = 4, 6.0, 10.0
_PUNCTUATION = frozenset(["''", "'", "``", "`", "(", ")", "{", "}", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""What the COCO caption evaluation removes (pycocoevalcap/tokenizer/ptbtokenizer.py)."""

Vector = tuple[list[dict[tuple[str, ...], float]], list[float], int]
"""Weights of the runs of each length, the lengths of these vectors, and how many runs of two words there are."""


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """The score of each caption against its references, from 0 to 10; the set's score is their mean.

    What is rare is counted in all references, so that one caption alone scores 0.
    """
    cooked = [[_runs(words(text)) for text in those] for those in references]
    documents = Counter(run for those in cooked for run in set().union(*those))
    total = log(len(cooked)) if cooked else 0.0

    def vector(runs: Counter[tuple[str, ...]]) -> Vector:
        weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(LONGEST)]
        for run, count in runs.items():
            weights[len(run) - 1][run] = count * (total - log(max(1, documents[run])))
        norms = [sqrt(sum(weight * weight for weight in one.values())) for one in weights]
        return weights, norms, sum(count for run, count in runs.items() if len(run) == 2)

    scores = []
    for caption, those in zip(captions, cooked, strict=True):
        mine = vector(_runs(words(caption)))
        scores.append(SCALE * sum(_similarity(mine, vector(one)) for one in those) / len(those) if those else 0.0)
    return scores


def words(text: str) -> tuple[str, ...]:
    """Lower case, as the Penn Treebank splits words, without punctuation."""
    return tuple(word for word in _tokenizer().tokenize(text.lower()) if word not in _PUNCTUATION)


def _similarity(mine: Vector, other: Vector) -> float:
    """The mean over the lengths of runs of the clipped cosine, less where the captions differ in length."""
    found = 0.0
    for my_weights, weights, my_norm, norm in zip(mine[0], other[0], mine[1], other[1], strict=True):
        product = sum(min(weight, weights[run]) * weights[run] for run, weight in my_weights.items() if run in weights)
        found += product / (my_norm * norm) if my_norm and norm else 0.0
    return found / LONGEST * exp(-((mine[2] - other[2]) ** 2) / (2 * SIGMA**2))


def _runs(found: tuple[str, ...]) -> Counter[tuple[str, ...]]:
    return Counter(
        found[start : start + length] for length in range(1, LONGEST + 1) for start in range(len(found) - length + 1)
    )


@lru_cache(1)
def _tokenizer():  # type: ignore[no-untyped-def]
    from nltk.tokenize.treebank import TreebankWordTokenizer

    return TreebankWordTokenizer()
