"""Splitting text files into records with byte ranges."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.importers import delimited, json_lists
from pipelines.importers.records import Layout, Span, TextSource
from schemas.errors import InputError


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def values(path, format):
    source = TextSource(path, Layout(format))
    return [source.parse(raw) for raw in source.records()]


def test_txt_skips_blank_lines_and_windows_line_ends(tmp_path):
    path = write(tmp_path, "urls.txt", b"http://a/1\r\n\r\nhttp://a/2\nhttp://a/3")
    assert values(path, "txt") == [{"url": "http://a/1"}, {"url": "http://a/2"}, {"url": "http://a/3"}]


def test_csv_keeps_quoted_line_breaks_and_drops_the_byte_order_mark(tmp_path):
    path = write(tmp_path, "urls.csv", b'\xef\xbb\xbfurl,alt\nhttp://a/1,"two\nlines, ""quoted"""\nhttp://a/2,\n')
    assert values(path, "csv") == [
        {"url": "http://a/1", "alt": 'two\nlines, "quoted"'},
        {"url": "http://a/2", "alt": ""},
    ]


def test_tsv_takes_quotes_as_text(tmp_path):
    path = write(tmp_path, "urls.tsv", 'caption\turl\na 5" disk\thttp://a/1\n')
    assert values(path, "tsv") == [{"caption": 'a 5" disk', "url": "http://a/1"}]


def test_broken_json_line_is_named(tmp_path):
    path = write(tmp_path, "urls.jsonl", '{"url": "http://a/1"}\n\n{"url": \n')
    with pytest.raises(InputError, match=r"urls\.jsonl:3: this is not JSON"):
        values(path, "jsonl")


def test_wrong_number_of_cells_is_named(tmp_path):
    path = write(tmp_path, "urls.csv", "url,alt\nhttp://a/1,x\nhttp://a/2,x,y\n")
    with pytest.raises(InputError, match=r"urls\.csv:3: 3 cells, but the header names 2 columns \(url, alt\)"):
        values(path, "csv")


def test_not_utf8_is_named(tmp_path):
    path = write(tmp_path, "urls.txt", b"http://a/1\nhttp://a/\xff\n")
    with pytest.raises(InputError, match=r"urls\.txt:2: not UTF-8"):
        values(path, "txt")


def test_empty_csv_asks_for_a_header(tmp_path):
    with pytest.raises(InputError, match="the file is empty; its first line must name the columns"):
        TextSource(write(tmp_path, "urls.csv", ""), Layout("csv"))


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        TextSource(str(tmp_path / "nothing.json"), Layout("json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"url": 1}', "expected a JSON list"),
        ("", "expected a JSON list, found an empty file"),
        ('[{"url": "a"},\n{"url": }]', "list.json:2: this is not JSON"),
        ('[{"url": "a"},\n', "list.json:2: a value is expected here, found the end of the file"),
        (
            '[{"url": "a"}\n',
            "list.json:2: ',' or ']' is expected after a value, found the end of the file: it is truncated",
        ),
        ('[{"url": "a"} {"url": "b"}]', "list.json:1: ',' or ']' is expected after a value"),
        ('[{"url": "a"}, ]', "list.json:1: this is not JSON"),
        ('[{"url": "a"}]\n[{"url": "b"}]', "list.json:2: there is data after the list"),
        ('[{"url": "a"}]}', "list.json:1: there is data after the list"),
        ('["a"]', "list.json:1: expected a JSON object, found str"),
        ("[null]", "list.json:1: expected a JSON object, found null"),
    ],
)
def test_broken_json_lists(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        values(write(tmp_path, "list.json", content), "json")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(TEXT, JSON, max_size=3), max_size=6), st.sampled_from([None, 1]))
def test_json_list_is_split_where_json_loads_would(rows, indent):
    data = json.dumps(rows, ensure_ascii=False, indent=indent).encode()
    found = list(json_lists.list_values(io.BytesIO(data), "list.json"))
    assert [json.loads(raw.data) for raw in found] == rows == [raw.value for raw in found]
    assert all(data[raw.offset : raw.end] == raw.data for raw in found)
    assert [raw.line for raw in found] == [data[: raw.offset].count(b"\n") + 1 for raw in found]


