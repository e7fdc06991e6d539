"""Cutting a source into slices."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.importers.base import cut_weighted


@given(st.lists(st.integers(1, 9)), st.integers(1, 12), st.lists(st.integers(1, 9)))
def test_items_that_become_several_rows_are_cut_alike_again(weights, rows, appended):
    items = list(enumerate(weights))
    made = list(cut_weighted(items, [], rows))
    assert [item for group, _ in made for item in group] == list(range(len(weights)))
    assert [size for _, size in made] == [sum(weights[item] for item in group) for group, _ in made]
    assert all(size >= rows for _, size in made[:-1])
    longer = list(enumerate([*weights, *appended]))
    again = list(cut_weighted(longer, [size for _, size in made], rows))
    assert again[: len(made)] == made
