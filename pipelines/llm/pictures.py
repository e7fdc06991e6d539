"""Images in formats that vision endpoints accept: JPEG, PNG, WebP and GIF of one upright, opaque 8-bit frame."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import TypeVar

from schemas.pictures import Header, PictureError, open_rgb, read

Result = TypeVar("Result")

PROVIDER_FORMATS = frozenset({"jpeg", "png", "webp", "gif"})
"""What OpenAI, Anthropic and Gemini's compatible endpoint list in common."""

REDRAWN = frozenset({"animated", "16-bit", "cmyk", "rotated", "alpha"})
"""Traits that servers read in different ways, or refuse: those pictures are sent as training sees them."""

FEW_COLOURS = 256
"""Up to this many, a picture is a drawing, which JPEG would blur."""

JPEG_QUALITY = 92


def sendable(data: bytes) -> bytes:
    """`data` itself when providers take it, else the upright picture over white, encoded again.

    As PNG when it had transparency or few colours, else as JPEG. Raises schemas.pictures.PictureError for bytes that
    are not a picture, or that would have to be decoded and cannot be.
    """
    header = read(data)
    return data if _taken(header) else _redrawn(data, header)


async def in_thread_if_redrawn(data: bytes | None, work: Callable[[], Result]) -> Result:
    """The result of `work`, which calls `sendable(data)`: in a thread where that has to decode.

    Else at once, so that requests keep their order. Raises what `work` raises.
    """
    try:
        quick = data is None or _taken(read(data))
    except PictureError:
        quick = True
    return work() if quick else await asyncio.to_thread(work)


def _taken(header: Header) -> bool:
    return header.format in PROVIDER_FORMATS and REDRAWN.isdisjoint(header.traits)


def _redrawn(data: bytes, header: Header) -> bytes:
    image, file = open_rgb(data), io.BytesIO()
    if "alpha" in header.traits or image.getcolors(FEW_COLOURS) is not None:
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
