"""Pictures as a mix stores them: untouched, or upright, in RGB and shrunk."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

from pipelines.mix.recipe import Pictures


def stored(content: bytes, size: tuple[int, int], pictures: Pictures) -> tuple[bytes, tuple[int, int]]:
    """The bytes to store and their (width, height) in pixels. Untouched unless the recipe asks for a change.

    Raises OSError or ValueError for bytes that Pillow cannot read.
    """
    too_large = pictures.max_side is not None and max(size) > pictures.max_side
    if pictures.format == "keep" and not too_large:
        return content, size
    with Image.open(io.BytesIO(content)) as opened:
        kind = {"keep": opened.format or "PNG", "jpeg": "JPEG", "png": "PNG"}[pictures.format]
        image = ImageOps.exif_transpose(opened).convert("RGB")
    if too_large:
        image.thumbnail((pictures.max_side, pictures.max_side), Image.Resampling.BICUBIC)  # type: ignore[arg-type]
    buffer = io.BytesIO()
    if kind == "JPEG":
        image.save(buffer, "JPEG", quality=pictures.quality)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue(), image.size
