"""Folders as people have them: links, names of other systems, metadata beside the pictures."""

import errno
import json
import os

import pytest
from PIL import Image

from pipelines.importers.image_folder import ImageFolder, ImageFolderConfig, keys_of
from pipelines.importers.llava_json import LlavaJson, LlavaJsonConfig
from schemas.errors import InputError


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "pictures"
    for name in ("a.png", "sub/b.png", "sub/c.PNG"):
        picture(made / name)
    return made


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), "red").save(path, "PNG")


def importer(folder, **config):
    return ImageFolder(ImageFolderConfig(path=str(folder), **config))


def rows_of(made):
    return {row["key"]: row for part in made.slices() for row in made.rows(part).to_pylist()}


def digests(folder, **config):
    return [part.digest for part in importer(folder, **config).slices()]


def test_links_to_folders_are_followed_and_loops_are_said(folder, tmp_path):
    picture(tmp_path / "elsewhere" / "deep" / "d.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "twice").symlink_to(folder / "sub")
    (folder / "sub" / "up").symlink_to(folder)
    (tmp_path / "elsewhere" / "deep" / "again").symlink_to(tmp_path / "elsewhere")
    (folder / "nowhere").symlink_to(tmp_path / "none")
    made = importer(folder)
    expected = ["a.png", "linked/deep/d.png", "sub/b.png", "sub/c.PNG", "twice/b.png", "twice/c.PNG"]
    assert sorted(rows_of(made)) == expected
    assert [note for note in made.notes() if "links lead back" in note] == [
        "3 links lead back to a parent folder and are not followed (first: linked/deep/again)."
    ]


def test_files_that_are_left_alone_are_counted(folder):
    for name in ("x.heic", "y.HEIC", "sub/notes.txt", "README"):
        (folder / name).write_text("?")
    made = importer(folder)
    made.slices()
    assert made.notes() == [
        "files that are no pictures by their ending were ignored: .heic (2), .txt (1), none (1). `endings` names "
        "others."
    ]


def test_pictures_without_an_ending_are_asked_for(folder):
    picture(folder / "sub" / "3f2a")
    assert "sub/3f2a" not in rows_of(importer(folder))
    assert list(rows_of(importer(folder, endings=[""]))) == ["sub/3f2a"]
    assert "sub/3f2a" in rows_of(importer(folder, endings=["", "png"]))


def test_a_folder_that_may_not_be_read_stops_the_import(folder, monkeypatch):
    (folder / "sub").chmod(0)
    if os.access(folder / "sub", os.R_OK):  # root may read every folder
        scandir = os.scandir

        def refuse(path):
            if os.path.basename(path) == "sub":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"sub: this folder cannot be read \(Permission denied\)"):
        importer(folder).slices()
    (folder / "sub").chmod(0o755)


def test_keys_are_plain_names_unless_another_file_has_them(folder):
    names = ["e\u0301.png", "x\\y.png", "z.png", "o\u0308.png", "\u00f6.png"]
    assert list(keys_of(names).values()) == ["\u00e9.png", "x/y.png", "z.png", "o\u0308.png", "\u00f6.png"]
    before = digests(folder, rows_per_slice=2)
    picture(folder / "sub" / "e\u0301.png")
    assert "sub/\u00e9.png" in rows_of(importer(folder))
    assert digests(folder, rows_per_slice=2)[0] == before[0]


def test_digests_are_those_of_the_releases_before(folder):
    """Whoever imported a folder of plain names without metadata imports nothing again."""
    for name in ("a.png", "sub/b.png", "sub/c.PNG"):
        (folder / name).write_bytes(b"1234")
        os.utime(folder / name, (1_700_000_000, 1_700_000_000))
    assert digests(folder) == ["c07a62992e38e58a532e21509fe2d5d99836fa8724fe881ec08a81dbcc5c5a94"]


def metadata(folder, lines, name="metadata.csv"):
    (folder / name).write_text("".join(f"{line}\n" for line in lines))


def test_metadata_becomes_columns(folder):
    metadata(folder, ["file_name,text,score,label", 'a.png,"a red, ""plain"" one",0.5,3', "./sub/b.png,,x,1"])
    made = importer(folder, extra={"score": {"column": "score", "type": "float"}}, license="CC0")
    rows = rows_of(made)
    assert [rows["a.png"][name] for name in ("alt_text", "score", "license", "import_status")] == [
        'a red, "plain" one',
        0.5,
        "CC0",
        "ok",
    ]
    assert (rows["sub/b.png"]["import_status"], rows["sub/b.png"]["score"]) == ("bad_value", None)
    assert rows["sub/b.png"]["import_detail"] == "score: 'x' is not a number"
    assert rows["sub/b.png"]["image"] is not None
    assert (rows["sub/c.PNG"]["alt_text"], rows["sub/c.PNG"]["import_status"]) == (None, "ok")
    assert made.notes() == [
        "1 of 3 pictures have no row in the metadata.",
        "columns of the metadata that are not kept: label (2 rows); `extra` keeps them.",
    ]


