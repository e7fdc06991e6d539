"""Further columns keep the type that the source gives them, one type for the whole source."""

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.importers.extra import ExtraColumns, TypedColumn, converters, fields, join, type_of
from pipelines.importers.url_list import UrlList, UrlListConfig


def read(columns, rows):
    """The column `a` of rows as an import keeps it: type, values."""
    extra = ExtraColumns(columns)
    for row in rows:
        extra.see(row)
    types = extra.types()
    convert = converters(types)
    values = [{name: convert[name](row.get(extra.columns[name])) for name in types} for row in rows]
    table = pa.Table.from_pylist(values, pa.schema(fields(types)))
    return str(table.schema.field("a").type), table.column("a").to_pylist(), extra.notes()


@pytest.mark.parametrize(
    ("values", "kind", "kept"),
    [
        ([1, None, 2], "int64", [1, None, 2]),
        ([1, 0.5], "double", [1.0, 0.5]),
        ([True, None, False], "bool", [True, None, False]),
        (["x", ""], "string", ["x", None]),
        ([0.5, ""], "double", [0.5, None]),
        ([None, None], "string", [None, None]),
        ([[1, 2], []], "list<item: int64>", [[1, 2], []]),
        ([[0.5], [1], None], "list<item: double>", [[0.5], [1.0], None]),
        ([[[0.1, 0.2]], [], None], "list<item: list<item: double>>", [[[0.1, 0.2]], [], None]),
        ([["a ", ""], []], "list<item: string>", [["a ", ""], []]),
        ([["a", 1]], "list<item: string>", [["a", "1"]]),
        ([[], []], "list<item: string>", [[], []]),
        ([{"b": [1, "é"]}], "string", ['{"b": [1, "é"]}']),
        ([2**63 - 1, -(2**63)], "int64", [2**63 - 1, -(2**63)]),
        ([2**63], "string", [str(2**63)]),
    ],
)
def test_types_of_json(values, kind, kept):
    assert read({"a": "b"}, [{"b": value} for value in values]) == (kind, kept, [])


@pytest.mark.parametrize(
    ("values", "kept", "what"),
    [
        ([1, "x", 2.5], ["1", "x", "2.5"], "int64 and string"),
        ([True, 1], ["true", "1"], "bool and int64"),
        (["x", [1]], ["x", "[1]"], "string and list<item: int64>"),
        ([1, 2**63], ["1", str(2**63)], "int64 and string"),
    ],
)
def test_values_without_a_type_in_common_are_text_and_said_once(values, kept, what):
    notes = [f"extra column 'a' holds {what}, and is kept as text."]
    assert read({"a": "a"}, [{"a": value} for value in values]) == ("string", kept, notes)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(JSON, max_size=6))
def test_every_value_fits_the_common_type_in_any_order(values):
    rows = [{"a": value} for value in values if "\ud800" not in str(value)]
    kind, kept, _ = read({"a": "a"}, rows)
    assert len(kept) == len(rows)
    assert read({"a": "a"}, rows[::-1])[0] == kind


@given(JSON, JSON)
def test_joining_is_the_same_from_both_sides(one, other):
    assert join(type_of(one), type_of(other)) == join(type_of(other), type_of(one))


@pytest.mark.parametrize(
    ("kind", "value", "read_as"),
    [
        ("float", "0.31", 0.31),
        ("float", " 1e-3 ", 0.001),
        ("float", "", None),
        ("float", 3, 3.0),
        ("int", "9007199254740993", 9007199254740993),
        ("int", "3.0", 3),
        ("int", 3.0, 3),
        ("bool", "True", True),
        ("bool", "0", False),
        ("bool", 1, True),
        ("text", 5, "5"),
        ("text", [1], "[1]"),
    ],
)
def test_types_that_are_asked_for(kind, value, read_as):
    (reader,) = converters(ExtraColumns({"a": TypedColumn(column="b", type=kind)}).types()).values()
    assert reader(value) == read_as and type(reader(value)) is type(read_as)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("float", "x", "'x' is not a number"),
        ("float", "1_000", "not a number"),
        ("float", [1], "not a number"),
        ("float", True, "not a number"),
        ("float", 10**400, "not a number"),
        ("int", "0.5", "not a whole number"),
        ("int", "inf", "not a whole number"),
        ("int", "nan", "not a whole number"),
        ("int", 2**63, "does not fit into 64 bits"),
        ("bool", "yes", "not true or false"),
        ("text", b"\xff", "the column is binary; text is expected"),
    ],
)
def test_cells_that_are_something_else(kind, value, said):
    (reader,) = converters(ExtraColumns({"a": TypedColumn(column="b", type=kind)}).types()).values()
    with pytest.raises(ValueError, match=said):
        reader(value)


def importer(path, **config):
    return UrlList(UrlListConfig(path=str(path), **config))


def table_of(made):
    return pa.concat_tables([made.rows(part) for part in made.slices()])


