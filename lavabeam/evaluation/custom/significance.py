"""Significance tests for two models on the same questions."""

from __future__ import annotations

from math import exp, lgamma, log


def exact_test(first: int, second: int) -> float:
    """Two-sided p-value of McNemar's test, exact: `first` questions that only one model has right, `second` only the
    other (McNemar 1947; as a sign test where answers have scores and not marks).

    Of `first + second` fair coins as few or fewer show the rarer side, times two. 1 where the models never differ.
    """
    total, fewer = first + second, min(first, second)
    if first == second:
        return 1.0
    tail = sum(exp(_log_choose(total, count) - total * log(2)) for count in range(fewer + 1))
    return min(1.0, 2 * tail)


def _log_choose(total: int, count: int) -> float:
    return lgamma(total + 1) - lgamma(count + 1) - lgamma(total - count + 1)
