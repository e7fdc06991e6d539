"""Plain rows of LLaVA's JSON by columns: the same rows as one by one, whatever else stands among them."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.importers.llava_json import LlavaJson, LlavaJsonConfig
from pipelines.importers.plain_rows import read_lines, read_list
from pipelines.importers.plain_scan import PlainScan

PIECES = ["<image>", "\n", "<", "red", "é", '"', "\\", "<img>", "<video>", " ", "]},{", "{", "\0", "\t", "null", "😀"]
TEXTS = st.one_of(
    st.sampled_from(["<image>\nWhat?", "What?\n<image>", "<image>", "<image>What?", "Yes.", 'is "it"?', ""]),
    st.lists(st.sampled_from(PIECES), max_size=4).map("".join),
)
SPEAKERS = st.sampled_from(["human", "gpt"] * 9 + ["system", "user", "dog"])
TURNS = st.fixed_dictionaries({"from": SPEAKERS, "value": TEXTS})
NAMES = st.sampled_from(["coco/1.jpg", "a.jpg", "./a.jpg", "coco\\1.jpg", "é/1.jpg", "", "data:xx", "../a.jpg", None])
ROWS = st.fixed_dictionaries(
    {"conversations": st.lists(TURNS, max_size=4)},
    optional={"id": st.sampled_from(["1", "", "é"]), "image": NAMES},
)
ODD = st.one_of(
    ROWS.map(lambda row: {**row, "model": ""}),
    ROWS.map(lambda row: {**row, "id": None}),
    ROWS.map(lambda row: {**row, "id": 7}),
    ROWS.map(lambda row: {**row, "conversations": [*row["conversations"], {"from": "gpt", "value": None}]}),
    ROWS.map(lambda row: {**row, "conversations": [*row["conversations"], {"from": "gpt", "value": "\ud800"}]}),
)
FORMS = {
    "list": json.dumps,
    "indented": lambda rows: json.dumps(rows, indent=1, ensure_ascii=True),
    "lines": lambda rows: "".join(json.dumps(row) + "\r\n" for row in rows),
}


class OneByOne(LlavaJson):
    by_columns = False


@pytest.mark.parametrize("form", FORMS)
@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(ROWS, ROWS, ROWS, ODD), min_size=1, max_size=8), st.sampled_from([None, "mine"]))
def test_rows_are_those_of_the_row_by_row_way(form, rows, source):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("rows.jsonl" if form == "lines" else "rows.json")
        path.write_bytes(FORMS[form](rows).encode())
        config = LlavaJsonConfig(path=str(path), source=source, rows_per_slice=3)
        importer, other = LlavaJson(config), OneByOne(config)
        for part in importer.slices():
            made, expected = importer.rows(part), other.rows(part)
            made.validate(full=True)
            assert (made.schema, made.to_pylist()) == (expected.schema, expected.to_pylist())


@settings(deadline=None)
@given(st.one_of(ROWS, ODD), st.booleans(), st.sampled_from([None, 1]), st.data())
def test_a_row_that_is_scanned_is_what_json_reads(row, ascii, indent, data):
    text = "[" + json.dumps(row, ensure_ascii=ascii or "\\ud800" in json.dumps(row), indent=indent) + " , 1]"
    at = data.draw(st.integers(0, len(text)))
    text = data.draw(st.sampled_from([text, text[:at] + text[at + 1 :], text[:at] + '"' + text[at:]]))
    found = PlainScan().row(text, 1)
    if found is not None:
        value, end = json.JSONDecoder().raw_decode(text, 1)
        assert (found.end, found.data) == (end, text[1:end].encode())
        assert found.values == {"image": value.get("image")}


PLAIN = '{"id": "1", "image": "a.jpg", "conversations": [{"from": "human", "value": "x"}]}'


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace('"x"', '"\\x"'),
        PLAIN.replace('"x"', '"\t"'),
        PLAIN.replace('"x"', '"\\ud8"'),
        PLAIN.replace('"x"', "NaN"),
        PLAIN.replace("}]}", "},]}"),
        PLAIN.replace("}]}", "}],}"),
        PLAIN.replace('"1"', "01"),
        PLAIN.replace('"1"', "1" * 5000),
        PLAIN[:-1],
    ],
)
def test_what_is_not_json_is_no_plain_row(text):
    assert PlainScan().row(text, 0) is None
    assert read_list(text.encode(), 1) is None
    assert read_lines([text.encode()]) is None


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace('"id"', '"id": "2", "id"'),
        PLAIN.replace('"x"', '"\\ud800"'),
        PLAIN.replace('"1"', "null"),
        "null",
        PLAIN + ']} {"rows":[' + PLAIN,
    ],
)
def test_what_columns_cannot_hold_is_left_to_the_json_module(text):
    assert read_list(text.encode(), 1) is None
    assert read_list(b"\xff".join([PLAIN.encode(), b""]), 1) is None


def test_plain_rows_are_columns():
    rows = read_list(f"{PLAIN},\n{PLAIN}".encode(), 2)
    assert rows is not None
    assert (rows.row(1), len(rows)) == (json.loads(PLAIN), 2)
    assert read_list(f"{PLAIN}, {PLAIN}".encode(), 3) is None


def test_lines_are_rows_one_by_one():
    assert len(read_lines([f"{PLAIN}\r\n".encode(), f" {PLAIN}".encode()]) or ()) == 2
    half = PLAIN[: PLAIN.index("]")]
    # Joined they are as many rows as lines; on their lines they are not.
    assert read_lines([f"{half},".encode(), b'{"from": "gpt", "value": "y"}]}' + PLAIN.encode()]) is None
    assert read_lines([(PLAIN + PLAIN).encode()]) is None


def test_a_text_of_other_rows_is_given_up_and_looked_at_again():
    scan, other = PlainScan(), '{"question": "x", "answer": "y"}'
    found = [scan.row(text, 0) is not None for text in [PLAIN, *[other] * 100, *[PLAIN] * 200]]
    assert found[0] and not any(found[1:101]) and found[-1]
