from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import Dataset
from schemas.errors import CorruptError, InputError, SchemaError
from schemas.records import BASE
from schemas.writing import write_dataset


def sample(number: int) -> dict:
    return {"key": f"k{number}", "image_count": 0, "image_tokens": 0, "tokens": number, "supervised_tokens": 1}


def samples(start: int, rows: int) -> pa.Table:
    return pa.Table.from_pylist([sample(number) for number in range(start, start + rows)], BASE["samples"])


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "d", "samples", [samples(0, 150), samples(150, 3), samples(153, 70)])


def test_rows_by_number_across_fragments(dataset):
    assert [row["key"] for row in dataset.take([222, 0, 149, 150, 152, 153], ["key"])] == [
        "k222",
        "k0",
        "k149",
        "k150",
        "k152",
        "k153",
    ]
    with pytest.raises(IndexError):
        dataset.take([223])


def test_numeric_columns_as_numpy(dataset):
    assert np.array_equal(dataset.numpy("tokens"), np.arange(223))


def test_batches_have_the_asked_size_whatever_the_file_has(dataset):
    sizes = [batch.num_rows for batch in dataset.fragments[0].batches(["key"], 100)]
    assert sizes == [100, 50]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(min_value=1, max_value=200), min_size=1, max_size=5))
def test_rows_in_are_rows_out_for_any_fragments(sizes):
    starts = np.cumsum([0, *sizes])
    tables = [samples(int(start), size) for start, size in zip(starts, sizes, strict=False)]
    opened = write_dataset(f"memory://any/{'-'.join(map(str, sizes))}-{np.random.randint(1 << 40)}", "samples", tables)
    assert opened.rows == sum(sizes)
    assert opened[int(starts[-1]) - 1]["tokens"] == starts[-1] - 1


def test_a_missing_column_is_named_with_the_nearest_one(dataset):
    with pytest.raises(SchemaError, match=r"'tokns'.*'tokens'"):
        dataset.fragments[0].read(["tokns"])


def test_a_folder_without_a_manifest_is_no_dataset(tmp_path):
    with pytest.raises(InputError, match="no dataset here"):
        Dataset.open(tmp_path)


def column_file(dataset: Dataset) -> Path:
    return Path(dataset.store.path(dataset.fragments[1].entry.files["base"].path))


def test_a_cut_file_is_refused_though_arrow_would_read_it(dataset):
    file = column_file(dataset)
    content = file.read_bytes()
    # Arrow itself reads a stream without its end mark, and without its last batches, as if nothing was missing.
    file.write_bytes(content[:-8])
    with pytest.raises(CorruptError, match="bytes"):
        Dataset.open(dataset.path).numpy("tokens")
    assert len(Dataset.open(dataset.path).verify()) == 1


def test_a_flipped_bit_is_found_by_verify(dataset):
    file = column_file(dataset)
    content = bytearray(file.read_bytes())
    place = content.rindex(b"k152")
    content[place] ^= 1
    file.write_bytes(bytes(content))
    (problem,) = Dataset.open(dataset.path).verify()
    assert str(file) in problem and "sha256" in problem


def test_a_deleted_file_is_told_with_its_remedy(dataset):
    column_file(dataset).unlink()
    (problem,) = Dataset.open(dataset.path).verify()
    assert "missing" in problem and "Run the step" in problem


def test_a_value_of_the_wrong_type_never_reaches_the_disk(tmp_path):
    table = pa.table({**samples(0, 2).to_pydict(), "key": ["a", None]}, schema=pa.schema(list(BASE["samples"])))
    with pytest.raises(SchemaError, match="'key' must not be empty"):
        write_dataset(tmp_path / "d", "samples", [table])
    assert not Dataset.exists(tmp_path / "d")
    assert [path.name for path in (tmp_path / "d").rglob("*") if path.is_file()] == []


def test_a_dataset_in_memory_reads_as_one_on_disk(dataset):
    far = write_dataset("memory://far/away", "samples", [samples(0, 150), samples(150, 3), samples(153, 70)])
    assert np.array_equal(far.numpy("tokens"), dataset.numpy("tokens"))
    assert [part.entry.files["base"].sha256 for part in far.fragments] == [
        part.entry.files["base"].sha256 for part in dataset.fragments
    ]
