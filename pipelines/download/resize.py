"""The resize modes of img2dataset: `no`, `keep_ratio`, `keep_ratio_largest`, `center_crop`, `border`."""

from __future__ import annotations

from typing import Any

from pipelines.download.config import DownloadConfig

_WHITE = (255, 255, 255)


def resize(pixels: Any, config: DownloadConfig) -> Any:
    """`pixels` (height, width, 3) in the size that the options ask for."""
    if config.resize_mode == "no":
        return pixels
    height, width = pixels.shape[:2]
    scale = _scale(width, height, config)
    if scale is None:
        return pixels
    scaled = _scaled(pixels, max(1, round(width * scale)), max(1, round(height * scale)), scale < 1, config)
    if config.resize_mode == "center_crop":
        return _crop(scaled, config.image_size)
    if config.resize_mode == "border":
        return _pad(scaled, config.image_size)
    return scaled


def resizes(width: int, height: int, config: DownloadConfig) -> bool:
    """Whether the options ask for another size than `width` x `height`."""
    if config.resize_mode == "no" or _scale(width, height, config) is None:
        return False
    side = config.image_size
    if config.resize_mode in ("center_crop", "border"):
        return (width, height) != (side, side)
    return _side(width, height, config) != side


def shrink_while_decoding(width: int, height: int, config: DownloadConfig) -> int:
    """1, 2 or 4: how far a JPEG may be shrunk by its decoder, with twice the final size left for a good resize."""
    if config.resize_mode == "no":
        return 1
    scale = _scale(width, height, config)
    if scale is None or scale > 1 / 4:
        return 1
    return 2 if scale > 1 / 8 else 4


def _side(width: int, height: int, config: DownloadConfig) -> int:
    """The side that `image_size` speaks of."""
    by_shortest = config.resize_mode in ("keep_ratio", "center_crop")
    return min(width, height) if by_shortest else max(width, height)


def _scale(width: int, height: int, config: DownloadConfig) -> float | None:
    """The factor, or None when the size stays because only bigger pictures are resized."""
    side = _side(width, height, config)
    if config.resize_only_if_bigger and side <= config.image_size:
        return None
    return config.image_size / side


def _scaled(pixels: Any, width: int, height: int, smaller: bool, config: DownloadConfig) -> Any:
    import cv2

    if pixels.shape[:2] == (height, width):
        return pixels
    name = config.downscale_interpolation if smaller else config.upscale_interpolation
    method = {
        "nearest": cv2.INTER_NEAREST,
        "linear": cv2.INTER_LINEAR,
        "cubic": cv2.INTER_CUBIC,
        "area": cv2.INTER_AREA,
        "lanczos": cv2.INTER_LANCZOS4,
    }[name]
    return cv2.resize(pixels, (width, height), interpolation=method)


def _crop(pixels: Any, side: int) -> Any:
    height, width = pixels.shape[:2]
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def _pad(pixels: Any, side: int) -> Any:
    """White on all sides until it is `side` square; an odd pixel goes below and to the right."""
    import cv2

    height, width = pixels.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    return cv2.copyMakeBorder(
        pixels, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=_WHITE
    )
