"""Bootstrap confidence intervals (Efron 1979), percentile method, resampling whole units.

A unit is what can be right or wrong by itself: a question, MME's picture with its two, MMBench's rotations of one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RESAMPLES, LEVEL, SEED = 2000, 0.95, 20231005

Metric = Callable[[np.ndarray], np.ndarray]
"""Means of the units' columns, [..., columns], to a figure, [...]."""


def resampled_means(units: np.ndarray, generator: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """Means of the columns of as many draws with replacement: [units, columns] to [resamples, columns].

    Units with equal columns are drawn by their number (one multinomial draw), which is the same distribution and takes
    no time for 214,354 questions that can score 0, 0.3, 0.6, 0.9 or 1.
    """
    kinds, counts = np.unique(units, axis=0, return_counts=True)
    drawn = generator.multinomial(len(units), counts / len(units), size=resamples)
    return drawn @ kinds / len(units)


def percentiles(figures: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The interval that holds the share `level` of `figures`, which may hold some that are no numbers."""
    tail, numbers = 50 * (1 - level), figures[np.isfinite(figures)]
    if not len(numbers):
        return float("nan"), float("nan")
    low, high = np.percentile(numbers, [tail, 100 - tail])
    return float(low), float(high)
