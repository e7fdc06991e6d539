"""Which captions are drawn, beside the paper's rule written down word by word."""

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.balance.draw import (
    CANDIDATES,
    HELD,
    MENTIONS,
    counted,
    draws,
    fill,
    open_turns,
    text_hashes,
    verdicts,
)


def by_the_book(captions, least, most, rule):
    """The rows that are drawn; `captions` has the phrases (numbers) of each."""
    rows_of = defaultdict(list)
    for row, phrases in enumerate(captions):
        for phrase in dict.fromkeys(phrases):
            rows_of[phrase].append(row)
    pool = set()
    for phrase in sorted((p for p in rows_of if len(rows_of[p]) >= least), key=lambda p: (len(rows_of[p]), p)):
        own = sorted(rows_of[phrase], key=lambda row: draws(row_hashes(row), np.uint64([phrase]))[0])
        if rule == "union":
            pool.update(own[:most])
            continue
        free = [row for row in own if row not in pool]
        pool.update(free[: max(most - (len(own) - len(free)), 0)])
    return pool


def row_hashes(*rows):
    return np.array(rows, np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def mentions_of(captions):
    found = [
        (row, phrase, place) for row, own in enumerate(captions) for place, phrase in enumerate(dict.fromkeys(own))
    ]
    rows, phrases, places = (np.array([one[column] for one in found], np.int64) for column in range(3))
    hashed = draws(row_hashes(*rows), phrases.astype(np.uint64))
    arrays = [pa.array(rows), pa.array(phrases.astype(np.uint64)), pa.array(hashed), pa.array(places, pa.int32())]
    return pa.RecordBatch.from_arrays(arrays, schema=MENTIONS)


def drawn_rows(captions, least, most, rule, parts=3):
    """What the step's functions draw when phrases and rows meet in several groups."""
    mentions = mentions_of(captions)
    phrase = mentions.column("phrase").to_numpy()
    found = [
        counted(mentions.filter(pa.array(phrase % parts == part)), least, most, rule == "union")
        for part in range(parts)
    ]
    found = pa.concat_batches(found)
    ranges = [found.filter(pa.array(found.column("row").to_numpy() % 2 == part)) for part in range(2)]
    decided = pa.concat_batches([verdicts(one) for one in ranges])
    drawn = decided.column("row").to_numpy()[decided.column("drawn").to_numpy(zero_copy_only=False)].tolist()
    if rule == "pool":
        opened = [open_turns(one, most) for one in ranges]
        candidates, held = (pa.concat_batches([pair[side] for pair in opened]) for side in range(2))
        late = fill(candidates, held, most).tolist()
        assert len(set(late)) == len(late) and not set(late) & set(drawn)
        drawn += late
    assert len(drawn) == len(set(drawn))
    return set(drawn)


@pytest.mark.parametrize("rule", ["pool", "union"])
@given(
    captions=st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=40),
    least=st.integers(1, 4),
    most=st.integers(1, 6),
)
def test_the_rule_word_by_word(rule, captions, least, most):
    assert drawn_rows(captions, least, most, rule) == by_the_book(captions, least, most, rule)


def test_a_phrase_is_filled_up_and_not_over():
    captions = [[1]] * 5 + [[1, 2]] * 2 + [[3]] * 2
    pool = drawn_rows(captions, 2, 3, "pool")
    assert {5, 6, 7, 8} <= pool and len(pool) == 5  # 2 and 3 bring theirs, which leaves one place for 1
    assert len(drawn_rows(captions, 2, 3, "union") - {5, 6, 7, 8}) <= 3
    assert drawn_rows([[1], [1], [2]], 3, 9, "pool") == set()


def test_nothing_is_drawn_of_nothing():
    empty = counted(mentions_of([]), 1, 1, False)
    assert (empty.num_rows, verdicts(empty).num_rows) == (0, 0)
    candidates, held = open_turns(empty, 1)
    assert (candidates.schema, held.schema) == (CANDIDATES, HELD)
    assert fill(candidates, held, 1).tolist() == []


def test_hashes_stay_as_they_are():
    assert text_hashes(["dog", ""], "0").tolist() == [3415789759291902875, 7218554834331689347]
    assert text_hashes(["dog"], "0") != text_hashes(["dog"], "1")
    assert draws(np.uint64([1, 2]), np.uint64([3, 3])).tolist() == [4048727598324417001, 15047954047655532813]