def test_values_longer_than_the_window(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lists, "_CHUNK", 4)
    rows = [{"url": "é" * 50}, {"url": "b"}, {"url": "c" * 9}]
    path = write(tmp_path, "list.json", json.dumps(rows, ensure_ascii=False))
    assert values(path, "json") == rows


@pytest.mark.parametrize("format", ["txt", "csv", "tsv", "jsonl", "json"])
def test_a_slice_reads_what_the_whole_file_holds(tmp_path, format):
    rows = [{"url": f"http://a/{number}", "alt": f"é {number}"} for number in range(10)]
    text = {
        "txt": "\n\n".join(row["url"] for row in rows),
        "csv": "url,alt\n" + "".join(f'{row["url"]},"{row["alt"]}"\n' for row in rows),
        "tsv": "url\talt\n" + "".join(f"{row['url']}\t{row['alt']}\n" for row in rows),
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "json": json.dumps(rows, indent=2, ensure_ascii=False),
    }[format]
    source = TextSource(write(tmp_path, f"urls.{format}", text), Layout(format))
    every = list(source.records())
    for first, last in [(0, 10), (3, 7), (9, 10)]:
        part = list(source.records_in(Span(**source.location(every[first:last])["span"])))
        assert part == every[first:last]


@pytest.mark.parametrize("name", ["deep.jsonl", "deep.json"])
@pytest.mark.parametrize("value", ["[" * 100_000 + "]" * 100_000, "9" * 5000], ids=["nested", "digits"])
def test_json_beyond_what_can_be_read_is_named(tmp_path, name, value):
    record = f'{{"url": "http://a/1", "captions": {value}}}'
    path = write(tmp_path, name, f"[{record}]" if name.endswith(".json") else record)
    with pytest.raises(InputError, match=rf"{name}:1: JSON that cannot be read"):
        values(path, name.rsplit(".", 1)[-1])


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), max_size=6)
AWKWARD = st.text('",\t;\r\n\0 aé', max_size=30)


@given(AWKWARD, st.sampled_from([",", "\t"]), st.booleans())
def test_delimited_text_is_what_the_csv_module_reads(text, separator, quotes):
    layout = {"delimiter": separator, "quoting": csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE, "strict": True}
    try:
        expected = [row for row in csv.reader(io.StringIO(text, newline=""), **layout) if row]
    except csv.Error:
        expected = None
    data = text.encode()
    try:
        found = list(delimited.rows(io.BytesIO(data), "list", separator, quotes))
    except InputError as error:
        assert expected is None and "list:" in str(error)
        return
    assert [raw.value for raw in found] == expected
    assert all(data[raw.offset : raw.end] == raw.data for raw in found)
    for raw in found:  # the bytes of a record are that record, wherever it stands
        (alone,) = delimited.rows(io.BytesIO(raw.data), "list", separator, quotes, raw.offset, raw.line)
        assert alone == raw


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=5), st.sampled_from(["\r\n", "\n", "\r"]))
def test_what_the_csv_module_writes_comes_back(rows, end):
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=end).writerows(rows)
    assert [raw.value for raw in delimited.rows(io.BytesIO(file.getvalue().encode()), "list", ",", True)] == rows


