"""Which rows of a mix are held out for evaluation: a function of their keys alone, so the same on every rank, for any
number of ranks, and in a mix that is made again with more rows."""

from __future__ import annotations

import hashlib

import numpy as np

from schemas.dataset import Dataset


def places(mix: Dataset) -> np.ndarray:
    """A number from 0 to 1 for each row, float64 (rows,), from the sha256 of its key."""
    digests = b"".join(
        hashlib.sha256(str(key).encode()).digest()[:8]
        for fragment in mix.fragments
        for key in fragment.read(["key"]).column(0).to_pylist()
    )
    return np.frombuffer(digests, ">u8") / 2.0**64


def held_out(mix: Dataset, share: float | None) -> np.ndarray:
    """Whether a row is not trained on, bool (rows,): about `share` of all rows; None holds nothing out."""
    return np.zeros(mix.rows, bool) if share is None else places(mix) < share


def evaluated(mix: Dataset, share: float | None, most: int) -> np.ndarray:
    """Numbers of the rows to evaluate on, int64, at most `most`: held-out ones, or where `share` is None any."""
    where = places(mix)
    order = np.argsort(where, kind="stable")
    inside = len(where) if share is None else int((where < share).sum())
    return np.sort(order[: min(inside, most)])