def test_metadata_lines_in_folders_and_their_types(folder):
    values = [{"file_name": "b.png", "caption": "b", "tags": ["x", "y"]}, {"file_name": "c.PNG", "tags": []}]
    metadata(folder / "sub", [json.dumps(one) for one in values], "metadata.jsonl")
    made = importer(folder, extra={"tags": "tags"}, rows_per_slice=1)
    rows = rows_of(made)
    assert [(rows[key]["alt_text"], rows[key]["tags"]) for key in sorted(rows)] == [
        (None, None),
        ("b", ["x", "y"]),
        (None, []),
    ]
    before = digests(folder, rows_per_slice=1)
    values[0]["caption"] = "other"
    metadata(folder / "sub", [json.dumps(one) for one in values], "metadata.jsonl")
    assert [old == new for old, new in zip(before, digests(folder, rows_per_slice=1), strict=True)] == [
        True,
        False,
        True,
    ]
    assert digests(folder, metadata=False)[0] not in before


def test_metadata_that_does_not_fit(folder):
    metadata(folder, ["file_name,text", "none.png,lost", "a.png,here", "x/none.png,lost"])
    made = importer(folder)
    assert rows_of(made)["a.png"]["alt_text"] == "here"
    assert made.notes()[0] == "metadata.csv: 2 rows name a picture that is not there (first: 'none.png' in line 2)."
    metadata(folder, ["file_name,text", "a.png,one", "./a.png,two"])
    with pytest.raises(InputError, match=r"metadata.csv:3: 'a.png' has a row already"):
        importer(folder).slices()
    assert rows_of(importer(folder, metadata=False))["a.png"]["alt_text"] is None
    metadata(folder, ["name,text", "a.png,one"])
    made = importer(folder)
    assert rows_of(made)["a.png"]["alt_text"] is None
    assert made.notes() == ["metadata.csv has no column 'file_name' and is left alone (name, text)."]
    metadata(folder, ["file_name,text", 'a.png,"never closed'])
    with pytest.raises(InputError, match=r"metadata.csv:2: a quote that opens here is never closed"):
        importer(folder).slices()
    metadata(folder, ["file_name,text", "a.png,one"])
    with pytest.raises(InputError, match="the metadata has no column 'likes', which is to become 'likes'"):
        importer(folder, extra={"likes": "likes"}).slices()


def conversations(tmp_path, images, names, **config):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It."}]
    path = tmp_path / "talks.json"
    path.write_text(json.dumps([{"id": name, "image": name, "conversations": turns} for name in names]))
    made = LlavaJson(LlavaJsonConfig(path=str(path), images=images and str(images), **config))
    return [row for part in made.slices() for row in made.rows(part).to_pylist()]


def test_conversations_name_pictures_as_the_folder_does(folder, tmp_path):
    (folder / "empty.png").touch()
    names = ["./a.png", f"{folder}/sub/b.png", "sub\\c.png", "a.jpg", "empty.png", "../a.png"]
    rows = conversations(tmp_path, folder, names)
    assert [(row["image_keys"], row["status"]) for row in rows] == [
        (["a.png"], "ok"),
        (["sub/b.png"], "ok"),
        (["sub/c.PNG"], "ok"),
        (["a.jpg"], "no_image"),
        (["empty.png"], "no_image"),
        (["../a.png"], "no_image"),
    ]
    assert [row["detail"] for row in rows[3:]] == [
        "a.jpg is not in the image folder; a.png is: `other_endings` takes it",
        "empty.png is an empty file",
        "../a.png is outside the image folder",
    ]
    assert {*rows[0]["image_keys"], *rows[2]["image_keys"]} <= set(rows_of(importer(folder)))
    assert conversations(tmp_path, folder, ["a.jpg"], other_endings=True)[0]["image_keys"] == ["a.png"]
    assert conversations(tmp_path, None, ["x/.././a.png"])[0]["image_keys"] == ["a.png"]


def test_a_wrong_folder_is_one_error(folder, tmp_path):
    with pytest.raises(InputError, match=r"does not hold any of 2 pictures .* give the folder that has 'pictures/sub'"):
        conversations(tmp_path, folder / "sub", ["pictures/sub/b.png", "pictures/sub/none.png"])
    with pytest.raises(InputError, match="no such folder of pictures"):
        conversations(tmp_path, folder / "none", ["a.png"])
