"""The only image decoder: whether bytes can be decoded, the upright size, and the RGB pixels.

Import, download, dedupe, caption, generate, mix, report and training all ask here, so a picture has one size and one
look everywhere. Upright: the EXIF orientation (Exif 2.32, section 4.6.4) is applied, and one that is broken is ignored.
An animation is its first frame. `flatten` says how every mode becomes RGB.

Pillow, OpenCV and numpy are imported when a picture is opened, so that importing this module costs nothing.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from schemas.decoding import BUDGET, decoding
from schemas.jpegheader import without_metadata
from schemas.otherformats import check_structure
from schemas.pictureheader import Defect, Header, PictureError, read_header
from schemas.picturemodes import flatten, grey_of, rgb_of

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

__all__ = ["MAX_PIXELS", "Defect", "Header", "PictureError"]
__all__ += [
    "check",
    "check_cost",
    "decoding_bytes",
    "flatten",
    "grey",
    "open_rgb",
    "read",
    "rgb",
    "shrunk",
    "to_rgb",
    "upright",
]

MAX_PIXELS = 2 * 89_478_485
"""Twice Pillow's MAX_IMAGE_PIXELS, where Pillow itself refuses to decode."""

PILLOW_NAMES = {"jpeg": ("JPEG", "MPO"), "png": ("PNG",), "webp": ("WEBP",), "gif": ("GIF",), "bmp": ("BMP",)}
"""The Pillow plugins that may decode what our own header parsers know."""

OTHER_FORMATS = ("TIFF", "ICO", "JPEG2000", "AVIF", "PPM")
"""Formats that are decodable but have no parser of ours. Pillow's other plugins are never tried: nobody's training
pictures are in them, and one of them runs Ghostscript."""

PYTHON_DECODERS = frozenset({"bmp_rle", "ppm", "ppm_plain"})
MAX_PYTHON_PIXELS = 2**21
"""Pillow decodes these pixel by pixel in Python: 16-bit and plain-text PPM, run-length BMP. About 2 s."""

BYTES_PER_PIXEL = {"png": 9, "bmp": 9, "gif": 12, "webp": 20, "jpeg2000": 28}
MOST_BYTES_PER_PIXEL = 12
"""What decoding takes at most, with the 3 bytes of the result: libwebp holds a picture three times, OpenJPEG 4 bytes
for each component. JPEG has a separate rule."""

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

    Decodes with the function that training uses, so what passes here can be trained on. Of a JPEG all data is read,
    and what it says is strictly checked, while pixels are made at 1/8 of its size: a third of the time.
    """
    header = read(data)
    _pixels(data, header, shrink=8, as_grey=True)
    return header


def rgb(data: bytes, fast: bool = True) -> np.ndarray:
    """The upright picture: uint8 (height, width, 3).

    fast: grey and YCbCr JPEGs are decoded by simplejpeg, to Pillow's values in a third of the time. Raises
    PictureError, also for more than MAX_PIXELS and for pixels of another size than the header says.
    """
    return _pixels(data, read(data), fast)


def shrunk(data: bytes, header: Header, shrink: int) -> np.ndarray:
    """The upright picture, uint8 (height, width, 3); a JPEG at 1/8, 1/4 or 1/2 of its size when `shrink` is at least
    that. For what is resized next: a fifth of the cost of the whole picture. Raises PictureError."""
    return _pixels(data, header, shrink=shrink)


def grey(data: bytes, header: Header, shrink: int = 1) -> np.ndarray:
    """As `shrunk`, in grey: uint8 (height, width). A picture that is turned is not shrunk: shrinking pads the last row
    and column of blocks, which turning would bring to the other side."""
    return _pixels(data, header, shrink=shrink if header.orientation == 1 else 1, as_grey=True)


def decoding_bytes(header: Header, shrink: int = 1) -> int:
    """Memory that decoding takes at most, with what it returns; measured for every format."""
    pixels, turned = header.width * header.height, 3 * (header.orientation != 1)
    if header.format != "jpeg":
        return pixels * (BYTES_PER_PIXEL.get(header.format, MOST_BYTES_PER_PIXEL) + turned)
    made = pixels * (3 + turned) // _factor(shrink) ** 2
    whole = pixels * 8 if header.several_scans else 0
    return made + whole + pixels * 7 * ("cmyk" in header.traits)


def check_cost(header: Header) -> None:
    """Raises PictureError for what no step decodes: more than MAX_PIXELS, or than BUDGET bytes of memory."""
    if header.width * header.height > MAX_PIXELS:
        raise PictureError(Defect.too_many_pixels, f"{header.width}x{header.height}")
    if (needed := decoding_bytes(header)) > BUDGET:
        detail = f"{header.width}x{header.height}, {needed >> 20} MB to decode as {header.format}"
        raise PictureError(Defect.too_many_pixels, detail)


def open_rgb(data: bytes) -> Image.Image:
    """The upright picture as a Pillow image in mode RGB; raises PictureError."""
    from PIL import Image

    return Image.fromarray(rgb(data))


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright RGB picture of a Pillow picture that the caller opened."""
    from PIL import Image

    orientation = _orientation_by_pillow(image)
    flat = flatten(image)
    return flat if orientation == 1 else Image.fromarray(upright(rgb_of(flat), orientation))


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


