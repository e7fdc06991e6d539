"""One way to open a picture: whether bytes can be decoded, the size of the upright picture, and its RGB pixels.

Import, download, dedupe, caption, generate, mix, report and training all ask here, so a picture has one size and one
look everywhere. Upright: the EXIF orientation (Exif 2.32, section 4.6.4) is applied, and one that is broken is ignored.
An animation is its first frame. `flatten` says how every mode becomes RGB.

Pillow, OpenCV and numpy are imported when a picture is opened, so that importing this module costs nothing.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from schemas.pictureheader import Defect, Header, PictureError, read_header

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

__all__ = ["MAX_PIXELS", "Defect", "Header", "PictureError"]
__all__ += ["check", "flatten", "jpeg_pixels", "open_rgb", "read", "rgb", "to_rgb", "upright"]

MAX_PIXELS = 2 * 89_478_485
"""Twice Pillow's MAX_IMAGE_PIXELS, where Pillow itself refuses to decode."""

PILLOW_NAMES = {"jpeg": ("JPEG", "MPO"), "png": ("PNG",), "webp": ("WEBP",), "gif": ("GIF",), "bmp": ("BMP",)}
"""The Pillow plugins that may decode what our own header parsers know."""

OTHER_FORMATS = ("TIFF", "ICO", "JPEG2000", "AVIF", "PPM")
"""Formats that are decodable but have no parser of ours. Pillow's other plugins are never tried: nobody's training
pictures are in them, and one of them runs Ghostscript."""

WIDE_GREY = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
ORIENTATION = 274


def read(data: bytes) -> Header:
    """Format, size, orientation and traits of encoded bytes, without decoding a pixel.

    Raises PictureError: not_image, unsupported_format, truncated, corrupt.
    """
    try:
        return read_header(data)
    except PictureError as error:
        if error.defect not in (Defect.not_image, Defect.unsupported_format) or not data:
            raise
        header = _header_by_pillow(data)
        if header is None:
            raise
        return header


def check(data: bytes) -> Header:
    """The header of bytes that were decoded to prove it; raises PictureError for bytes that cannot be used.

    Decodes with the function that training uses, so what passes here can be trained on.
    """
    header = read(data)
    _pixels(data, header, fast=True)
    return header


def rgb(data: bytes, fast: bool = True) -> np.ndarray:
    """The upright picture: uint8 (height, width, 3).

    fast: grey and YCbCr JPEGs are decoded by simplejpeg where it is installed, to Pillow's values in a third of the
    time. Raises PictureError, also for more than MAX_PIXELS and for pixels of another size than the header says.
    """
    return _pixels(data, read(data), fast)


def open_rgb(data: bytes) -> Image.Image:
    """The upright picture as a Pillow image in mode RGB; raises PictureError."""
    from PIL import Image

    return Image.fromarray(rgb(data))


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright RGB picture of a Pillow picture that the caller opened."""
    from PIL import Image

    orientation = _orientation_by_pillow(image)
    flat = flatten(image)
    return flat if orientation == 1 else Image.fromarray(upright(_array(flat), orientation))


def flatten(image: Image.Image) -> Image.Image:
    """A Pillow picture of any mode in RGB, not turned.

    Palettes are looked up, grey is repeated, CMYK and the like go through Pillow's conversion, transparent pixels are
    laid over white (dropping alpha, as `convert` does, shows whatever colour is under it). 16-bit grey keeps its high
    8 bits, as 16-bit RGB does (Pillow would clip it to white); wider grey, whose range is unknown, is spread over 0
    to 255.
    """
    from PIL import Image

    if image.mode in WIDE_GREY:
        return _narrow_grey(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation of (height, width, ...) pixels: where the stored row 0 and column 0 belong."""
    import numpy as np

    if orientation in (2, 3):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4):
        pixels = pixels[::-1]
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def jpeg_pixels(data: bytes, header: Header, shrink: int = 1, grey: bool = False) -> np.ndarray | None:
    """A JPEG by OpenCV, upright, at 1/8, 1/4 or 1/2 of its size when `shrink` is at least that.

    uint8 (height, width, 3) in OpenCV's order BGR, or (height, width); None when it cannot be decoded. For previews and
    for what is resized next: a fifth of the cost of the whole picture.
    """
    import cv2
    import numpy as np

    kind = "GRAYSCALE" if grey else "COLOR"
    factor = next((factor for factor in (8, 4, 2) if shrink >= factor), 1)
    flags = getattr(cv2, f"IMREAD_{kind}" if factor == 1 else f"IMREAD_REDUCED_{kind}_{factor}")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if pixels is None else upright(pixels, header.orientation)


