"""One rule for what a picture's name means, in lists, in folders and in datasets."""

import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.lookup import PicturesByName
from schemas.picturefolder import TRIED, FolderTrial, PictureFolder
from schemas.picturenames import meant_by, plain_name, stem
from schemas.records import BASE
from schemas.writing import write_dataset

COMPOSED, DECOMPOSED = "sub/\u00e9.png", "sub/e\u0301.png"


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("a.jpg", "a.jpg"),
        ("./a.jpg", "a.jpg"),
        ("coco//a.jpg", "coco/a.jpg"),
        ("/a.jpg", "a.jpg"),
        ("x/../a.jpg", "a.jpg"),
        ("x/./y/../../a.jpg", "a.jpg"),
        ("coco\\train\\a.jpg", "coco/train/a.jpg"),
        ("C:\\data\\a.jpg", "C:/data/a.jpg"),
        ("../a.jpg", "../a.jpg"),
        ("x/../../a.jpg", "../a.jpg"),
        (DECOMPOSED, COMPOSED),
        ("https://example.org//a/../b.jpg", "https://example.org//a/../b.jpg"),
        ("..a/.b/c..jpg", "..a/.b/c..jpg"),
        ("a/..", "a/.."),
        ("", ""),
        (" a .jpg", " a .jpg"),
    ],
)
def test_plain_names(name, plain):
    assert plain_name(name) == plain


