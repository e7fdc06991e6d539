import time

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from schemas import lookup
from schemas.lookup import RowsByKey, hashes
from schemas.records import BASE
from schemas.writing import write_dataset


def dataset(folder, *parts):
    tables = [pa.Table.from_pylist([{"key": key} for key in keys], BASE["images"]) for keys in parts]
    return write_dataset(folder, "images", tables)


def test_rows_are_found_across_fragments_and_the_first_of_equal_keys_counts(tmp_path):
    found = RowsByKey(dataset(tmp_path / "a", ["p0", "", "p1"], ["p1", "schön/ü.jpg", "p0"]))
    assert len(found) == 6
    assert [found.find(key) for key in ("p0", "", "p1", "schön/ü.jpg", "p", "p9")] == [0, 1, 2, 4, None, None]
    assert found.find_all(["p1", "nowhere", "p0"]).tolist() == [2, -1, 0]
    assert found.find_all([]).tolist() == []


def test_equal_hashes_are_told_apart_by_their_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(lookup, "hashes", lambda keys: np.zeros(len(keys), np.uint64))
    found = RowsByKey(dataset(tmp_path / "a", ["a", "b"], ["c", "b"]))
    assert found.find_all(["c", "b", "a", "d"]).tolist() == [2, 1, 0, -1]


def test_an_empty_dataset_has_no_row(tmp_path):
    assert RowsByKey(dataset(tmp_path / "a", [])).find("a") is None


@given(st.lists(st.text(max_size=12), max_size=30), st.integers(0, 5))
def test_a_hash_depends_on_the_string_alone(words, skipped):
    alone = [int(hashes(pa.array([word]))[0]) for word in words]
    assert hashes(pa.array(words, pa.string())).tolist() == alone
    assert hashes(pa.array(words, pa.string()).slice(skipped)).tolist() == alone[skipped:]


def test_blocks_do_not_change_hashes(monkeypatch):
    words = pa.array([f"{number:0{number % 9}d}" for number in range(500)] + ["", "x" * 400])
    whole = hashes(words)
    monkeypatch.setattr(lookup, "_BLOCK", 16)
    assert hashes(words).tolist() == whole.tolist()
    assert len(set(whole.tolist())) == len(set(words.to_pylist()))


def test_a_million_keys_are_hashed_in_seconds():
    keys = pa.array([f"photos/{number:09d}.jpg" for number in range(1_000_000)])
    started = time.process_time()
    made = hashes(keys)
    assert time.process_time() - started < 5
    assert len(np.unique(made)) == len(keys)
