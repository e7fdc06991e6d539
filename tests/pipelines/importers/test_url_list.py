"""Url lists of every format become the same rows; appended rows leave earlier slices alone."""

import json
import pickle
import zipfile
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.importers.base import cut
from pipelines.importers.files import expand
from pipelines.importers.url_list import UrlList, UrlListConfig
from schemas.errors import InputError

ROWS = [{"url": f"http://photos.test/{number}.jpg", "alt_text": f"picture {number}"} for number in range(7)]


def write(folder, name, rows):
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows))
    else:
        separator = "\t" if name.endswith(".tsv") else ","
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        path.write_text("".join(separator.join(line) + "\n" for line in lines))
    return str(path)


def importer(path, **config):
    return UrlList(UrlListConfig(path=path, **config))


def all_rows(made):
    return [row for slice in made.slices() for row in made.rows(slice).to_pylist()]


def test_a_tab_may_be_written_as_two_characters(tmp_path):
    path = tmp_path / "u.csv"
    path.write_text("url\tcaption\nhttp://photos.test/1.jpg\tx, y\n")
    assert [row["alt_text"] for row in all_rows(importer(str(path), separator=r"\t"))] == ["x, y"]


def test_a_file_is_read_whose_name_looks_like_a_pattern(tmp_path):
    path = write(tmp_path, "urls[1].csv", ROWS)
    assert len(all_rows(importer(path))) == len(ROWS)
    write(tmp_path, "urls1.csv", ROWS[:1])
    assert len(all_rows(importer(path))) == len(ROWS)


def test_a_folder_instead_of_its_files_is_one_error(tmp_path):
    write(tmp_path, "u.csv", ROWS)
    with pytest.raises(InputError, match=r"a folder, not a file. Name its files: '.*/\*'"):
        importer(str(tmp_path)).slices()


@pytest.mark.parametrize("name", ["u.csv", "u.tsv", "u.json", "u.jsonl", "u.parquet"])
def test_formats_give_the_same_rows(tmp_path, name):
    made = importer(write(tmp_path, name, ROWS), rows_per_slice=3, source="web", license="CC0")
    assert [slice.rows for slice in made.slices()] == [3, 3, 1]
    rows = all_rows(made)
    assert [row["url"] for row in rows] == [row["url"] for row in ROWS]
    assert rows[4] == {
        "key": "000000004",
        "url": "http://photos.test/4.jpg",
        "alt_text": "picture 4",
        "captions": None,
        "boxes": None,
        "facts": None,
        "source": "web",
        "license": "CC0",
        "import_status": "ok",
        "import_detail": None,
    }


def test_txt_has_one_url_a_line(tmp_path):
    path = tmp_path / "urls.txt"
    path.write_text("http://photos.test/a\nhttp://photos.test/b\n")
    assert [row["url"] for row in all_rows(importer(str(path)))] == ["http://photos.test/a", "http://photos.test/b"]


@pytest.mark.parametrize("name", ["u.csv", "u.json", "u.jsonl", "u.parquet"])
def test_appended_rows_leave_earlier_slices_unchanged(tmp_path, name):
    before = importer(write(tmp_path, name, ROWS[:5]), rows_per_slice=3)
    old = before.slices()
    after = importer(write(tmp_path, name, ROWS), rows_per_slice=3)
    new = after.slices([slice.rows for slice in old])
    assert [slice.rows for slice in new] == [3, 2, 2]
    if name == "u.parquet":  # its second row group was rewritten, so only the first slice is known to be the same
        assert new[0].digest == old[0].digest
    else:
        assert [slice.digest for slice in new[:2]] == [slice.digest for slice in old]


