"""What `schemas.pictures` makes of every picture of the table in tests/pictures.py."""

import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from schemas.phash import distance, perceptual_hash
from schemas.pictures import PictureError, check, grey, open_rgb, read, rgb, to_rgb, upright
from tests.pictures import BROKEN, CASES, SIZE, USABLE, WIDE, Case, corners_of, encoded, quadrants, turned


def assert_right(pixels: np.ndarray, case: Case, slack: float = 1) -> None:
    assert pixels.shape == (SIZE[1], SIZE[0], 3)
    assert np.abs(corners_of(pixels) - np.asarray(case.corners)).max() <= case.near + slack


def test_the_table_has_every_kind():
    assert (len(USABLE) > 80, len(BROKEN) > 15, len({case.name for case in CASES})) == (True, True, len(CASES))


@pytest.mark.parametrize("case", USABLE, ids=str)
def test_usable_pictures_are_upright_and_in_rgb(case):
    assert read(case.data).size == check(case.data).size == SIZE
    fast, exact = rgb(case.data), rgb(case.data, fast=False)
    assert fast.dtype == np.uint8
    assert (fast == exact).all()
    assert_right(fast, case)
    assert (open_rgb(case.data).mode, open_rgb(case.data).size) == ("RGB", SIZE)


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_broken_pictures_have_a_reason(case):
    for fast in (True, False):
        with pytest.raises(PictureError) as caught:
            rgb(case.data, fast)
        assert caught.value.defect == case.defect
    with pytest.raises(PictureError):
        check(case.data)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.defect, str(again)) == (case.defect, str(caught.value))
    assert " at 0x" not in caught.value.detail


@pytest.mark.parametrize("case", CASES, ids=str)
def test_exactly_what_training_can_decode_has_a_hash(case):
    found = perceptual_hash(case.data)
    assert (found is None) == (case.defect is not None)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_turned_picture_hashes_as_the_upright_one(kind):
    small = np.random.default_rng(1).integers(0, 255, (6, 9, 3), np.uint8)
    photo = np.asarray(Image.fromarray(small).resize((144, 96), Image.Resampling.BICUBIC))
    plain = perceptual_hash(encoded(photo))
    for orientation in range(2, 9):
        data = turned(orientation, kind, photo)
        assert distance(perceptual_hash(data), plain) <= 4, orientation


@given(st.sampled_from(USABLE), st.floats(0, 1), st.binary(max_size=6), st.integers(0, 6))
def test_damage_is_a_picture_error_and_what_passes_has_its_size(case, place, noise, cut):
    position = int(place * len(case.data))
    data = case.data[:position] + noise + case.data[position + cut :]
    try:
        header = check(data)
    except PictureError:
        return
    assert rgb(data, fast=False).shape == (header.size[1], header.size[0], 3)


def test_a_damaged_jpeg_that_is_kept_trains():
    """One byte changed in each of 600 copies: what passes at 1/8 of the size passes at its whole size."""
    rng = np.random.default_rng(5)
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize((64, 48))
    files = [encoded(small, "JPEG", progressive=progressive) for progressive in (False, True)]
    kept = 0
    for number in range(600):
        data = bytearray(files[number % 2])
        data[rng.integers(2, len(data))] = rng.integers(256)
        try:
            header = check(bytes(data))
        except PictureError:
            continue
        kept += 1
        assert rgb(bytes(data)).shape == (header.size[1], header.size[0], 3)
    assert 100 < kept < 600


def test_pillow_is_not_shown_the_metadata_of_a_jpeg():
    """200 blocks of 60 KB, of which each tag names all: Pillow would copy gigabytes to find the resolution."""
    tags = b"".join(struct.pack(">HHII", 1000 + number, 1, 60_000, 0) for number in range(5000))
    block = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 5000) + tags
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    cmyk = encoded(Image.new("CMYK", SIZE), "JPEG")
    assert rgb(cmyk[:2] + segment * 200 + cmyk[2:]).shape == (SIZE[1], SIZE[0], 3)


@pytest.mark.parametrize("head", [b"P6 %d %d 65535\n", b"P5 %d %d 300\n"])
def test_pictures_that_pillow_decodes_in_python_are_small(head):
    with pytest.raises(PictureError, match="too_many_pixels: 1500x1500, more than 2097152 for the encoding ppm"):
        check(head % (1500, 1500) + bytes(1500 * 1500 * 6))


@pytest.mark.parametrize("name", ["png rgba", "png palette transparent", "png 16-bit grey transparent", "tiff float"])
def test_strips_make_the_picture_that_the_whole_makes(name, monkeypatch):
    (case,) = [case for case in USABLE if case.name == name]
    whole, grey_whole = rgb(case.data), grey(case.data, read(case.data))
    monkeypatch.setattr("schemas.picturemodes.STRIP", 70)  # 2 rows
    assert np.array_equal(rgb(case.data), whole)
    assert np.array_equal(grey(case.data, read(case.data)), grey_whole)


def test_hashes_tell_16_bit_greys_and_drawings_on_transparency_apart():
    rng = np.random.default_rng(3)
    greys = [Image.fromarray(rng.integers(0, 255, (4, 4), np.uint8)).resize((96, 96)) for _ in range(3)]
    wide = [encoded(np.asarray(grey).astype(np.uint16) * 16 + 300) for grey in greys]  # 12 bits used, as in X-rays
    drawn = []
    for box in ((10, 10, 40, 40), (50, 5, 90, 60), (0, 60, 96, 80)):
        alpha = Image.new("L", (96, 96))
        alpha.paste(255, box)
        drawn.append(encoded(Image.merge("LA", (Image.new("L", (96, 96)), alpha))))
    for data in (wide, drawn):
        hashes = [perceptual_hash(one) for one in data]
        assert min(distance(hashes[a], hashes[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 6


def test_upright_of_a_literal_array():
    stored = np.array([[1, 2], [3, 4], [5, 6]])
    assert upright(stored, 1).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert upright(stored, 2).tolist() == [[2, 1], [4, 3], [6, 5]]
    assert upright(stored, 3).tolist() == [[6, 5], [4, 3], [2, 1]]
    assert upright(stored, 4).tolist() == [[5, 6], [3, 4], [1, 2]]
    assert upright(stored, 5).tolist() == [[1, 3, 5], [2, 4, 6]]
    assert upright(stored, 6).tolist() == [[5, 3, 1], [6, 4, 2]]
    assert upright(stored, 7).tolist() == [[6, 4, 2], [5, 3, 1]]
    assert upright(stored, 8).tolist() == [[2, 4, 6], [1, 3, 5]]


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "LAB", "HSV", "YCbCr", "RGBX", "I;16B"])
def test_modes_that_few_files_have(mode):
    assert to_rgb(Image.new(mode, (3, 2))).mode == "RGB"


def test_an_opened_picture_is_turned_and_a_broken_orientation_ignored():
    image = Image.fromarray(quadrants(USABLE[0].corners))
    image.getexif()[274] = 6
    assert to_rgb(image).size == SIZE[::-1]
    image.getexif()[274] = 99
    assert to_rgb(image).size == SIZE


def test_16_bit_grey_keeps_its_high_byte():
    assert (to_rgb(Image.fromarray(WIDE.astype(np.uint16))).getpixel((0, 0))) == (10, 10, 10)
