"""Signatures that agree in every value: exact, whatever they are like, beside comparing all with all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipelines.dedupe import alike
from pipelines.dedupe.alike import connect_alike
from pipelines.engine.components import Components


def connected(signatures, groups, limit):
    sets = Components(len(signatures))
    connect_alike(signatures, groups, limit, sets)
    return sets.roots(np.arange(len(signatures))).tolist()


def compared(signatures, groups, limit):
    """The same by all pairs."""
    sets = Components(len(signatures))
    for row in range(len(signatures)):
        differing = np.abs(signatures.astype(int) - signatures[row]).max(axis=1)
        near = np.flatnonzero((differing <= limit) & (groups == groups[row]))
        sets.join(near, np.full(len(near), row))
    return sets.roots(np.arange(len(signatures))).tolist()


SIGNATURES = st.integers(0, 40).flatmap(
    lambda rows: arrays.arrays(np.int8, (rows, 3), elements=st.integers(-127, 127) | st.integers(-9, 9))
)


@given(SIGNATURES, st.sampled_from([0, 1, 7, 100, 254]), st.integers(1, 3))
def test_any_few(signatures, limit, groups):
    numbers = np.sort(np.arange(len(signatures)) % groups)
    assert connected(signatures, numbers, limit) == compared(signatures, numbers, limit)


def drawn(kind, rows=700):
    random = np.random.default_rng(3)
    ground = random.integers(-60, 60, 40)
    return (
        {
            "one template": lambda: ground + np.where(random.random((rows, 40)) < 0.05, 50, 0),
            "noise around it": lambda: ground + random.integers(-4, 5, (rows, 40)),
            "a chain": lambda: (
                ground + (np.arange(rows) % 180)[:, None] * (np.arange(40) == 5) - 60 * (np.arange(40) == 5)
            ),
            "no cut divides them": lambda: random.integers(-6, 7, (rows, 40)),
            "random": lambda: random.integers(-127, 128, (rows, 40)),
        }[kind]()
        .clip(-127, 127)
        .astype(np.int8)
    )


@pytest.mark.parametrize("kind", ["one template", "noise around it", "a chain", "no cut divides them", "random"])
@pytest.mark.parametrize("limit", [0, 7])
def test_many_of_one_group(kind, limit):
    signatures, groups = drawn(kind), np.zeros(700, np.int64)
    assert connected(signatures, groups, limit) == compared(signatures, groups, limit)


def test_large_and_small_groups_beside_each_other(monkeypatch):
    monkeypatch.setattr(alike, "LEAF", 8)
    signatures, groups = drawn("one template", 300), np.repeat([0, 1, 2, 3], [5, 200, 1, 94])
    assert connected(signatures, groups, 7) == compared(signatures, groups, 7)


def test_ten_thousand_on_one_template_are_not_compared_pair_by_pair(monkeypatch):
    pairs = []
    compare = alike._Search._compare
    monkeypatch.setattr(
        alike._Search, "_compare", lambda self, first, second: (pairs.append(len(first)), compare(self, first, second))
    )
    connected(drawn("one template", 10_000), np.zeros(10_000, np.int64), 7)
    assert sum(pairs) < 10_000 * 200