@pytest.mark.parametrize(
    ("name", "present", "meant"),
    [
        ("a.jpg", ["a.jpg", "./a.jpg", "a.JPG"], ["a.jpg"]),
        ("./a.jpg", ["a.JPG", "a.jpg"], ["a.jpg"]),
        ("a.jpg", ["a.JPG"], ["a.JPG"]),
        ("a.jpg", ["a.jpeg", "a.png"], ["a.jpeg"]),
        ("a.jpg", ["a.jpeg", "a.JPG"], ["a.jpeg", "a.JPG"]),
        ("a.tiff", ["a.tif"], ["a.tif"]),
        ("a", ["a.jpg"], ["a.jpg"]),
        ("a", ["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        ("a", ["a", "a.jpg"], ["a"]),
        ("v1.5", ["v1.5.png"], ["v1.5.png"]),
        ("a.jpg", ["a.png"], []),
        ("a.jpg", ["A.jpg"], []),
        ("000000009.jpg", ["000000009"], []),  # the number of a row is no file of that name
        ("a.jpg", ["a.jpg.png"], []),
        (".jpg", [".jpg"], [".jpg"]),
        (DECOMPOSED, [COMPOSED], [COMPOSED]),
    ],
)
def test_what_a_name_means(name, present, meant):
    assert meant_by(name, present) == meant


def test_other_endings_where_the_user_says_so():
    assert meant_by("a.jpg", ["a.png"], other_endings=True) == ["a.png"]
    assert meant_by("a.jpg", ["a.png", "a.jpeg"], other_endings=True) == ["a.jpeg"]
    assert meant_by("a.jpg", ["a.png", "a.gif"], other_endings=True) == ["a.png", "a.gif"]
    assert meant_by("a.jpg", ["a"], other_endings=True) == []


NAMES = st.text(alphabet="ab./\\é\u0301", max_size=9)


@given(NAMES)
def test_a_plain_name_is_plain(name):
    plain = plain_name(name)
    assert plain_name(plain) == plain
    assert unicodedata.is_normalized("NFC", plain) or plain == name
    assert stem(name) == stem(plain)


@given(NAMES, st.lists(NAMES, unique=True, max_size=6))
def test_what_is_there_as_written_is_meant(name, others):
    assert meant_by(name, [*(one for one in others if one != name), name]) == [name]


@pytest.fixture
def folder(tmp_path):
    for name in (
        "a.jpg",
        "sub/b.JPG",
        "sub/c.jpeg",
        "sub/c.JPG",
        "d.png",
        DECOMPOSED,
        "odd\\e.png",
        "NFD-e\u0301/f.png",
    ):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"bytes")
    (tmp_path / "pictures" / "empty.png").touch()
    return tmp_path / "pictures"


@pytest.mark.parametrize(
    ("name", "key", "problem"),
    [
        ("a.jpg", "a.jpg", ""),
        ("sub/../a.jpg", "a.jpg", ""),
        ("a", "a.jpg", ""),
        ("sub\\b.jpg", "sub/b.JPG", ""),
        (COMPOSED, COMPOSED, ""),
        (DECOMPOSED, COMPOSED, ""),
        ("odd/e.png", "odd/e.png", "odd/e.png is not in the image folder"),  # a name of one part, in the folder itself
        ("odd\\e.png", "odd/e.png", ""),
        ("NFD-\u00e9/f", "NFD-\u00e9/f.png", ""),
        ("d.jpg", "d.jpg", "d.jpg is not in the image folder; d.png is: `other_endings` takes it"),
        ("sub/c.jpg", "sub/c.jpg", "sub/c.jpg may be c.JPG or c.jpeg: the image folder has both"),
        ("", "", "'' is not in the image folder"),
        (" a.jpg", " a.jpg", "' a.jpg' is not in the image folder"),
        ("sub", "sub", "sub is not in the image folder"),
        ("empty.png", "empty.png", "empty.png is an empty file"),
        ("../pictures/a.jpg", "../pictures/a.jpg", "../pictures/a.jpg is outside the image folder"),
        ("a\0.jpg", "a\0.jpg", "'a\\x00.jpg' is not in the image folder"),
        ("x" * 5000, "x" * 5000, f"{'x' * 200}... is not in the image folder"),
    ],
)
def test_a_folder_finds_what_a_name_means(folder, name, key, problem):
    found = PictureFolder(str(folder)).find(name)
    assert (found.key, found.problem) == (key, problem)
    assert bool(problem) or PictureFolder(str(folder)).content(found) == b"bytes"


def test_absolute_paths_below_the_folder_and_other_endings(folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folder)
    for given_as, named in ((folder, folder), (link, link), (link, folder)):
        assert PictureFolder(str(given_as)).find(f"{named}/sub/b.JPG").key == "sub/b.JPG"
    assert PictureFolder(str(folder)).find(str(tmp_path / "elsewhere/a.jpg")).problem
    assert PictureFolder(str(folder), other_endings=True).find("d.jpg").key == "d.png"
    assert "is a URL" in PictureFolder(str(folder)).find("https://example.org/a.jpg").problem


def test_a_folder_elsewhere():
    import fsspec

    files = fsspec.filesystem("memory")
    files.pipe({"/pics/a.jpg": b"bytes", "/pics/sub/b.JPG": b"bytes", "/pics/empty.png": b""})
    found = PictureFolder("memory://pics")
    assert [found.find(name).key for name in ("./a.jpg", "sub/b.jpg", "memory://pics/a.jpg")] == [
        "a.jpg",
        "sub/b.JPG",
        "a.jpg",
    ]
    assert found.find("empty.png").problem == "empty.png is an empty file"
    assert found.find("c.jpg").problem == "c.jpg is not in the image folder"


def test_a_folder_that_is_another_one(folder):
    with pytest.raises(InputError, match="no such folder of pictures"):
        PictureFolder(str(folder / "none"))
    trial = FolderTrial(PictureFolder(str(folder)), "talks.json")
    trial.see(["coco/a.jpg", "coco/a.jpg"])
    trial.see([])
    with pytest.raises(InputError, match=r"the picture 'coco/a.jpg', named in talks.json. It holds 'a.jpg': give the"):
        trial.end()
    trial = FolderTrial(PictureFolder(str(folder)), "talks.json")
    with pytest.raises(InputError, match=rf"any of {TRIED} pictures .* It holds .*d.png.* Give the folder"):
        trial.see(f"{number}.jpg" for number in range(2 * TRIED))


def test_one_picture_that_is_there_makes_it_the_right_folder(folder):
    trial = FolderTrial(PictureFolder(str(folder)), "talks.json")
    trial.see(["none.jpg", "a.jpg"])
    trial.see(f"{number}.jpg" for number in range(2 * TRIED))
    trial.end()
    FolderTrial(PictureFolder(str(folder)), "texts.json").end()


def pictures(tmp_path, keys):
    parts = [pa.Table.from_pylist([{"key": key} for key in part], BASE["images"]) for part in (keys[:3], keys[3:])]
    write_dataset(tmp_path / "images", "images", parts, {})
    return PicturesByName(Dataset.open(tmp_path / "images"))


def test_a_dataset_finds_what_a_name_means(tmp_path):
    found = pictures(tmp_path, ["a.jpg", "sub/b.JPG", "c.jpeg", "c.JPG", DECOMPOSED, "000000009"])
    names = ["a.jpg", "./a.jpg", "a", "sub\\b.jpg", "c.jpg", COMPOSED, "000000009.jpg", "000000009", "none.jpg"]
    assert found.find_all(names).tolist() == [0, 0, 0, 1, -1, 4, -1, 5, -1]
    assert found.find_all(pa.array(names[:2])).tolist() == [0, 0]
    assert (found.find("sub//b.JPG"), found.find("none.jpg")) == (1, None)


@settings(max_examples=20)
@given(st.data())
def test_a_dataset_finds_what_the_rule_says(tmp_path_factory, data):
    keys = data.draw(st.lists(NAMES.filter(bool), unique=True, min_size=1, max_size=8))
    names = data.draw(st.lists(NAMES.filter(bool), min_size=1, max_size=8))
    found = pictures(tmp_path_factory.mktemp("found"), keys).find_all(names)
    expected = [[keys.index(one) for one in meant_by(name, keys)] for name in names]
    assert found.tolist() == [rows[0] if len(rows) == 1 else -1 for rows in expected]
