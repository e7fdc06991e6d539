"""The resize modes of img2dataset: `no`, `keep_ratio`, `keep_ratio_largest`, `center_crop`, `border`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.download.config import DownloadConfig

if TYPE_CHECKING:
    import numpy as np

_WHITE = (255, 255, 255)


def resize(pixels: np.ndarray, config: DownloadConfig) -> np.ndarray:
    """`pixels` (height, width, 3) in the size that the options ask for."""
    height, width = pixels.shape[:2]
    size = scaled_size(width, height, config)
    if size is None:
        return pixels
    scaled = _scaled(pixels, size, config)
    if config.resize_mode == "center_crop":
        return _crop(scaled, config.image_size)
    if config.resize_mode == "border":
        return _pad(scaled, config.image_size)
    return scaled


def scaled_size(width: int, height: int, config: DownloadConfig) -> tuple[int, int] | None:
    """(width, height) before a crop or a border, or None when the options leave a picture of this size alone."""
    scale = _scale(width, height, config)
    return None if scale is None else (max(1, round(width * scale)), max(1, round(height * scale)))


def final_size(width: int, height: int, config: DownloadConfig) -> tuple[int, int]:
    """(width, height) that `resize` makes."""
    size = scaled_size(width, height, config)
    if size is not None and config.resize_mode in ("center_crop", "border"):
        return config.image_size, config.image_size
    return size or (width, height)


def shrink_while_decoding(width: int, height: int, config: DownloadConfig) -> int:
    """1, 2 or 4: how far a JPEG may be shrunk by its decoder, with twice the final size left for a good resize."""
    scale = _scale(width, height, config)
    if scale is None or scale > 1 / 4:
        return 1
    return 2 if scale > 1 / 8 else 4


def _scale(width: int, height: int, config: DownloadConfig) -> float | None:
    """The factor from the side that `image_size` speaks of; None when the size stays."""
    by_shortest = config.resize_mode in ("keep_ratio", "center_crop")
    side = min(width, height) if by_shortest else max(width, height)
    if config.resize_mode == "no" or (config.resize_only_if_bigger and side <= config.image_size):
        return None
    return config.image_size / side


def _scaled(pixels: np.ndarray, size: tuple[int, int], config: DownloadConfig) -> np.ndarray:
    """`pixels` in `size` (width, height)."""
    import cv2

    height, width = pixels.shape[:2]
    if size == (width, height):
        return pixels
    name = config.downscale_interpolation if max(size) < max(width, height) else config.upscale_interpolation
    method = {
        "nearest": cv2.INTER_NEAREST,
        "linear": cv2.INTER_LINEAR,
        "cubic": cv2.INTER_CUBIC,
        "area": cv2.INTER_AREA,
        "lanczos": cv2.INTER_LANCZOS4,
    }[name]
    return cv2.resize(pixels, size, interpolation=method)


def _crop(pixels: np.ndarray, side: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def _pad(pixels: np.ndarray, side: int) -> np.ndarray:
    """White on all sides until it is `side` square; an odd pixel goes below and to the right."""
    import cv2

    height, width = pixels.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    return cv2.copyMakeBorder(
        pixels, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=_WHITE
    )
