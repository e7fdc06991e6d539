"""Clusters of pictures by hash and details beside a plain answer row by row; and rows that come later."""

import json
from itertools import combinations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dedupe import DedupeText, TextConfig
from pipelines.dedupe.cluster import MEMBERS, companions, decide, refined, with_roots
from pipelines.dedupe.detail import SIZE
from pipelines.dedupe.hamming import near_forest
from pipelines.engine.blocks import distinct
from pipelines.engine.imports import run_import
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from pipelines.importers.url_list import UrlList, UrlListConfig
from schemas import Dataset

LIMIT = 7
# hash, value of one cell (None: no details), number of a sha256; rows with one sha256 agree in the rest, as bytes do.
KINDS = st.lists(
    st.tuples(st.sampled_from([None, 0, 1, 3, 2**40 - 1]), st.sampled_from([None, 0, 5, 10, 60, -60])),
    min_size=1,
    max_size=8,
)
ROWS = KINDS.flatmap(
    lambda kinds: st.lists(st.integers(0, len(kinds) - 1), max_size=20).map(
        lambda chosen: [(*kinds[number], number) for number in chosen]
    )
)


def clusters(rows):
    """Row -> the set of rows in its cluster, by the functions of the pipeline."""
    members = pa.RecordBatch.from_pydict(
        {
            "row": range(len(rows)),
            "near": [row[0] for row in rows],
            "area": [1] * len(rows),
            "left_out": [False] * len(rows),
            "sha256": [bytes([row[2]]) * 32 for row in rows],
            "key": [f"k{number}" for number in range(len(rows))],
        },
        schema=MEMBERS,
    )
    hashes = distinct(members.column("near").drop_null().to_numpy())
    found = companions(members, *with_roots(*near_forest(hashes, 6)))
    details = [
        None if rows[row][1] is None else np.full(SIZE, rows[row][1], np.int8).tobytes()
        for row in found.column("row").to_pylist()
    ]
    found = refined(found.append_column("dedupe_cells", pa.array(details, pa.binary(SIZE))), LIMIT)
    groups = {number: number for number in range(len(rows))}
    groups |= {row["row"]: row["cluster"] for row in decide(found).to_pylist()}
    return {row: {other for other, name in groups.items() if name == own} for row, own in groups.items()}


def components(count, edges):
    sets = [{number} for number in range(count)]
    for first, second in edges:
        one, other = (next(own for own in sets if row in own) for row in (first, second))
        if one is not other:
            one |= other
            sets.remove(other)
    return {row: own for own in sets for row in own}


def plain(rows):
    def near(first, second):
        if first[0] is None or second[0] is None:
            return first[2] == second[2]
        return (first[0] ^ second[0]).bit_count() <= 6

    def agree(first, second):
        if first[2] == second[2]:
            return True
        if first[0] is None or second[0] is None:
            return False
        if first[1] is None or second[1] is None:
            return first[1] is second[1]
        return abs(first[1] - second[1]) <= LIMIT

    pairs = list(combinations(range(len(rows)), 2))
    coarse = components(len(rows), [(a, b) for a, b in pairs if near(rows[a], rows[b])])
    return components(len(rows), [(a, b) for a, b in pairs if coarse[a] is coarse[b] and agree(rows[a], rows[b])])


@given(ROWS)
def test_clusters_are_components_within_components(rows):
    assert clusters(rows) == plain(rows)


@given(ROWS, st.randoms())
def test_clusters_are_the_same_in_any_order(rows, random):
    order = random.sample(range(len(rows)), len(rows))
    there = clusters([rows[row] for row in order])
    assert {order[row]: {order[one] for one in own} for row, own in there.items()} == clusters(rows)


def test_rows_that_come_later_give_what_all_at_once_give(tmp_path):
    texts = [
        ["a red bus in the rain", "two dogs", "Two dogs!"],
        ["a red bus in the rain, again", "a cat"],
        ["TWO DOGS"],
    ]
    for number, part in enumerate([*texts, [text for one in texts for text in one]]):
        rows = [{"url": f"http://x.org/{text}", "caption": text} for text in part]
        (tmp_path / f"{number}.json").write_text(json.dumps(rows))
    runner = Runner("local", 1)

    def add(target, number, other):
        config = UrlListConfig(path=str(tmp_path / f"{number}.json"), columns={"alt_text": "caption"})
        run_import(UrlList(config), tmp_path / target, runner, other)
        run_step(DedupeText(TextConfig()), tmp_path / target, runner)

    for number in range(3):
        add("grown", number, "append" if number else "refuse")
    add("whole", 3, "refuse")
    columns = ["alt_text", "text_cluster_size", "dedupe_text_status"]
    grown, whole = (Dataset.open(tmp_path / name).take(range(6), columns) for name in ("grown", "whole"))
    assert grown == whole
    assert [row["text_cluster_size"] for row in whole] == [2, 3, 3, 2, 1, 3]
