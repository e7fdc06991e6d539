"""Thumbnails as data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from schemas.pictures import PictureError, open_rgb

SIDE = 224
"""Longest side of a thumbnail in pixels: sharp at the page's 112 px on a dense screen."""


@dataclass(frozen=True)
class Thumbnail:
    """A picture in the page: its data URI and the size of the original. `uri` None: it cannot be decoded."""

    uri: str | None
    width: int = 0
    height: int = 0

    @property
    def tiny(self) -> bool:
        """Whether the original is so small that its pixels are shown as squares."""
        return max(self.width, self.height) <= 96


def thumbnail(image: dict[str, Any] | None) -> Thumbnail | None:
    """The thumbnail of an `image` cell (bytes and path); None when the cell is empty."""
    data = (image or {}).get("bytes")
    if not data:
        return None
    try:
        picture = open_rgb(data)
    except PictureError:
        return Thumbnail(None)
    width, height = picture.size
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    small, buffer = max(width, height) <= 96, io.BytesIO()
    picture.save(buffer, "PNG" if small else "JPEG", **({} if small else {"quality": 82}))
    kind = "png" if small else "jpeg"
    return Thumbnail(f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", width, height)