def _pixels(data: bytes, header: Header, fast: bool) -> np.ndarray:
    if header.width * header.height > MAX_PIXELS:
        raise PictureError(Defect.too_many_pixels, f"{header.width}x{header.height}")
    pixels = _by_simplejpeg(data, header) if fast and header.format == "jpeg" else None
    if pixels is None:
        pixels = _by_pillow(data, header)
    if pixels.shape[:2] != (header.height, header.width):
        raise _mismatch(header, pixels.shape[1], pixels.shape[0])
    return upright(pixels, header.orientation) if header.orientation != 1 else pixels


def _by_simplejpeg(data: bytes, header: Header) -> np.ndarray | None:
    """A grey or YCbCr JPEG; None for what Pillow has to look at: other colours, damage, a missing simplejpeg."""
    try:
        import simplejpeg
    except ImportError:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray") or (height, width) != (header.height, header.width):
            return None
        return simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False)
    except ValueError:
        return None


def _by_pillow(data: bytes, header: Header) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=PILLOW_NAMES.get(header.format, OTHER_FORMATS)) as image:
            # A GIF frame beyond its screen would allocate what the header did not announce.
            if image.size != (header.width, header.height):
                raise _mismatch(header, *image.size)
            image.load()
            return _array(flatten(image))
    except PictureError:
        raise
    except Exception as error:
        # Pillow's plugins raise whatever their parsing runs into: OSError, struct.error, KeyError, ...
        raise PictureError(Defect.corrupt, f"the {header.format} cannot be decoded ({_one_line(error)})") from error


def _header_by_pillow(data: bytes) -> Header | None:
    """The header of a picture in one of OTHER_FORMATS; None for anything else. Pillow turns TIFFs itself."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=OTHER_FORMATS) as image:
            name = (image.format or "").lower()
            orientation = 1 if name == "tiff" else _orientation_by_pillow(image)
            traits = ("alpha",) if image.mode in ("RGBA", "LA", "La", "PA", "RGBa") else ()
            return Header(name, *image.size, plain=False, traits=traits, orientation=orientation)
    except Exception:  # as in `_by_pillow`; the caller says what the bytes are not
        return None


def _orientation_by_pillow(image: Image.Image) -> int:
    """The EXIF orientation, 1 where it is absent or broken."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow parses EXIF without checks: struct.error, SyntaxError, RecursionError, ...
        return 1
    return value if value in range(1, 9) else 1


def _narrow_grey(image: Image.Image) -> Image.Image:
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        levels = (values >> 8).astype(np.uint8)
        if isinstance(hidden := image.info.get("transparency"), int):
            levels[values == hidden] = 255
        return Image.fromarray(levels).convert("RGB")
    wide = values.astype(np.float64)
    finite = np.isfinite(wide)
    low, high = (wide[finite].min(), wide[finite].max()) if finite.any() else (0.0, 0.0)
    spread = np.nan_to_num((wide - low) / (high - low or 1.0), nan=0.0)
    return Image.fromarray((np.clip(spread, 0, 1) * 255).astype(np.uint8)).convert("RGB")


def _array(image: Image.Image) -> np.ndarray:
    import numpy as np

    return np.asarray(image)


def _mismatch(header: Header, width: int, height: int) -> PictureError:
    said = f"the header says {header.width}x{header.height} and the data {width}x{height}"
    return PictureError(Defect.corrupt, said)


def _one_line(error: Any) -> str:
    """What a decoder said, without memory addresses: the same bytes must give the same row."""
    message = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "the bytes", " ".join(str(error).split()))
    return f"{type(error).__name__}: {message}"[:200]
