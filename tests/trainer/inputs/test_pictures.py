"""Pictures to pixels, against arrays that the original code made."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from schemas.chat import ImageRule
from schemas.errors import InputError
from tests.pictures import CASES, SIZE, Case, corners_of
from trainer.inputs.pictures import CLIP_MEAN, CLIP_STD, decode, normalise, prepare, to_rgb

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "images.json").read_text("utf-8"))
STEP = 1 / (255 * np.asarray(CLIP_STD, np.float32)[:, None, None])
"""One of 255 levels, after normalisation."""


def drawn(kind: str, size: list[int]) -> np.ndarray:
    """The vectors' pictures (integer arithmetic; x is the column, y the row)."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    if kind == "ramp":
        planes = [255 * x // (width - 1), 255 * y // (height - 1), 255 * (x + y) // (width + height - 2)]
    elif kind == "checker":
        planes = [255 * ((x // 16 + y // 16) % 2), (x // 7 % 2) * 200 + 20, (y // 11 % 2) * 180 + 40]
    else:
        value = (1103515245 * x + 12345 * y + 2654435761 * x * y) & 0xFFFFFFFF
        planes = [value >> 16 & 255, value >> 8 & 255, value & 255]
    return np.stack(planes, -1).astype(np.uint8)


def encoded(pixels: np.ndarray, form: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["pad", "square", "anyres"])
@pytest.mark.parametrize("row", VECTORS["pixel_values"], ids=lambda row: row["kind"])
def test_exact_arrays_are_the_originals_and_fast_ones_two_levels_away(row: dict[str, Any], mode: str) -> None:
    pixels = drawn(row["kind"], row["size"])
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == row["raw_sha256"]
    rule = ImageRule(mode)
    exact = prepare(Image.fromarray(pixels), rule, fast=False)
    assert hashlib.sha256(np.ascontiguousarray(exact.pixels).tobytes()).hexdigest() == row[mode]["sha256"]
    assert exact.size == tuple(row["size"])
    assert exact.pixels.shape == (rule.tiles(*exact.size), 3, 336, 336)
    fast = prepare(Image.fromarray(pixels), rule)
    assert fast.pixels.dtype == np.float32
    assert np.abs((fast.pixels - exact.pixels) / STEP).max() < 2.01


@pytest.mark.parametrize("kind", ["ramp", "checker", "hash"])
def test_a_pre_resized_jpeg_needs_no_resizing_and_loses_nothing(kind: str) -> None:
    data = encoded(drawn(kind, [448, 336]), quality=90)
    exact, fast = (prepare(data, ImageRule(), fast=fast).pixels for fast in (False, True))
    assert np.abs(exact - fast).max() < 1e-6


def test_both_decoders_give_the_same_values() -> None:
    for options in ({"subsampling": 0}, {"subsampling": 2}, {"progressive": True}):
        data = encoded(drawn("ramp", [61, 43]), **options)
        assert (decode(data, fast=True) == decode(data, fast=False)).all()
    grey = encoded(drawn("ramp", [61, 43])[..., 0])
    assert (decode(grey, fast=True) == decode(grey, fast=False)).all()


@pytest.mark.parametrize("fast", [True, False])
def test_exif_turns_the_picture_before_its_size_is_taken(fast: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(drawn("ramp", [64, 32]), exif=exif, quality=95)
    picture = prepare(data, ImageRule(), fast=fast)
    assert picture.size == (32, 64)
    upright = decode(encoded(drawn("ramp", [64, 32]), quality=95))
    assert (decode(data, fast) == np.rot90(upright, 3)).all()


def test_every_mode_becomes_rgb() -> None:
    red = Image.new("RGB", (2, 2), (200, 10, 20))
    clear = Image.new("RGBA", (2, 2), (200, 10, 20, 0))
    half = Image.new("LA", (2, 2), (0, 128))
    palette = clear.convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    wide = Image.fromarray(np.full((2, 2), 0x80FF, np.uint16))
    span = Image.fromarray(np.asarray([[-5.0, 5.0]], np.float32))
    expected = [
        (red, (200, 10, 20)),
        (red.convert("CMYK"), (200, 10, 20)),
        (Image.new("L", (2, 2), 7), (7, 7, 7)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (clear, (255, 255, 255)),
        (half, (127, 127, 127)),
        (palette, (255, 255, 255)),
        (wide, (128, 128, 128)),
        (span, (0, 0, 0)),
    ]
    for image, color in expected:
        found = to_rgb(image)
        assert found.mode == "RGB"
        assert np.abs(np.subtract(found.getpixel((0, 0)), color)).max() <= 1, image.mode


def test_normalising_fast_is_within_rounding() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    exact, fast = (normalise(values, CLIP_MEAN, CLIP_STD, fast) for fast in (False, True))
    assert exact.dtype == fast.dtype == np.float32
    assert 0 < np.abs(exact - fast).max() < 6e-7


@pytest.mark.parametrize("fast", [True, False])
def test_broken_bytes_are_refused(fast: bool) -> None:
    whole = encoded(drawn("hash", [64, 64]))
    for data in (b"", b"not a picture", whole[: len(whole) // 2], b"\xff\xd8\xff" + bytes(40)):
        with pytest.raises(InputError, match=f"picture of {len(data)} bytes cannot be decoded"):
            prepare(data, ImageRule(), fast=fast)


def test_thin_pictures_keep_a_tile() -> None:
    for size in ([1, 300], [300, 2]):
        assert prepare(Image.new("RGB", size), ImageRule("anyres")).pixels.shape[0] > 1
        assert prepare(Image.new("RGB", size), ImageRule()).pixels.shape == (1, 3, 336, 336)
    with pytest.raises(InputError, match="1x2000 pixels: too narrow"):
        prepare(Image.new("RGB", (1, 2000)), ImageRule())


def test_the_fast_path_follows_pillow_in_pictures_a_hundred_times_as_tall_as_wide() -> None:
    picture = Image.fromarray(drawn("hash", [10, 1110]))
    exact, fast = (prepare(picture, ImageRule("anyres"), fast=fast).pixels for fast in (False, True))
    assert np.abs((fast - exact) / STEP).max() < 2.01


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_sees_the_picture_that_every_step_sees(case: Case) -> None:
    rule = ImageRule("anyres", 32, 8, pinpoints=((32, 64), (64, 32), (64, 64)))
    if case.defect is not None:
        with pytest.raises(InputError, match=f"picture of {len(case.data)} bytes cannot be decoded: {case.defect}"):
            prepare(case.data, rule)
        return
    picture = prepare(case.data, rule)
    assert (picture.size, len(picture.pixels)) == (SIZE, rule.tiles(*SIZE))
    assert np.abs(corners_of(decode(case.data)) - np.asarray(case.corners)).max() <= case.near + 1
