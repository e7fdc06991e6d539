"""Charts: points where they belong, inside the frame."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.report.charts import HEIGHT, WIDTH, _ticks, histogram, line_chart, smoothed


def points(svg):
    return [
        [tuple(map(float, pair.split(","))) for pair in line.split()] for line in re.findall(r'points="(.*?)"', svg)
    ]


def test_a_falling_curve_falls():
    raw, smooth = points(line_chart([(1, 4.0), (2, 2.0), (3, 1.0)], "steps"))
    assert [x for x, _ in raw] == sorted(x for x, _ in raw)
    assert [y for _, y in raw] == sorted(y for _, y in raw)  # SVG's y grows downwards
    assert len(smooth) == 3


def test_one_point_is_no_curve():
    assert line_chart([(1, 2.0)], "steps") == ""
    assert histogram([], "tokens") == ""


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e3, 1e6)), min_size=2, max_size=30))
@example([(0.0, 0.0), (0.0, 2.2e-309)])  # a difference whose reciprocal is no number
def test_every_point_is_inside_the_frame(values):
    values = sorted(values)
    for line in points(line_chart(values, "steps")):
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in line)


@given(st.lists(st.integers(0, 4096), min_size=1, max_size=50))
def test_bars_of_a_histogram_add_up(values):
    heights = [float(height) for height in re.findall(r'height="([\d.]+)" class="bar"', histogram(values, "tokens"))]
    assert len(heights) == min(32, max(values) - min(values) + 1)
    assert max(heights) == pytest.approx(HEIGHT - 38)
    shares = [round(height / max(heights), 2) for height in heights if height]
    assert len(shares) <= len(set(values))


def test_smoothing_averages_neighbours():
    assert smoothed([0, 3, 0, 3]) == [1.5, 1, 2, 1.5]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 3.6, [0, 1, 2, 3]),
        (0, 0.25, [0, 0.05, 0.1, 0.15, 0.2, 0.25]),
        (0, 120, [0, 50, 100]),
        (0, 0, [0]),
        (0, 2e-309, [0]),
    ],
)
def test_ticks_are_round_numbers(low, high, ticks):
    assert _ticks(low, high) == ticks
