"""How large a picture is decoded for models and measures: once, and no larger than either can use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.pictures import Header, read, shrunk

if TYPE_CHECKING:
    import numpy as np

SIDE = 1024
"""Pixels that the longer side of a shrunk JPEG keeps at least: twice and more what vision towers look at."""


def decoded(data: bytes, header: Header | None = None) -> np.ndarray:
    """The upright picture, uint8 (height, width, 3). A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that
    leaves `SIDE` pixels; anything else whole. Raises PictureError."""
    header = header or read(data)
    return shrunk(data, header, max(header.width, header.height) // SIDE)
