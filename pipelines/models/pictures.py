"""The size at which an image is decoded for models and measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.pictures import Header, read, shrunk

if TYPE_CHECKING:
    import numpy as np

SIDE = 1024
"""Pixels that the longer side of a shrunk JPEG keeps at least: twice and more what vision towers look at."""


def decoded(data: bytes, header: Header | None = None) -> np.ndarray:
    """The upright picture, uint8 (height, width, 3), its longer side below 2 * `SIDE` pixels. Raises PictureError.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that leaves `SIDE` pixels; what is larger still is averaged.
    """
    header = header or read(data)
    return fitted(shrunk(data, header, max(header.width, header.height) // SIDE), 2 * SIDE - 1)


def fitted(pixels: np.ndarray, side: int) -> np.ndarray:
    """(height, width, 3) with a longer side of `side` pixels at most; each pixel the mean of those it stands for."""
    import cv2

    height, width = pixels.shape[:2]
    share = side / max(height, width)
    if share >= 1:
        return pixels
    size = (max(round(width * share), 1), max(round(height * share), 1))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