def _pixels(data: bytes, header: Header, fast: bool = True, shrink: int = 1, as_grey: bool = False) -> np.ndarray:
    check_cost(header)
    if header.shortage:
        raise PictureError(Defect.truncated, f"the {header.format} holds {header.shortage}")
    factor = _factor(shrink)
    with decoding(data, decoding_bytes(header, factor)):
        pixels = _by_simplejpeg(data, header, factor, as_grey) if fast and header.format == "jpeg" else None
        if pixels is None:
            factor, pixels = 1, _by_pillow(data, header)
            pixels = grey_of(pixels) if as_grey else pixels
        if pixels.shape[:2] != (-(-header.height // factor), -(-header.width // factor)):
            raise _mismatch(header, pixels.shape[1], pixels.shape[0])
        return upright(pixels, header.orientation) if header.orientation != 1 else pixels


def _factor(shrink: int) -> int:
    return next((factor for factor in (8, 4, 2) if shrink >= factor), 1)


def _by_simplejpeg(data: bytes, header: Header, factor: int, as_grey: bool) -> np.ndarray | None:
    """A grey or YCbCr JPEG at 1/`factor`; None for what Pillow has to look at: other colours, damage."""
    import simplejpeg

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray") or (height, width) != (header.height, header.width):
            return None
        size = {"min_height": -(-height // factor), "min_width": -(-width // factor)}
        space = "GRAY" if as_grey else "RGB"
        pixels = simplejpeg.decode_jpeg(data, space, fastdct=False, fastupsample=False, **size)
    except ValueError:
        return None
    return pixels[:, :, 0] if as_grey else pixels


def _by_pillow(data: bytes, header: Header) -> np.ndarray:
    from PIL import Image

    if header.format == "jpeg":
        data = without_metadata(data)
    try:
        with Image.open(io.BytesIO(data), formats=PILLOW_NAMES.get(header.format, OTHER_FORMATS)) as image:
            # A GIF frame beyond its screen would allocate what the header did not announce.
            if image.size != (header.width, header.height):
                raise _mismatch(header, *image.size)
            _check_decoder(image)
            image.load()
            if image.size != (header.width, header.height):
                raise _mismatch(header, *image.size)
            return rgb_of(image)
    except PictureError:
        raise
    except Exception as error:
        # Pillow's plugins raise whatever their parsing runs into: OSError, struct.error, KeyError, ...
        raise PictureError(Defect.corrupt, f"the {header.format} cannot be decoded ({_one_line(error)})") from error


def _check_decoder(image: Image.Image) -> None:
    slow = [tile[0] for tile in image.tile if tile[0] in PYTHON_DECODERS]  # type: ignore[attr-defined]
    if slow and image.width * image.height > MAX_PYTHON_PIXELS:
        detail = f"{image.width}x{image.height}, more than {MAX_PYTHON_PIXELS} for the encoding {slow[0]}"
        raise PictureError(Defect.too_many_pixels, detail)


def _header_by_pillow(data: bytes) -> Header | None:
    """The header of a picture in one of OTHER_FORMATS; None for anything else. Pillow turns TIFFs itself."""
    from PIL import Image

    try:
        check_structure(data)
        with Image.open(io.BytesIO(data), formats=OTHER_FORMATS) as image:
            name = (image.format or "").lower()
            orientation = 1 if name == "tiff" else _orientation_by_pillow(image)
            traits = ("alpha",) if image.mode in ("RGBA", "LA", "La", "PA", "RGBa") else ()
            return Header(name, *image.size, plain=False, traits=traits, orientation=orientation)
    except PictureError:
        raise
    except Exception:  # as in `_by_pillow`; the caller says what the bytes are not
        return None


def _orientation_by_pillow(image: Image.Image) -> int:
    """The EXIF orientation, 1 where it is absent or broken."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow parses EXIF without checks: struct.error, SyntaxError, RecursionError, ...
        return 1
    return value if value in range(1, 9) else 1


def _mismatch(header: Header, width: int, height: int) -> PictureError:
    said = f"the header says {header.width}x{header.height} and the data {width}x{height}"
    return PictureError(Defect.corrupt, said)


def _one_line(error: Any) -> str:
    """What a decoder said, without memory addresses: the same bytes must give the same row."""
    message = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "the bytes", " ".join(str(error).split()))
    return f"{type(error).__name__}: {message}"[:200]
