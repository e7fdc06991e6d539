"""Rows of Parquet files by number, whatever was read before."""

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.importers.parquet import ParquetSource

ROWS = 300


@settings(max_examples=25, deadline=None)
@given(
    group=st.integers(1, ROWS),
    reads=st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(1, 90), st.booleans()), min_size=1, max_size=8),
)
def test_rows_are_the_same_in_any_order_of_reads(tmp_path_factory, group, reads):
    path = str(tmp_path_factory.mktemp("parquet") / "a.parquet")
    cells = [{"bytes": b"x" * (number % 5), "path": str(number)} for number in range(ROWS)]
    pq.write_table(pa.table({"number": range(ROWS), "image": cells}), path, row_group_size=group)
    source = ParquetSource(path)
    for row, rows, light in reads:
        found = source.table(row, rows, ["number", "image"], ["image"] if light else [])
        expected = list(range(row, min(row + rows, ROWS)))
        assert found.column("number").to_pylist() == expected
        assert [cell["path"] for cell in found.column("image").to_pylist()] == [str(number) for number in expected]
        assert all("bytes" not in cell for cell in found.column("image").to_pylist()) == light


def test_a_file_that_was_written_again_is_read_again(tmp_path):
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"number": [1, 2, 3]}), path)
    assert ParquetSource(path).read(0, 1) == [{"number": 1}]
    pq.write_table(pa.table({"number": [10, 20, 30, 40]}), path)
    assert ParquetSource(path).read(1, 9) == [{"number": 20}, {"number": 30}, {"number": 40}]
