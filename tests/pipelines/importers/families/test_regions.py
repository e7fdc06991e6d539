"""Boxes as LLaVA writes them."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.importers.families.question import Unusable
from pipelines.importers.families.regions import RegionConfig, box_in, box_text
from schemas.config import parse
from schemas.errors import InputError


def test_the_documented_region_of_visual_genome():
    """Region 1382 of picture 1, 800 x 600 (Visual Genome's documentation)."""
    box = box_in([421, 57, 82, 139], 800, 600)
    assert box_text(box, 800, 600, pad=True) == "[0.53, 0.2, 0.63, 0.37]"
    assert box_text(box, 800, 600, pad=False) == "[0.53, 0.1, 0.63, 0.33]"


def test_an_odd_pixel_of_padding_stands_behind():
    box = box_in([0, 0, 101, 50], 101, 50)
    assert box_text(box, 101, 50, pad=True) == "[0.0, 0.25, 1.0, 0.74]"  # 25 above, 26 below, as expand2square


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.lists(st.integers(-3000, 6000), min_size=4, max_size=4),
    st.booleans(),
)
def test_boxes_stay_in_the_picture(width, height, sides, pad):
    try:
        text = box_text(box_in(sides, width, height), width, height, pad)
    except Unusable:
        x, y, wide, high = sides
        assert not (wide > 0 and high > 0 and x < width and y < height and x + wide > 0 and y + high > 0)
        return
    numbers = [float(number) for number in text[1:-1].split(", ")]
    assert re.fullmatch(r"\[(?:[01]\.\d{1,2}(?:, |\])){4}", text)
    assert 0 <= numbers[0] <= numbers[2] <= 1
    assert 0 <= numbers[1] <= numbers[3] <= 1


@pytest.mark.parametrize(
    "sides", [[], [1, 2, 3], [1, 2, "3", 4], [1, 2, True, 4], [0, 0, float("nan"), 1], [0, 0, 0, 1]]
)
def test_other_boxes_are_unusable(sides):
    with pytest.raises(Unusable):
        box_in(sides, 10, 10)


def test_a_suffix_needs_its_words():
    with pytest.raises(InputError, match="set suffix_text"):
        parse({"path": "x", "suffix": "every"}, RegionConfig, "options")
