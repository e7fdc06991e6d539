"""Converts Pillow images of any mode to RGB, strip by strip, to avoid holding several copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

STRIP = 2**20
"""Pixels that are converted at a time: an RGBA picture, its copies and its background would be held at once."""

WIDE_GREY = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


def flatten(image: Image.Image) -> Image.Image:
    """A Pillow picture of any mode in RGB, not turned.

    Palettes are looked up, grey is repeated, CMYK and the like go through Pillow's conversion, transparent pixels are
    laid over white (dropping alpha, as `convert` does, shows whatever colour is under it). 16-bit grey keeps its high
    8 bits, as 16-bit RGB does (Pillow would clip it to white); wider grey, whose range is unknown, is spread over 0
    to 255.
    """
    return _flat(image, _levels(image))


def rgb_of(image: Image.Image) -> np.ndarray:
    """A Pillow picture of any mode as uint8 (height, width, 3), not turned. Strip by strip: see STRIP."""
    import numpy as np

    levels = _levels(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for rows, strip in _strips(image):
        pixels[rows] = np.asarray(_flat(strip, levels))
    return pixels


def grey_of(pixels: np.ndarray) -> np.ndarray:
    """uint8 (height, width, 3) as Pillow's grey, (height, width)."""
    import numpy as np
    from PIL import Image

    height, width = pixels.shape[:2]
    made, step = np.empty((height, width), np.uint8), max(1, STRIP // width)
    for top in range(0, height, step):
        made[top : top + step] = np.asarray(Image.fromarray(pixels[top : top + step]).convert("L"))
    return made


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    step = max(1, STRIP // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        whole = step >= image.height
        yield slice(top, bottom), image if whole else image.crop((0, top, image.width, bottom))


def _levels(image: Image.Image) -> tuple[float, float]:
    """The lowest and the highest finite value of a wide grey; of no use for other modes."""
    import numpy as np

    if image.mode not in ("I", "F"):
        return 0.0, 255.0
    low, high = np.inf, -np.inf
    for _, strip in _strips(image):
        values = np.asarray(strip)
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _flat(image: Image.Image, levels: tuple[float, float]) -> Image.Image:
    """As `flatten`; `levels` are those that wide grey is spread between."""
    from PIL import Image

    if image.mode in WIDE_GREY:
        return _narrow_grey(image, levels)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _narrow_grey(image: Image.Image, levels: tuple[float, float]) -> Image.Image:
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        narrow = (values >> 8).astype(np.uint8)
        if isinstance(hidden := image.info.get("transparency"), int):
            narrow[values == hidden] = 255
        return Image.fromarray(narrow).convert("RGB")
    low, high = levels
    with np.errstate(all="ignore"):
        spread = np.nan_to_num((values.astype(np.float64) - low) / (high - low or 1.0), nan=0.0)
    return Image.fromarray((np.clip(spread, 0, 1) * 255).astype(np.uint8)).convert("RGB")