def test_an_inch_mark_is_text(tmp_path):
    """One such caption turned a thousand rows into three."""
    captions = [f"photo {number}" for number in range(1000)]
    captions[2] = 'the 5" plate'
    path = write(tmp_path, "urls.csv", "url,alt\n" + "".join(f"http://a/{n},{c}\n" for n, c in enumerate(captions)))
    assert [row["alt"] for row in values(path, "csv")] == captions


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('url,alt\nhttp://a/1,"never closed\nhttp://a/2,b\n', r"urls\.csv:2: a quote that opens here is never closed"),
        ('url,alt\nhttp://a/1,"a" b\n', r"urls\.csv:2: text follows the closing quote of a cell"),
        ("http://a/1,a cat\nhttp://a/2,a dog\n", r"holds a row .*Set `header: false`.*columns: {url: 0}"),
        ("a cat,http://a/1\n", r"columns: {url: 1}"),
        ("url;alt\nhttp://a/1;b\n", r'the header is one column.*separator: ";"'),
    ],
)
def test_delimited_text_that_would_be_misread_stops(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        values(write(tmp_path, "urls.csv", content), "csv")


def test_lists_without_a_header_name_columns_by_position(tmp_path):
    path = write(tmp_path, "cc3m.tsv", 'a "top and skirt\thttp://a/1\nb\thttp://a/2\n')
    source = TextSource(path, Layout("tsv", header=False))
    assert [source.parse(raw) for raw in source.records()] == [
        {"0": 'a "top and skirt', "1": "http://a/1"},
        {"0": "b", "1": "http://a/2"},
    ]


def test_a_column_name_that_repeats_gets_a_number(tmp_path):
    path = write(tmp_path, "urls.csv", "url,alt,alt\nhttp://a/1,b,c\n")
    assert values(path, "csv") == [{"url": "http://a/1", "alt": "b", "alt_2": "c"}]


def test_tab_separated_cells_may_be_quoted(tmp_path):
    path = write(tmp_path, "urls.tsv", 'url\talt\n"http://a/1"\t"a ""big""\ncat"\n')
    assert values(path, "tsv") == [{"url": "http://a/1", "alt": 'a "big"\ncat'}]
    plain = TextSource(write(tmp_path, "plain.tsv", 'url\talt\nhttp://a/1\t"big" cat\n'), Layout("tsv", quotes=False))
    assert [plain.parse(raw) for raw in plain.records()] == [{"url": "http://a/1", "alt": '"big" cat'}]


ROWS = [{"url": "http://a/1", "alt": "é"}, {"url": "http://a/2", "alt": "b"}]


@pytest.mark.parametrize(
    ("name", "content", "records"),
    [
        ("list.json", json.dumps(ROWS), None),
        ("list.jsonl", json.dumps(ROWS, indent=1), None),
        ("lines.json", "\n".join(map(json.dumps, ROWS)), None),
        ("lines.jsonl", "\r".join(map(json.dumps, ROWS)) + "\r", None),
        ("wrapped.json", json.dumps({"info": {"a": [1, {}]}, "empty": {}, "rows": ROWS, "last": 1}, indent=1), "rows"),
        ("columns.json", json.dumps({"url": ["http://a/1", "http://a/2"], "alt": ["é", "b"]}), None),
    ],
)
def test_json_shapes_that_people_publish(tmp_path, name, content, records):
    source = TextSource(write(tmp_path, name, content), Layout(name.rsplit(".", 1)[1], records=records))
    every = list(source.records())
    assert [source.parse(raw) for raw in every] == ROWS
    for part in (every, every[:1], every[1:]):
        location = json.loads(json.dumps(source.location(part)))
        assert list(TextSource.at(location, Layout("json", records=records))) == [source.parse(raw) for raw in part]


@pytest.mark.parametrize(
    ("content", "records", "message"),
    [
        (
            {"info": {}, "images": [{}], "annotations": [{}, {}]},
            None,
            r"`records: NAME`: images \(1\), annotations \(2\)",
        ),
        ({"id": 1, "image": "a"}, None, r"an object with id, image\. Put a single row into \[ \]"),
        ({"rows": ROWS}, "row", "there is no member 'row'. Members found: rows"),
        ({"rows": {}}, "rows", "'rows' is to be a list of rows"),
    ],
)
def test_json_objects_say_which_list_holds_the_rows(tmp_path, content, records, message):
    with pytest.raises(InputError, match=message):
        list(TextSource(write(tmp_path, "a.json", json.dumps(content)), Layout("json", records=records)).records())


def test_lists_as_rows_have_positions_as_names(tmp_path):
    assert values(write(tmp_path, "pairs.json", '[["http://a/1", "a cat"]]'), "json") == [
        {"0": "http://a/1", "1": "a cat"}
    ]


def test_an_error_in_a_large_file_is_found_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lists, "_CHUNK", 64)
    content = "[" + ",\n".join(['{"url": "a"}'] * 5 + ['{"url" "b"}'] + ['{"url": "c"}'] * 1000) + "]"
    with open(write(tmp_path, "list.json", content), "rb") as file:
        with pytest.raises(InputError, match=r"list\.json:6: this is not JSON"):
            list(json_lists.list_values(file, "list.json"))
        assert file.tell() < 1000, "the rest of the file was read to report an error in line 6"
