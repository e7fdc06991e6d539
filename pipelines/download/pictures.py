"""From received bytes to the picture that is kept: refused, kept as it is, or made upright, opaque RGB and encoded.

What is not plain is changed and encoded again: the first frame of an animation, the high 8 of 16 bits, CMYK and palette
as RGB, alpha on white (as img2dataset), EXIF rotation applied. docs/download.md has the table.
"""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import Any

from pipelines.download.config import DownloadConfig
from pipelines.download.headers import Header, read_header
from pipelines.download.resize import final_size, resize, scaled_size, shrink_while_decoding
from pipelines.download.statuses import DownloadStatus, Failure
from schemas.phash import perceptual_hash

_LARGE = 2**23
"""Pixels above which pictures are decoded one at a time: a progressive JPEG takes up to 9 bytes for each."""
_ONE_LARGE = threading.Lock()

_LONGEST = {"jpg": 65_500, "webp": 16_383, "png": 65_535}
"""Pixels of a side that can be encoded: OpenCV's limit for JPEG, WebP's (RFC 9649 section 2.5), and no more for PNG."""

_KEPT_FORMATS = frozenset({"jpeg", "png", "webp"})
"""Formats that the trainer, and every tool that opens the dataset, can read."""


@dataclass(frozen=True)
class Kept:
    """The picture that goes into the dataset. `original_*` are the stored size of what was received, in pixels."""

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    mime: str
    phash: str


def keep(data: bytes, config: DownloadConfig) -> Kept:
    """Check `data` and make the picture to keep.

    Raises Failure: not_image, unsupported_format, truncated, corrupt, too_many_pixels, too_small, aspect_ratio.
    Sizes are compared from the header, before a pixel is decoded.
    """
    header = read_header(data)
    _check_size(header, config)
    if header.width * header.height <= _LARGE:
        return _keep(data, header, config)
    with _ONE_LARGE:
        return _keep(data, header, config)


def single_threaded() -> None:
    """OpenCV's own threads would fight over the cores with those of the pool."""
    import cv2

    cv2.setNumThreads(1)


def _check_size(header: Header, config: DownloadConfig) -> None:
    short, long = sorted((header.width, header.height))
    if header.width * header.height > config.max_image_area:
        raise Failure(DownloadStatus.too_many_pixels, f"{header.width}x{header.height}")
    if short < config.min_image_size:
        raise Failure(DownloadStatus.too_small, f"{header.width}x{header.height}")
    if long / short > config.max_aspect_ratio:
        raise Failure(DownloadStatus.aspect_ratio, f"{header.width}x{header.height}")


def _check_result(header: Header, config: DownloadConfig) -> None:
    """A picture of 1 x 1,000 pixels whose shortest side is enlarged to 336 would take a third of a gigabyte."""
    original = header.width, header.height
    final = final_size(*original, config)
    for width, height in (scaled_size(*original, config) or original, final):
        if width * height > config.max_image_area:
            raise Failure(DownloadStatus.too_many_pixels, f"{width}x{height} after resizing")
    if max(final) > _LONGEST[config.encode_format]:
        told = f"{final[0]}x{final[1]}, more than a {config.encode_format} can hold"
        raise Failure(DownloadStatus.too_many_pixels, told)


def _keep(data: bytes, header: Header, config: DownloadConfig) -> Kept:
    size = (header.width, header.height)
    if _may_stay(data, header, config):
        kept, mime = data, header.mime
    else:
        _check_result(header, config)
        pixels = resize(_decode(data, header, config), config)
        size = (pixels.shape[1], pixels.shape[0])
        kept, mime = _encode(pixels, config)
    # Also the proof that kept bytes can be decoded.
    phash = perceptual_hash(kept, *size)
    if phash is None:
        raise Failure(DownloadStatus.corrupt, f"the {header.format} cannot be decoded")
    return Kept(kept, *size, header.width, header.height, mime, phash)


def _may_stay(data: bytes, header: Header, config: DownloadConfig) -> bool:
    return (
        config.skip_reencode
        and header.plain
        and header.format in _KEPT_FORMATS
        and len(data) <= config.max_kept_bytes
        and final_size(header.width, header.height, config) == (header.width, header.height)
    )


def _decode(data: bytes, header: Header, config: DownloadConfig) -> Any:
    """Upright, opaque pixels: uint8 BGR (height, width, 3), OpenCV's order."""
    if header.format == "jpeg" and "cmyk" not in header.traits:
        pixels = _decode_jpeg(data, header, config)
    else:
        pixels = _decode_by_pillow(data, header)
    if pixels is None:
        raise Failure(DownloadStatus.corrupt, f"the {header.format} cannot be decoded")
    return pixels


def _decode_jpeg(data: bytes, header: Header, config: DownloadConfig) -> Any:
    import cv2
    import numpy as np

    factor = shrink_while_decoding(header.width, header.height, config)
    flags = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}[factor]
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if pixels is None else upright(pixels, header.orientation)


def upright(pixels: Any, orientation: int) -> Any:
    """Undo an EXIF orientation (Exif 2.32, section 4.6.4: where the stored row 0 and column 0 belong)."""
    import numpy as np

    if orientation in (2, 3):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4):
        pixels = pixels[::-1]
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _decode_by_pillow(data: bytes, header: Header) -> Any:
    """First frame, upright, flattened on white, 8 bits; None when it cannot be decoded."""
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.size != (header.width, header.height):
                return None  # a GIF frame beyond its screen would allocate what the header did not announce
            image.load()
            frame = ImageOps.exif_transpose(image)
            return np.ascontiguousarray(np.asarray(_opaque(frame))[:, :, ::-1])
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None


def _opaque(frame: Any) -> Any:
    """A Pillow image of any mode as opaque RGB."""
    import numpy as np
    from PIL import Image

    if frame.mode.startswith("I") or frame.mode == "F":
        # Pillow clips 16 bits at 255 when it converts; the high byte is what a viewer shows.
        frame = Image.fromarray((np.asarray(frame).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if "A" in frame.mode or "a" in frame.mode or "transparency" in frame.info:
        layer = frame.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return frame.convert("RGB")


def _encode(pixels: Any, config: DownloadConfig) -> tuple[bytes, str]:
    import cv2

    name, quality = {
        "jpg": ("jpeg", cv2.IMWRITE_JPEG_QUALITY),
        "png": ("png", cv2.IMWRITE_PNG_COMPRESSION),
        "webp": ("webp", cv2.IMWRITE_WEBP_QUALITY),
    }[config.encode_format]
    _, encoded = cv2.imencode(f".{config.encode_format}", pixels, [quality, config.encode_quality])
    return encoded.tobytes(), f"image/{name}"
