"""What a conversation becomes: ids, labels, exact counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IGNORE = -100
"""The label that cross entropy leaves out (torch's default `ignore_index`)."""

ORIGINAL_IMAGE = -200
"""The original's placeholder of one picture (LLaVA, constants.py); only in compat mode."""


@dataclass(frozen=True)
class Encoded:
    """One training row.

    ids, labels: int32, equally long; labels are IGNORE where nothing is learnt, else the id at the same place.
    tokens, image_tokens: exact counts before any cut. supervised: learnt tokens that are left. images: pictures whose
    tokens are all left; the pixels of later ones must not be given to the model. warning: what the original would have
    printed (compat mode).
    """

    ids: np.ndarray
    labels: np.ndarray
    tokens: int
    image_tokens: int
    supervised: int
    images: int
    truncated: bool = False
    warning: str | None = None

    @property
    def all_masked(self) -> bool:
        """Nothing is learnt from this row: refuse it, do not train on it."""
        return self.supervised == 0
