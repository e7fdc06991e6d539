"""A perceptual hash of 64 bits: alike pictures differ in few of them.

The grey picture is shrunk to 32 x 32, its discrete cosine transform taken, and the 8 x 8 lowest frequencies compared
with their median (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1).
"""

from __future__ import annotations

import io
from typing import Any

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


def perceptual_hash(data: bytes, width: int, height: int) -> str | None:
    """The hash of a picture's bytes, or None when they cannot be decoded.

    `width` and `height` are the picture's: a JPEG is decoded at 1/8, 1/4 or 1/2 of them while `SIDE` pixels remain,
    which costs a fifth of decoding it whole. The same bytes always give the same hash.
    """
    grey = decode_grey(data, min(width, height) // SIDE)
    return None if grey is None else hash_grey(grey)


def distance(first: str, second: str) -> int:
    """Bits, 0 to 64, in which two hashes differ."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


def decode_grey(data: bytes, shrink: int) -> Any:
    """A uint8 array (height, width), shrunk by up to `shrink` where the format makes that cheap; None: undecodable."""
    import cv2
    import numpy as np

    if data[:2] == b"\xff\xd8":
        reduced = {
            8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
            4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
            2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        }
        flags = next((flag for factor, flag in reduced.items() if shrink >= factor), cv2.IMREAD_GRAYSCALE)
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    return _grey_by_pillow(data)


def _grey_by_pillow(data: bytes) -> Any:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("L"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None
