"""Splitting text files into records with byte ranges."""

import gzip
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.importers import records
from pipelines.importers.records import TextSource, span_of
from schemas.errors import InputError


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def values(path, format):
    source = TextSource(path, format)
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


def test_gzip_is_read_as_is(tmp_path):
    path = write(tmp_path, "urls.jsonl.gz", gzip.compress(b'{"url": "http://a/1"}\n{"url": "http://a/2"}\n'))
    assert values(path, "jsonl") == [{"url": "http://a/1"}, {"url": "http://a/2"}]


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
        TextSource(write(tmp_path, "urls.csv", ""), "csv")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        TextSource(str(tmp_path / "nothing.txt"), "txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"url": 1}', "expected a JSON list"),
        ("", "expected a JSON list, found 'an empty file'"),
        ('[{"url": "a"},\n{"url": }]', "list.json:2: this is not JSON"),
        ('[{"url": "a"},\n', "list.json:2: the list has no closing bracket"),
        ('["a"]', "list.json:1: expected a JSON object, found str"),
    ],
)
def test_broken_json_lists(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        values(write(tmp_path, "list.json", content), "json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=3), max_size=6), st.sampled_from([None, 1]))
def test_json_list_is_split_where_json_loads_would(rows, indent):
    data = json.dumps(rows, ensure_ascii=False, indent=indent).encode("utf-8", "surrogatepass")
    found = list(records._split_array(io.BytesIO(data), 0, 1, "list.json", opened=False))
    assert [json.loads(raw.data) for raw in found] == rows
    assert all(data[raw.offset : raw.end] == raw.data for raw in found)
    assert [raw.line for raw in found] == [data[: raw.offset].count(b"\n") + 1 for raw in found]


def test_values_longer_than_the_window(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_CHUNK", 4)
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
    source = TextSource(write(tmp_path, f"urls.{format}", text), format)
    every = list(source.records())
    for first, last in [(0, 10), (3, 7), (9, 10)]:
        part = list(source.records_in(span_of(every[first:last])))
        assert part == every[first:last]


@pytest.mark.parametrize("name", ["deep.jsonl", "deep.json"])
@pytest.mark.parametrize("value", ["[" * 100_000 + "]" * 100_000, "9" * 5000], ids=["nested", "digits"])
def test_json_beyond_what_can_be_read_is_named(tmp_path, name, value):
    record = f'{{"url": "http://a/1", "captions": {value}}}'
    path = write(tmp_path, name, f"[{record}]" if name.endswith(".json") else record)
    with pytest.raises(InputError, match=rf"{name}:1: JSON that cannot be read"):
        values(path, name.rsplit(".", 1)[-1])
