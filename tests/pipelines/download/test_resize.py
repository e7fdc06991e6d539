"""The resize modes, size by size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.download.config import DownloadConfig
from pipelines.download.resize import final_size, resize, shrink_while_decoding

MODES = ["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]


def size(width: int, height: int, **options) -> tuple[int, int]:
    made = resize(np.zeros((height, width, 3), np.uint8), DownloadConfig(image_size=100, **options))
    return made.shape[1], made.shape[0]


@pytest.mark.parametrize(
    ("mode", "larger", "smaller"),
    [
        ("no", (400, 200), (40, 20)),
        ("keep_ratio", (200, 100), (200, 100)),
        ("keep_ratio_largest", (100, 50), (100, 50)),
        ("center_crop", (100, 100), (100, 100)),
        ("border", (100, 100), (100, 100)),
    ],
)
def test_sizes(mode, larger, smaller):
    assert size(400, 200, resize_mode=mode, resize_only_if_bigger=False) == larger
    assert size(40, 20, resize_mode=mode, resize_only_if_bigger=False) == smaller
    assert size(40, 20, resize_mode=mode, resize_only_if_bigger=True) == (40, 20)


def test_border_is_white_and_centred():
    options = DownloadConfig(image_size=10, resize_mode="border", downscale_interpolation="nearest")
    made = resize(np.zeros((10, 20, 3), np.uint8), options)
    assert made[:, 0, 0].tolist() == [255, 255, 0, 0, 0, 0, 0, 255, 255, 255]


def test_crop_takes_the_middle():
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200
    made = resize(pixels, DownloadConfig(image_size=10, resize_mode="center_crop", resize_only_if_bigger=False))
    assert made.shape == (10, 10, 3) and (made == 200).all()


@given(
    st.integers(1, 60), st.integers(1, 60), st.sampled_from(MODES), st.integers(1, 50), st.booleans(),
)  # fmt: skip
def test_the_final_size_is_what_resize_makes(width, height, mode, side, only_bigger):
    options = DownloadConfig(image_size=side, resize_mode=mode, resize_only_if_bigger=only_bigger)
    made = resize(np.zeros((height, width, 3), np.uint8), options)
    assert final_size(width, height, options) == (made.shape[1], made.shape[0])


@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from(MODES))
def test_the_decoder_leaves_twice_the_final_size(width, height, mode):
    options = DownloadConfig(image_size=512, resize_mode=mode)
    factor = shrink_while_decoding(width, height, options)
    if factor > 1:
        short = mode in ("keep_ratio", "center_crop")
        assert (min if short else max)(width, height) / factor >= 2 * 512
