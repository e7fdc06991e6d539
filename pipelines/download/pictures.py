"""From received bytes to the stored image: refused, kept unchanged, or made upright, opaque RGB and encoded.

What is not plain is changed and encoded again: the first frame of an animation, the high 8 of 16 bits, CMYK and palette
as RGB, alpha on white (as img2dataset), EXIF rotation applied. docs/download.md has the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.download.config import DownloadConfig
from pipelines.download.headers import Header, picture_failures, read_header
from pipelines.download.resize import final_size, resize, scaled_size, shrink_while_decoding
from pipelines.download.statuses import DownloadStatus, Failure
from schemas.decoding import room
from schemas.phash import hash_picture
from schemas.pictures import decoding_bytes, shrunk

if TYPE_CHECKING:
    import numpy as np

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
    with room(_work_bytes(header, config)):
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
        detail = f"{final[0]}x{final[1]}, more than a {config.encode_format} can hold"
        raise Failure(DownloadStatus.too_many_pixels, detail)


def _work_bytes(header: Header, config: DownloadConfig) -> int:
    """Memory for decoding, and for the picture of another size that may be made of it: scaled, then cropped, padded
    or encoded."""
    made = final_size(header.width, header.height, config)
    resized = 0 if made == (header.width, header.height) else 6 * made[0] * made[1]
    return decoding_bytes(header, shrink_while_decoding(header.width, header.height, config)) + resized


def _keep(data: bytes, header: Header, config: DownloadConfig) -> Kept:
    size = (header.width, header.height)
    if _may_stay(data, header, config):
        kept, mime = data, header.mime
    else:
        _check_result(header, config)
        with picture_failures():
            pixels = shrunk(data, header, shrink_while_decoding(*size, config))
        pixels = resize(pixels, config)
        size = (pixels.shape[1], pixels.shape[0])
        kept, mime = _encode(pixels, config)
    # Also the proof that training can decode what is kept: it asks the same function.
    with picture_failures():
        phash = hash_picture(kept)
    return Kept(kept, *size, header.width, header.height, mime, phash)


def _may_stay(data: bytes, header: Header, config: DownloadConfig) -> bool:
    return (
        config.skip_reencode
        and header.plain
        and header.format in _KEPT_FORMATS
        and len(data) <= config.max_kept_bytes
        and final_size(header.width, header.height, config) == (header.width, header.height)
    )


def _encode(pixels: np.ndarray, config: DownloadConfig) -> tuple[bytes, str]:
    """RGB pixels as `encode_format`, and its MIME type."""
    import cv2

    name, quality = {
        "jpg": ("jpeg", cv2.IMWRITE_JPEG_QUALITY),
        "png": ("png", cv2.IMWRITE_PNG_COMPRESSION),
        "webp": ("webp", cv2.IMWRITE_WEBP_QUALITY),
    }[config.encode_format]
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(f".{config.encode_format}", pixels, [quality, config.encode_quality])
    return encoded.tobytes(), f"image/{name}"
