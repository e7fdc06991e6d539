"""Pictures to the pixel arrays that a vision tower sees.

Encoded bytes or PIL images flow in; tiles cut by the same ImageRule that counted their tokens flow out: uint8 for
training, which normalises them on its device (trainer/inputs/device.py), or float32 and normalised. The exact path
reproduces the original's arrays bit for bit (PIL's bicubic, Pillow below 13); the fast path decodes with simplejpeg and
resizes with torch's uint8 bicubic, at most 2 of 255 levels off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import cv2
import numpy as np
from PIL import Image

from schemas.chat.images import ImageRule, Size, best_resolution
from schemas.errors import InputError
from schemas.pictures import PictureError, rgb, to_rgb
from trainer.models.towers import CLIP_MEAN, CLIP_STD, Triple

PILLOW_TALL = 100
"""Pillow shrinks pictures taller than this many widths by height first (Image.resize), which rounds differently."""


@dataclass(frozen=True)
class Picture:
    """pixels: (tiles, 3, image_size, image_size), uint8 or float32 and normalised; the overview first. size: (width,
    height)."""

    pixels: np.ndarray
    size: Size


def prepare(
    image: bytes | Image.Image,
    rule: ImageRule,
    mean: Triple = CLIP_MEAN,
    std: Triple = CLIP_STD,
    fast: bool = True,
    pictures: int = 1,
) -> Picture:
    """`cut`, and normalised by `mean` and `std` (of values in [0, 1]): float32 pixels."""
    tiles, size = _cut(image, rule, mean, fast, pictures)
    return Picture(normalise(tiles, mean, std, fast), size)


def cut(image: bytes | Image.Image, rule: ImageRule, mean: Triple = CLIP_MEAN, pictures: int = 1) -> Picture:
    """Decode and cut by `rule`: uint8 pixels. `mean` is the colour that `pad` fills with. pictures: of its row.

    Pictures are upright RGB as `schemas.pictures` makes them. `size` is that of the upright picture before any
    resizing, which is what `rule.tokens` counts by. Raises InputError for bytes that cannot be decoded, for more
    than schemas.pictures.MAX_PIXELS, and for what `rule.check_size` refuses.
    """
    tiles, size = _cut(image, rule, mean, True, pictures)
    pixels = np.empty((len(tiles), 3, *tiles.shape[1:3]), np.uint8)
    for tile, planes in zip(np.ascontiguousarray(tiles), pixels, strict=True):
        cv2.split(tile, list(planes))
    return Picture(pixels, size)


def _cut(
    image: bytes | Image.Image, rule: ImageRule, mean: Triple, fast: bool, pictures: int
) -> tuple[np.ndarray, Size]:
    """uint8 (tiles, size, size, 3), and (width, height) of the picture."""
    pixels = decode(image, fast)
    height, width = pixels.shape[:2]
    resize = _resize_torch if fast and _torch() is not None else _resize_pil
    return _tiles(pixels, rule, mean, resize, pictures), (width, height)


def decode(image: bytes | Image.Image, fast: bool = True) -> np.ndarray:
    """uint8 (height, width, 3), upright, as `schemas.pictures` decodes it for every other step."""
    if isinstance(image, Image.Image):
        return np.asarray(to_rgb(image))
    try:
        return rgb(image, fast)
    except PictureError as error:
        raise InputError(f"picture of {len(image)} bytes cannot be decoded: {error}. Leave it out.") from error


def normalise(tiles: np.ndarray, mean: Triple, std: Triple, fast: bool = True) -> np.ndarray:
    """uint8 (tiles, height, width, 3) to float32 (tiles, 3, height, width): (value / 255 - mean) / std.

    Exact: through a table of the 256 values, computed in the original's order and precision. Fast: the planes are
    split, and OpenCV scales and shifts each in one pass, within 5e-7 of the exact values.
    """
    if not fast:
        table = _table(tuple(mean), tuple(std))
        return np.stack([table[channel][tiles[..., channel]] for channel in range(3)], axis=1)
    pixels = np.empty((len(tiles), 3, *tiles.shape[1:3]), np.float32)
    for tile, planes in zip(np.ascontiguousarray(tiles), pixels, strict=True):
        for channel, plane in enumerate(cv2.split(tile)):
            scale, shift = 1 / (255 * std[channel]), -mean[channel] / std[channel]
            cv2.addWeighted(plane, scale, plane, 0, shift, dst=planes[channel], dtype=cv2.CV_32F)
    return pixels


@lru_cache(maxsize=8)
def _table(mean: Triple, std: Triple) -> np.ndarray:
    scaled = (np.arange(256, dtype=np.uint8) * (1 / 255)).astype(np.float32)
    return (scaled - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]


def _tiles(pixels: np.ndarray, rule: ImageRule, mean: Triple, resize: Any, pictures: int) -> np.ndarray:
    side = rule.image_size
    rule.check_size(pixels.shape[1], pixels.shape[0], pictures)
    if rule.mode == "square":
        return _centre(resize(pixels, *_shortest(pixels, side)), side)[None]
    if not rule.cuts(pictures):
        return resize(_to_square(pixels, mean), side, side)[None]
    overview = resize(pixels, side, side)
    return np.concatenate([overview[None], _grid(_fitted(pixels, rule, resize), side)])


def _shortest(pixels: np.ndarray, side: int) -> Size:
    """(width, height) with the shorter one `side`, the longer rounded down."""
    height, width = pixels.shape[:2]
    return (side, int(side * height / width)) if width <= height else (int(side * width / height), side)


def _centre(pixels: np.ndarray, side: int) -> np.ndarray:
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def _to_square(pixels: np.ndarray, mean: Triple) -> np.ndarray:
    """The picture centred on a square of the mean colour."""
    height, width = pixels.shape[:2]
    if height == width:
        return pixels
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    edges = top, side - height - top, left, side - width - left
    colour = [int(value * 255) for value in mean]
    return cv2.copyMakeBorder(pixels, *edges, cv2.BORDER_CONSTANT, value=colour)


def _fitted(pixels: np.ndarray, rule: ImageRule, resize: Any) -> np.ndarray:
    """The picture scaled to fit the best pinpoint, centred on black (LLaVA-NeXT)."""
    height, width = pixels.shape[:2]
    full_width, full_height = best_resolution((width, height), rule.pinpoints)
    by_width, by_height = full_width / width, full_height / height
    if by_width < by_height:
        new = full_width, min(math.ceil(height * by_width), full_height)
    else:
        new = min(math.ceil(width * by_height), full_width), full_height
    canvas = np.zeros((full_height, full_width, 3), np.uint8)
    left, top = (full_width - new[0]) // 2, (full_height - new[1]) // 2
    canvas[top : top + new[1], left : left + new[0]] = resize(pixels, *new)
    return canvas


def _grid(canvas: np.ndarray, side: int) -> np.ndarray:
    """(rows * columns, side, side, 3), row by row."""
    rows, columns = canvas.shape[0] // side, canvas.shape[1] // side
    return canvas.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)


def _resize_pil(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def _resize_torch(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Torch's antialiased bicubic on uint8: Pillow's filter with shorter integer weights."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.shape[0] > PILLOW_TALL * pixels.shape[1]:
        return _resize_pil(pixels, width, height)
    torch = cast(Any, _torch())
    batch = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(batch, size=(height, width), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


@lru_cache(maxsize=1)
def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch
