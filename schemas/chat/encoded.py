"""The encoded conversation: ids, labels, exact counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IGNORE = -100
"""The label that cross entropy ignores (torch's default `ignore_index`)."""

ORIGINAL_IMAGE = -200
"""The original's placeholder for a picture (LLaVA, constants.py); only in compat mode."""


@dataclass(frozen=True)
class Encoded:
    """One training row.

    ids, labels: int32, of equal length; a label is the id at the same position where it is supervised, else IGNORE.
    tokens, image_tokens: exact counts before truncation. supervised: supervised tokens after it. images: pictures that
    are complete after it; the pixels of later ones must not be given to the model. warning: what the original would
    have printed (compat mode).
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
        """No token is supervised: refuse this row, do not train on it."""
        return self.supervised == 0