def test_a_moved_source_has_the_same_digests_and_a_changed_row_another(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    first = importer(write(tmp_path, "u.csv", ROWS), rows_per_slice=3).slices()
    moved = importer(write(tmp_path / "elsewhere", "u.csv", ROWS), rows_per_slice=3).slices()
    changed = importer(
        write(tmp_path, "u.csv", [*ROWS[:6], {"url": "http://b", "alt_text": "other"}]), rows_per_slice=3
    )
    assert [slice.digest for slice in moved] == [slice.digest for slice in first]
    assert [a.digest == b.digest for a, b in zip(changed.slices(), first, strict=True)] == [True, True, False]
    assert "path" not in UrlListConfig(path="a").identity()


def test_several_files_and_patterns_keep_one_numbering(tmp_path):
    write(tmp_path, "a.csv", ROWS[:4])
    write(tmp_path, "b.jsonl", ROWS[4:])
    made = importer(str(tmp_path / "*"), rows_per_slice=3)
    assert [(slice.start, slice.rows) for slice in made.slices()] == [(0, 3), (3, 1), (4, 3)]
    assert [row["key"] for row in all_rows(made)] == [f"{number:09d}" for number in range(7)]


def test_well_known_and_mapped_column_names(tmp_path):
    rows = [{"URL": "http://a", "TEXT": "seen", "id": "x1", "by": "me"}]
    made = importer(write(tmp_path, "u.parquet", rows), columns={"key": "id", "source": "by"})
    row = all_rows(made)[0]
    assert (row["key"], row["url"], row["alt_text"], row["source"]) == ("x1", "http://a", "seen", "me")


def test_json_rows_need_not_have_the_same_names(tmp_path):
    facts = {"color": "teal"}
    boxes = [{"label": "cat", "x0": 0, "y0": 0.5, "x1": 1, "y1": 1}]
    rows = [
        {"url": "http://a"},
        {"url": "http://b", "facts": facts, "captions": "one"},
        {"image_url": "http://c", "boxes": boxes},
    ]
    found = all_rows(importer(write(tmp_path, "u.jsonl", rows)))
    assert [row["url"] for row in found] == ["http://a", "http://b", "http://c"]
    assert (found[1]["facts"], found[1]["captions"]) == ([{"name": "color", "value": "teal"}], ["one"])
    assert found[2]["boxes"] == [{"label": "cat", "x0": 0.0, "y0": 0.5, "x1": 1.0, "y1": 1.0}]


def test_bad_rows_keep_their_place(tmp_path):
    rows = [
        {"url": "http://a", "captions": {"not": "a list"}},
        {"url": "", "captions": "no address"},
        {"url": "http://c", "boxes": [{"label": "cat", "x0": 3, "y0": 0, "x1": 40, "y1": 9}]},
        {"url": ["http://d"]},
    ]
    found = all_rows(importer(write(tmp_path, "u.jsonl", rows)))
    assert [row["import_status"] for row in found] == ["bad_value", "no_url", "bad_value", "no_url"]
    assert found[0]["import_detail"] == "captions: expected text or a list of texts"
    assert "fractions of width and height" in found[2]["import_detail"]


def test_errors_name_what_was_found(tmp_path):
    path = write(tmp_path, "u.csv", [{"name": "a", "size": "3"}])
    with pytest.raises(InputError, match=r"no column with the image URLs. Columns found: name, size. .*columns: \{url"):
        importer(path).slices()
    with pytest.raises(InputError, match=r"no column 'nam', which is to become 'url'. Columns found: name, size"):
        importer(path, columns={"url": "nam"}).slices()
    with pytest.raises(InputError, match="no such file"):
        importer(str(tmp_path / "missing.csv")).slices()
    with pytest.raises(InputError, match="this is a folder"):
        importer(str(tmp_path)).slices()
    with pytest.raises(InputError, match="no file matches"):
        importer(str(tmp_path / "*.tsv")).slices()
    (tmp_path / "u.csv2").write_text("url\n")
    with pytest.raises(InputError, match=r"the format 'csv2' is unknown. Did you mean 'csv'"):
        importer(str(tmp_path / "u.csv2")).slices()


def test_a_file_that_is_not_parquet(tmp_path):
    (tmp_path / "u.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(InputError, match="this is not a Parquet file"):
        importer(str(tmp_path / "u.parquet")).slices()


@pytest.mark.parametrize("name", ["u.csv", "u.parquet"])
def test_a_key_that_stands_twice_is_refused(tmp_path, name):
    rows = [{"key": "a", "url": "http://1"}, {"key": "b", "url": "http://2"}, {"key": "a", "url": "http://3"}]
    with pytest.raises(InputError, match="the key 'a' also appears in an earlier row"):
        importer(write(tmp_path, name, rows)).slices()


def test_an_importer_is_pickled_as_its_config(tmp_path):
    made = importer(write(tmp_path, "u.csv", ROWS))
    copy = pickle.loads(pickle.dumps(made))
    assert copy.config == made.config
    assert copy.rows(made.slices()[0]) == made.rows(made.slices()[0])


@given(st.integers(0, 40), st.lists(st.integers(0, 7), max_size=5), st.integers(1, 9))
def test_cutting_keeps_every_row_once_and_the_known_cuts(count, known, rows):
    groups = list(cut(range(count), known, rows))
    assert [item for group in groups for item in group] == list(range(count))
    sizes = [size for size in known if size]
    whole = [size for end, size in enumerate(sizes, 1) if sum(sizes[:end]) <= count]
    assert [len(group) for group in groups[: len(whole)]] == whole
    assert all(0 < len(group) <= rows for group in groups[len(sizes) :])


def test_further_columns_are_kept(tmp_path):
    path = write(tmp_path, "u.jsonl", [{"url": "http://a/1", "md5": "00ff", "score": 0.5}, {"url": "http://a/2"}])
    made = importer(path, extra={"md5_of_list": "md5", "score": "score"})
    assert [(row["md5_of_list"], row["score"]) for row in all_rows(made)] == [("00ff", 0.5), (None, None)]
    assert "extra" not in importer(path).config.identity()
    with pytest.raises(InputError, match=r"no column 'md', which is to become 'md5_of_list'. Columns found: url, md5"):
        importer(path, extra={"md5_of_list": "md"}).slices()
    with pytest.raises(ValueError, match="such as sha256_of_list"):
        importer(path, extra={"sha256": "sha256"})


@pytest.mark.parametrize("keys", [[], ["x", "y"]])
def test_prefixed_keys_do_not_depend_on_the_place_of_the_source(tmp_path, keys):
    rows = [{"key": key, "url": f"http://photos.test/{key}"} for key in keys] or ROWS[:2]
    made = importer(write(tmp_path, "u.csv", rows), key_prefix="2026-11-28/")
    first, third = (made.rows(replace(made.slices()[0], offset=offset)) for offset in (0, 2 * 10**9))
    assert first.column("key").to_pylist() == [f"2026-11-28/{key}" for key in keys or ("000000000", "000000001")]
    assert first.equals(third)
    assert "key_prefix" not in importer("u.csv").config.identity()


def test_half_a_surrogate_pair_is_spelled_out(tmp_path):
    path = tmp_path / "u.jsonl"
    path.write_text('{"url": "http://a/\\ud800.jpg", "captions": ["ok", "\\udfff"]}\n')
    (row,) = all_rows(importer(str(path)))
    assert (row["url"], row["captions"]) == ("http://a/\\ud800.jpg", ["ok", "\\udfff"])


def test_alt_texts_of_any_length(tmp_path):
    path = write(tmp_path, "u.csv", [{"url": "http://a/1", "caption": "long" * 50_000}])
    assert len(all_rows(importer(path))[0]["alt_text"]) == 200_000


def test_a_cell_that_is_nested_too_deeply_costs_one_cell(tmp_path):
    path = tmp_path / "u.tsv"
    path.write_text("url\tcaptions\nhttp://a/1\t" + "[" * 100_000 + "\nhttp://a/2\tfine\n")
    assert [row["import_status"] for row in all_rows(importer(str(path)))] == ["bad_value", "ok"]


@pytest.mark.parametrize("first", ["sep=;\r\n", "sep=;\n", '"sep=;"\n', "SEP=;\n"])
@pytest.mark.parametrize("config", [{}, {"separator": ";"}, {"rows_per_slice": 1}])
def test_the_line_that_tells_excel_the_separator_is_no_header(tmp_path, first, config):
    path = tmp_path / "a.csv"
    path.write_text(f"{first}url;caption\nhttp://a.test/1.jpg;one, two\nhttp://a.test/2.jpg;\n", newline="")
    made = [(row["url"], row["alt_text"]) for row in all_rows(importer(str(path), **config))]
    assert made == [("http://a.test/1.jpg", "one, two"), ("http://a.test/2.jpg", None)]


def test_a_zip_archive_is_read_as_what_it_holds(tmp_path):
    path = tmp_path / "urls.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("lists/urls.csv", "url,caption\nhttp://a.test/1.jpg,one\n")
    assert [row["alt_text"] for row in all_rows(importer(str(path)))] == ["one"]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="the zip data is truncated or damaged"):
        importer(str(path)).slices()


def test_a_file_without_a_column_that_others_have_is_named(tmp_path):
    paths = [write(tmp_path, name, ROWS[:2]) for name in ("a.csv", "b.parquet")]
    (tmp_path / "c.csv").write_text("url\nhttp://a.test/1.jpg\n")
    made = importer([*paths, str(tmp_path / "c.csv")])
    made.slices()
    assert made.notes() == [f"files without columns that others have, left empty: {tmp_path}/c.csv (alt_text)."]


def test_patterns_mean_no_hidden_files(tmp_path):
    for name in ("a.csv", ".b.csv", "deep/c.csv", "deep/.cache/d.csv", ".hidden/e.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found = {
        pattern: [path.removeprefix(f"{tmp_path}/") for path in expand(f"{tmp_path}/{pattern}")]
        for pattern in ("**/*.csv", ".*.csv", "deep/.cache/*.csv", ".hidden/**/*.csv")
    }
    assert found == {
        "**/*.csv": ["a.csv", "deep/c.csv"],
        ".*.csv": [".b.csv"],
        "deep/.cache/*.csv": ["deep/.cache/d.csv"],
        ".hidden/**/*.csv": [".hidden/e.csv"],
    }