def test_columns_of_parquet_keep_their_types(tmp_path):
    table = pa.table(
        {
            "URL": ["http://a/1", "http://a/2"],
            "similarity": pa.array([0.25, None], pa.float32()),
            "face_bboxes": pa.array([[[0.5, 0.25]], None], pa.list_(pa.list_(pa.float64()))),
            "NSFW": pa.array(["UNLIKELY", "NSFW"]).dictionary_encode(),
            "day": [datetime.date(2026, 11, 28), None],
            "license_id": pa.array([b"cc", b"\xff"], pa.binary()),
        }
    )
    pq.write_table(table, tmp_path / "u.parquet")
    names = {"similarity": "similarity", "faces": "face_bboxes", "nsfw": "NSFW", "day": "day", "of": "license_id"}
    made = table_of(importer(tmp_path / "u.parquet", extra=names))
    assert {name: str(made.schema.field(name).type) for name in names} == {
        "similarity": "float",
        "faces": "list<item: list<item: double>>",
        "nsfw": "string",
        "day": "date32[day]",
        "of": "string",
    }
    assert made.select(list(names)).to_pylist() == [
        {
            "similarity": 0.25,
            "faces": [[0.5, 0.25]],
            "nsfw": "UNLIKELY",
            "day": datetime.date(2026, 11, 28),
            "of": "cc",
        },
        {"similarity": None, "faces": None, "nsfw": "NSFW", "day": None, "of": None},
    ]
    assert made.column("import_status").to_pylist() == ["ok", "bad_value"]
    assert made.column("import_detail")[1].as_py() == "license_id: the column is binary; text is expected"


def test_files_of_one_source_share_a_type(tmp_path):
    for name, kind in (("a", pa.int32()), ("b", pa.float64())):
        pq.write_table(pa.table({"url": ["http://a"], "score": pa.array([1], kind)}), tmp_path / f"{name}.parquet")
    (tmp_path / "c.jsonl").write_text('{"url": "http://c", "score": 0.5}\n')
    made = table_of(importer(tmp_path / "*", extra={"score": "score"}))
    assert str(made.schema.field("score").type) == "double"
    assert made.column("score").to_pylist() == [1.0, 1.0, 0.5]


def test_text_stored_as_bytes_is_text(tmp_path):
    urls = pa.array([b"http://a/1", b"\xff\xfe"], pa.binary())
    pq.write_table(pa.table({"url": urls, "caption": pa.array([b"caf\xc3\xa9", b"b"])}), tmp_path / "u.parquet")
    rows = table_of(importer(tmp_path / "u.parquet", columns={"captions": "caption"})).to_pylist()
    assert (rows[0]["url"], rows[0]["captions"], rows[0]["import_status"]) == ("http://a/1", ["café"], "ok")
    assert (rows[1]["import_status"], rows[1]["import_detail"]) == (
        "no_url",
        "url: the column is binary; text is expected",
    )


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_types_are_part_of_the_rows_digest_and_text_is_as_before(tmp_path):
    def digests(score, **config):
        path = lines(tmp_path / "u.jsonl", [{"url": "http://a", "score": "x"}, {"url": "http://b", "score": score}])
        return [part.digest for part in importer(path, rows_per_slice=1, **config).slices()]

    plain = digests("y")
    assert digests("y", extra={"score": "score"}) == plain
    numbers = [digests(score, extra={"score": {"column": "score", "type": "float"}})[0] for score in (1, 2)]
    assert numbers[0] == numbers[1] != plain[0]


def test_a_type_is_found_in_the_whole_source(tmp_path):
    path = lines(tmp_path / "u.jsonl", [{"url": "http://a", "score": one} for one in (1, 2, 0.5)])
    made = importer(path, extra={"score": "score"}, rows_per_slice=1)
    assert [str(made.rows(part).schema.field("score").type) for part in made.slices()] == ["double"] * 3


def test_delimited_text_is_text_unless_a_type_is_asked_for(tmp_path):
    (tmp_path / "u.csv").write_text("url,SIM,n\nhttp://a,0.31,7\nhttp://b,much,\n")
    extra = {"similarity": {"column": "SIM", "type": "float"}, "n": "n"}
    rows = table_of(importer(tmp_path / "u.csv", extra=extra)).to_pylist()
    assert [(row["similarity"], row["n"], row["import_status"]) for row in rows] == [
        (0.31, "7", "ok"),
        (None, None, "bad_value"),
    ]
    assert rows[1]["import_detail"] == "SIM: 'much' is not a number"


def test_a_url_beyond_all_limits_is_a_cell_that_swallowed_others(tmp_path):
    urls = ["http://a/" + "x" * 16_375, "http://a/" + "x" * 16_376, "data:image/png;base64," + "A" * 10_000_000]
    rows = table_of(importer(lines(tmp_path / "u.jsonl", [{"url": url} for url in urls]))).to_pylist()
    assert [row["import_status"] for row in rows] == ["ok", "no_url", "no_url"]
    assert rows[1]["import_detail"] == "url: a URL of 16385 characters; at most 16384 are taken"
    assert rows[2]["url"] is None
