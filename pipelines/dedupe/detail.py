"""Distinguishes images made from one template: mean brightness in 24 x 24 cells, compared cell by cell.

A perceptual hash keeps 64 low frequencies, which bar charts, cards or slides on one template share. What differs there
is local, so the largest difference of any cell decides, not the average. Saving again and resizing change the mean of a
cell little; brightness and contrast are divided out. docs/dedupe.md has the table that the constants come from.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from schemas.pictures import grey, read

CELLS = 24
SIZE = CELLS * CELLS
"""Bytes of a signature."""
UNIT = 24
"""A picture's standard deviation over its cells is this many steps of the signature."""
LEAST_DEVIATION = 8.0
"""Grey levels: below it contrast is not divided out, because noise would be made larger with it."""
STRUCTURE = 6.0
"""Grey levels by which some cell must leave a smooth surface for a picture to have a structure."""
_PIXELS_PER_CELL = 6
"""A JPEG is decoded at 1/8, 1/4 or 1/2 of its size while a cell has so many pixels: at 5, sharp edges between cells
move values by up to 9 steps, at 6 by up to 7."""


class Detail(NamedTuple):
    """`signature`: SIZE int8 values, row by row. `structured`: whether it is more than one colour or a gradient."""

    signature: bytes
    structured: bool


def detail_of(data: bytes) -> Detail:
    """Of the upright picture in grey. The same bytes always give the same detail; raises PictureError."""
    header = read(data)
    return detail_of_grey(grey(data, header, min(header.size) // (_PIXELS_PER_CELL * CELLS)))


def detail_of_grey(pixels: np.ndarray) -> Detail:
    """Of a uint8 array of shape (height, width)."""
    import cv2

    means = cv2.resize(pixels.astype(np.float32), (CELLS, CELLS), interpolation=cv2.INTER_AREA).ravel()
    smooth = _surfaces() @ (_surfaces().T @ means)
    steps = np.rint((means - means.mean()) * (UNIT / max(float(means.std()), LEAST_DEVIATION)))
    structured = bool(np.abs(means - smooth).max() >= STRUCTURE)
    return Detail(np.clip(steps, -127, 127).astype(np.int8).tobytes(), structured)


@cache
def _surfaces() -> np.ndarray:
    """An orthonormal basis of the surfaces of second degree over the cells, float32, shape (SIZE, 6)."""
    x, y = np.meshgrid(np.linspace(-1, 1, CELLS), np.linspace(-1, 1, CELLS))
    columns = [np.ones_like(x), x, y, x * x, x * y, y * y]
    return np.linalg.qr(np.stack([column.ravel() for column in columns], axis=1))[0].astype(np.float32)
