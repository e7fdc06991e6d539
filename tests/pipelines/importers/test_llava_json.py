"""LLaVA's JSON and its image folder, together."""

import io
import json

import pytest
from PIL import Image

from pipelines.importers.image_folder import ImageFolder, ImageFolderConfig
from pipelines.importers.llava_json import LlavaJson, LlavaJsonConfig
from schemas.errors import InputError

ROWS = [
    {
        "id": "33471",
        "image": "coco/33471.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat colour is the bus?"},
            {"from": "gpt", "value": "Red."},
        ],
    },
    {"id": "33471", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi."}]},
    {"id": "lost", "image": "gqa/1.png", "conversations": [{"from": "human", "value": "<image>"}]},
    {"id": "odd", "image": "gqa/2.png", "conversations": [{"from": "dog", "value": "<image> woof"}]},
]


@pytest.fixture
def images(tmp_path):
    for name, color in [("coco/33471.png", "red"), ("gqa/deep/3.PNG", "blue")]:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), color).save(path, "PNG")
    (tmp_path / "images" / "notes.txt").write_text("not a picture")
    (tmp_path / "images" / "gqa" / "broken.jpg").write_bytes(b"not a picture either")
    return str(tmp_path / "images")


def conversations(tmp_path, rows, name="talks.json", **config):
    path = tmp_path / name
    path.write_text(json.dumps(rows) if name.endswith("json") else "".join(json.dumps(row) + "\n" for row in rows))
    return LlavaJson(LlavaJsonConfig(path=str(path), **config))


def all_rows(importer):
    return [row for part in importer.slices() for row in importer.rows(part).to_pylist()]


def test_rows_become_conversations_and_bad_ones_keep_their_place(tmp_path, images):
    first, second, lost, odd = all_rows(conversations(tmp_path, ROWS, images=images, rows_per_slice=3))
    assert [row["key"] for row in (first, second, lost, odd)] == [
        "000000000/33471",
        "000000001/33471",
        "000000002/lost",
        "000000003/odd",
    ]
    assert [row["status"] for row in (first, second, lost, odd)] == ["ok", "ok", "no_image", "bad_conversation"]
    assert (first["image_keys"], first["source"]) == (["coco/33471.png"], "coco")
    assert first["messages"][0]["content"] == [
        {"type": "image", "text": None},
        {"type": "text", "text": "\nWhat colour is the bus?"},
    ]
    assert (second["image_keys"], second["source"]) == ([], None)
    assert lost["detail"] == "gqa/1.png is not in the image folder"
    assert odd["detail"] == "row 3: turn 0 is from 'dog'; expected human or gpt."
    assert odd["image_keys"] == ["gqa/2.png"]


def test_json_lines_give_the_same_rows(tmp_path):
    assert all_rows(conversations(tmp_path, ROWS, "talks.jsonl")) == all_rows(conversations(tmp_path, ROWS))


def test_appended_rows_leave_earlier_slices_unchanged(tmp_path):
    old = conversations(tmp_path, ROWS[:3], rows_per_slice=2).slices()
    new = conversations(tmp_path, ROWS, rows_per_slice=2).slices([part.rows for part in old])
    assert [part.rows for part in new] == [2, 1, 1]
    assert [part.digest for part in new[:2]] == [part.digest for part in old]


def test_a_broken_file_is_refused(tmp_path):
    (tmp_path / "talks.json").write_text('[{"id": 1},\n{"id": }]')
    with pytest.raises(InputError, match=r"talks\.json:2: this is not JSON"):
        LlavaJson(LlavaJsonConfig(path=str(tmp_path / "talks.json"))).slices()


def test_the_image_folder_has_the_keys_that_the_json_names(images):
    importer = ImageFolder(ImageFolderConfig(path=images, source="local"))
    rows = {row["key"]: row for row in all_rows(importer)}
    assert sorted(rows) == ["coco/33471.png", "gqa/broken.jpg", "gqa/deep/3.PNG"]
    bus = rows["coco/33471.png"]
    assert (bus["width"], bus["height"], bus["source"], bus["import_status"]) == (5, 4, "local", "ok")
    assert Image.open(io.BytesIO(bus["image"]["bytes"])).getpixel((0, 0)) == (255, 0, 0)
    assert rows["gqa/broken.jpg"]["image"] is None
    assert rows["gqa/broken.jpg"]["import_detail"] == "gqa/broken.jpg (20 bytes): not_image: unknown first bytes"


def test_changed_pictures_are_noticed(tmp_path, images):
    def digests():
        return [part.digest for part in ImageFolder(ImageFolderConfig(path=images, rows_per_slice=2)).slices()]

    before = digests()
    assert digests() == before
    Image.new("RGB", (9, 9), "green").save(tmp_path / "images" / "gqa" / "deep" / "3.PNG", "PNG")
    assert [old == new for old, new in zip(before, digests(), strict=True)] == [True, False]


def test_folders_without_pictures(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        ImageFolder(ImageFolderConfig(path=str(tmp_path / "none"))).slices()
    with pytest.raises(InputError, match=r"no pictures here \(files ending in \.jpg"):
        ImageFolder(ImageFolderConfig(path=str(tmp_path))).slices()


def test_a_picture_that_arrives_makes_the_rows_of_its_slice_again(tmp_path, images):
    importer = conversations(tmp_path, ROWS, images=images, rows_per_slice=2)
    before = importer.slices()
    assert [row["status"] for row in all_rows(importer)][2] == "no_image"
    Image.new("RGB", (5, 4), "red").save(f"{images}/gqa/1.png")
    after = importer.slices()
    assert [one.digest == other.digest for one, other in zip(before, after, strict=True)] == [True, False]
    assert [one.digest for one in importer.slices()] == [one.digest for one in after]


def test_turns_may_be_json_text(tmp_path):
    row = {**ROWS[1], "conversations": json.dumps(ROWS[1]["conversations"])}
    cut = {**row, "conversations": row["conversations"][:-1]}
    asked, odd = all_rows(conversations(tmp_path, [row, cut]))
    assert [message["content"][0]["text"] for message in asked["messages"]] == ["Hello", "Hi."]
    assert odd["status"] == "bad_conversation" and "Expected a list of turns" in odd["detail"]
