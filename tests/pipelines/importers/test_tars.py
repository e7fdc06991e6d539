"""Samples of tar archives: which files belong together, and archives that are not whole."""

import re
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.importers.tars import samples, split
from pipelines.importers.webdataset import WebDataset, WebDatasetConfig
from schemas.errors import InputError
from tests.pipelines.importers.archives import all_rows, archive, png


def members(*names):
    return [tarfile.TarInfo(name) for name in names]


def grouped(*names, ends=None):
    return {sample.name: list(sample.files) for sample in samples(members(*names), "a.tar", ends)}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a/b/12.seg.PNG", ("a/b/12", "seg.png")),
        ("./0.jpg", ("0", "jpg")),
        ("sub.v1/1.jpg", ("sub.v1/1", "jpg")),
        ("README", (None, "without an ending")),
        ("a/._0.jpg", (None, "hidden")),
        ("__meta__/0.json", (None, "metadata (__NAME__)")),
        ("__dataset__", (None, "metadata (__NAME__)")),
    ],
)
def test_a_name_ends_at_its_first_dot(name, parts):
    assert split(name) == parts


@given(st.text("ab./_", min_size=1, max_size=12))
def test_names_are_cut_where_webdataset_cuts_them(name):
    stem, ending = split(name)
    rule = re.match(r"((?:.*/)?[^./]+)\.([^/]*)$", name.removeprefix("./"))
    if stem is not None:
        assert rule is not None and (stem, ending) == (rule[1], rule[2].lower())
    else:
        assert rule is None or name.removeprefix("./").startswith("__")


def test_the_last_dot_where_it_is_asked_for():
    names = ("shot 1.0.jpg", "shot 1.0.txt", "shot 1.5.jpg", "shot 1.5.txt")
    assert grouped(*names, ends="last_dot") == {"shot 1.0": ["jpg", "txt"], "shot 1.5": ["jpg", "txt"]}
    assert grouped(*names, ends="first_dot") == {"shot 1": ["0.jpg", "0.txt", "5.jpg", "5.txt"]}


@pytest.mark.parametrize(
    "names",
    [
        ("shot 1.0.jpg", "shot 1.0.txt", "shot 1.5.jpg", "shot 1.5.txt"),
        ("www.a.com_1.jpg", "www.a.com_1.txt", "www.b.com_2.jpg"),
        ("0.jpg", "0.txt", "0.5.jpg", "0.5.txt"),
        ("0.v1.jpg", "0.v1.txt"),
    ],
)
def test_samples_that_look_like_several_are_refused(names):
    with pytest.raises(InputError, match=r"a\.tar: .* belong to one sample .* Set `name_ends: last_dot`"):
        grouped(*names)


@pytest.mark.parametrize(
    "names",
    [
        ("0.left.jpg", "0.right.jpg", "0.txt"),
        ("0.jpg", "0.json", "0.seg.png"),
        ("0.jpg", "0.txt", "0.seg.png", "0.seg.json"),
        ("0.0.jpg", "0.1.jpg", "0.2.jpg", "0.json"),
    ],
)
def test_samples_with_several_pictures_are_one(names):
    assert list(grouped(*names)) == ["0"]


def test_a_file_that_repeats_in_a_sample_is_refused():
    with pytest.raises(InputError, match=r"the sample '0' has 'jpg' twice \('0.jpg', '0.JPG'"):
        grouped("0.jpg", "0.JPG")


PICTURES = [(f"{number}.png", png("red", number + 1)) for number in range(10)]


def rows_of(path, **config):
    return all_rows(WebDataset(WebDatasetConfig(path=str(path), **config)))


def test_an_archive_that_is_not_whole_is_one_error(tmp_path):
    whole = archive(tmp_path / "a.tar", PICTURES).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        headers = [member.offset for member in tar]

    def refused(content):
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.tar: ") as error:
            rows_of(tmp_path / "a.tar")
        return str(error.value)

    for end in range(512, headers[-1] + 1024, 512):
        assert re.search("was cut|not a tar", refused(whole[:end]))
    damaged = bytearray(whole)
    damaged[headers[5]] ^= 0xFF
    assert f"the header at byte {headers[5]} is damaged" in refused(damaged)
    assert "archives that were joined" in refused(whole + whole)


def test_an_archive_may_end_without_padding(tmp_path):
    path = archive(tmp_path / "a.tar", PICTURES)
    with tarfile.open(path) as tar:
        end = max(member.offset_data + 512 for member in tar)
    path.write_bytes(path.read_bytes()[: end + 1024])
    assert len(rows_of(path)) == 10


def test_files_of_a_sample_that_stand_apart_are_refused(tmp_path):
    archive(tmp_path / "a.tar", [("0.png", png("red")), ("1.png", png("red")), ("0.txt", b"red")])
    with pytest.raises(InputError, match=r"the files of sample '0' are not adjacent"):
        rows_of(tmp_path / "a.tar")


def test_every_picture_of_a_sample_is_a_row(tmp_path):
    path = archive(
        tmp_path / "s.tar",
        [
            ("0.left.png", png("red", 1)),
            ("0.right.png", png("red", 2)),
            ("0.txt", b"two"),
            ("1.png", png("red", 3)),
            ("1.seg.png", png("red", 4)),
        ],
    )
    expected = [("s/0.left.png", 1, "two"), ("s/0.right.png", 2, "two"), ("s/1", 3, None)]
    for rows_per_slice in (1, 2, 5):
        rows = rows_of(path, rows_per_slice=rows_per_slice)
        assert [(row["key"], row["width"], row["alt_text"]) for row in rows] == expected
    masks = rows_of(path, endings=(".seg.PNG",))
    assert [(row["key"], row["width"], row["import_status"]) for row in masks] == [
        ("s/0", None, "no_image"),
        ("s/1", 4, "ok"),
    ]


def test_what_is_not_read_is_named(tmp_path):
    path = archive(tmp_path / "s.tar", [("._0.png", b"x"), ("0.png", png("red")), ("0.cls", b"3"), ("LICENSE", b"MIT")])
    made = WebDataset(WebDatasetConfig(path=str(path)))
    made.slices()
    assert made.notes() == [
        "files that belong to no sample: hidden (1), without an ending (1).",
        "files of samples that are not read: cls (1).",
    ]


def test_texts_beside_the_picture(tmp_path):
    path = archive(
        tmp_path / "s.tar",
        [
            ("0.png", png("red")),
            ("0.caption", "café".encode()),
            ("1.png", png("red")),
            ("1.txt", "café".encode("latin-1")),
            ("2.png", png("red")),
            ("2.txt", b"short"),
            ("2.json", {"recaption": "long", "caption": "old"}),
        ],
    )
    first, second, third = rows_of(path)
    assert (first["alt_text"], third["alt_text"]) == ("café", "short")
    assert (second["alt_text"], second["import_status"]) == (None, "bad_value")
    assert second["import_detail"].startswith("txt: this is not UTF-8")
    assert rows_of(path, columns={"alt_text": "recaption"})[2]["alt_text"] == "long"


def test_archives_of_one_name_are_kept_apart_by_a_prefix(tmp_path):
    path = archive(tmp_path / "000.tar", [("a.png", png("red"))])
    assert rows_of(path, key_prefix="val/")[0]["key"] == "val/000/a"
