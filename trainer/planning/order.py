"""Which rows belong to which step: a function of the data, the seed, the epoch and the global batch, and nothing else.

It does not depend on the number of ranks, so a run may resume with a different one.
"""

from __future__ import annotations

import numpy as np

# length_window sorts the rows of this many steps together: enough for similar rows in a step, few enough to keep the
# epoch from being one long curriculum.
WINDOW_STEPS = 50


def random_steps(rows: int, seed: int, epoch: int) -> np.ndarray:
    """A random order of all rows, int64; consecutive rows make a step."""
    return shuffle(rows, seed, epoch, stream=0)


def window_steps(lengths: np.ndarray, global_batch: int, seed: int, epoch: int) -> np.ndarray:
    """An order whose steps hold rows of similar length, int64.

    Random windows of `WINDOW_STEPS` steps are sorted by descending length and cut into steps; then all steps are
    shuffled. The remainder of the epoch, shorter than a step, stays a random set and comes last.
    """
    order = random_steps(len(lengths), seed, epoch)
    whole = len(order) // global_batch * global_batch
    size = WINDOW_STEPS * global_batch
    windows = [order[start : min(start + size, whole)] for start in range(0, whole, size)]
    grouped = np.concatenate([rows[np.argsort(-lengths[rows], kind="stable")] for rows in windows] + [order[:0]])
    steps = grouped.reshape(-1, global_batch)
    return np.concatenate([steps[shuffle(len(steps), seed, epoch, stream=1)].reshape(-1), order[whole:]])


def shuffle(count: int, seed: int, epoch: int, stream: int) -> np.ndarray:
    """A permutation of `count` items, the same under every numpy version.

    Sorts raw 64-bit draws: bit generators and SeedSequence are frozen by NEP 19, `Generator.permutation` is not.
    """
    draws = np.random.PCG64(np.random.SeedSequence([seed & 0xFFFFFFFFFFFFFFFF, epoch, stream])).random_raw(count)
    return np.argsort(draws, kind="stable").astype(np.int64)
