"""Figures and their bootstrap intervals."""

import tracemalloc

import numpy as np
import pytest

from lavabeam.evaluation.interval import percentiles, resampled_means
from lavabeam.evaluation.table import Table, Total, figures, share


def test_drawing_kinds_is_drawing_units():
    """Against the bootstrap as it is written in books: draws of row numbers."""
    units = np.array([[1.0, 0.0]] * 30 + [[0.0, 1.0]] * 50 + [[0.6, 0.0]] * 20)
    ours = resampled_means(units, np.random.default_rng(1), 20_000)
    chance = np.random.default_rng(2)
    plain = units[chance.integers(0, len(units), (20_000, len(units)))].mean(axis=1)
    assert np.allclose(ours.mean(axis=0), units.mean(axis=0), atol=0.002)
    assert np.allclose(ours.std(axis=0), plain.std(axis=0), rtol=0.03)
    assert np.allclose(percentiles(ours[:, 0]), percentiles(plain[:, 0]), atol=0.011)


def table(*totals: Total) -> Table:
    columns = np.array([[1.0], [0.0], [1.0], [1.0]])
    labels = [("a",), ("a",), ("b",), ("b", "c")]
    return Table(columns, labels, {"accuracy": share()}, totals, [1, 0, 1, 1])


def test_totals_pool_average_or_add_categories():
    found = figures(
        table(
            Total("all"),
            Total("mean", "mean", ("a", "b")),
            Total("sum", "sum", ("a", "b")),
            Total("c", "pooled", ("c",)),
        )
    )
    values = {name: one["value"] for name, one in found["scores"].items()}
    assert values == {"all": 75, "mean": 75, "sum": 150, "c": 100}
    assert {name: one["units"] for name, one in found["categories"].items()} == {"a": 2, "b": 2, "c": 1}


def test_an_interval_is_the_same_in_every_run_and_holds_the_value():
    first, second = (figures(table(Total("all")))["scores"]["all"] for _ in range(2))
    assert first == second
    assert first["low"] <= first["value"] <= first["high"]
    assert (first["low"], first["high"]) == (pytest.approx(25), 100)


def test_a_total_of_categories_that_are_not_there_is_left_out():
    assert figures(table(Total("x", "pooled", ("x",)), Total("y", "sum", ("y",))))["scores"] == {}


def test_units_that_all_differ_are_drawn_in_little_memory():
    """The means spread as sigma / sqrt(units), and the draws (here 32 MB together) are never in memory at once."""
    units = np.random.default_rng(1).normal(3, 2, (20_000, 1))
    tracemalloc.start()
    means = resampled_means(units, np.random.default_rng(2), 200)[:, 0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert means.mean() == pytest.approx(units.mean(), abs=0.005)
    assert means.std() == pytest.approx(2 / np.sqrt(20_000), rel=0.2)
    assert peak < 4_000_000
