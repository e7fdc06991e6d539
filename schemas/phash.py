"""A 64-bit perceptual hash: similar images differ in few bits.

The grey picture is shrunk to 32 x 32, its discrete cosine transform taken, and the 8 x 8 lowest frequencies compared
with their median (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1).
"""

from __future__ import annotations

from typing import Any

from schemas.pictures import PictureError, grey, read

SIDE = 32
LOW = 8


def hash_grey(grey: Any) -> str:
    """16 hex digits for a uint8 array of shape (height, width)."""
    import cv2
    import numpy as np

    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:LOW, :LOW].ravel()
    middle = np.sort(low)[LOW * LOW // 2 - 1 : LOW * LOW // 2 + 1]
    return np.packbits(low > middle.mean()).tobytes().hex()


def perceptual_hash(data: bytes) -> str | None:
    """The hash of the upright picture that the bytes hold, or None when they cannot be decoded."""
    try:
        return hash_picture(data)
    except PictureError:
        return None


def hash_picture(data: bytes) -> str:
    """The hash of the upright picture that the bytes hold. The same bytes always give the same hash.

    A JPEG is decoded at 1/8, 1/4 or 1/2 of its size while `SIDE` pixels remain, which costs a fifth of decoding it
    whole. Raises PictureError for what training cannot decode.
    """
    header = read(data)
    return hash_grey(grey(data, header, min(header.size) // SIDE))


def distance(first: str, second: str) -> int:
    """Bits, 0 to 64, in which two hashes differ."""
    return (int(first, 16) ^ int(second, 16)).bit_count()
