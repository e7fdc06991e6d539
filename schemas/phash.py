"""A perceptual hash of 64 bits: alike pictures differ in few of them.

The grey picture is shrunk to 32 x 32, its discrete cosine transform taken, and the 8 x 8 lowest frequencies compared
with their median (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1).
"""

from __future__ import annotations

from typing import Any

from schemas.pictures import MAX_PIXELS, PictureError, jpeg_pixels, open_rgb, read

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
    """The hash of the upright picture that the bytes hold, or None when they cannot be decoded.

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
    import numpy as np

    try:
        header = read(data)
        if header.format == "jpeg" and "cmyk" not in header.traits:
            if header.width * header.height > MAX_PIXELS:
                return None
            # Shrinking pads the last row and column of blocks, which turning would bring to the other side: up to 8
            # bits away from an upright copy.
            return jpeg_pixels(data, header, shrink if header.orientation == 1 else 1, grey=True)
        return np.asarray(open_rgb(data).convert("L"))
    except PictureError:
        return None
