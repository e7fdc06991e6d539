"""Conversations beside their pictures in Parquet and Arrow files, and the keys that join both."""

import base64
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.importers.huggingface import HuggingFace, HuggingFaceConfig
from pipelines.importers.huggingface_chat import HuggingFaceChat, HuggingFaceChatConfig
from schemas.errors import InputError
from tests.pipelines.importers.archives import all_rows, png

ASKED = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It."}]
TEXT = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi."}]
RED, BLUE = ({"bytes": png(color), "path": f"{color}.png"} for color in ("red", "blue"))
SHOWN = [{"type": "image", "text": None}, {"type": "text", "text": "\nWhat?"}]


def write(path, **columns):
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return str(path)


def talks(path, **config):
    return all_rows(HuggingFaceChat(HuggingFaceChatConfig(path=path, **config)))


def photos(path, **config):
    return all_rows(HuggingFace(HuggingFaceConfig(path=path, **config)))


def brief(rows):
    return [(row["key"], row["image_keys"], row["status"]) for row in rows]


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
@pytest.mark.parametrize("rows_per_slice", [1, 3, 100])
def test_onevision(tmp_path, ending, rows_per_slice):
    path = write(
        tmp_path / f"train.{ending}",
        id=["a1", "a1", "t", "lost", "unsaid"],
        image=[RED, BLUE, None, None, RED],
        conversations=[ASKED, ASKED, TEXT, ASKED, TEXT],
        data_source=["ai2d"] * 5,
    )
    rows = talks(path, rows_per_slice=rows_per_slice)
    assert brief(rows) == [
        ("train/000000000/a1", ["train/000000000"], "ok"),
        ("train/000000001/a1", ["train/000000001"], "ok"),
        ("train/000000002/t", [], "ok"),
        ("train/000000003/lost", [], "bad_conversation"),
        ("train/000000004/unsaid", ["train/000000004"], "bad_conversation"),
    ]
    assert rows[0]["messages"][0]["content"] == SHOWN
    assert {row["source"] for row in rows} == {"ai2d"}
    pictures = {row["key"]: row["import_status"] for row in photos(path, rows_per_slice=rows_per_slice)}
    assert list(pictures.values()) == ["ok", "ok", "no_image", "no_image", "ok"]
    assert all(pictures[key] == "ok" for row in rows for key in row["image_keys"])


@pytest.mark.parametrize(
    ("columns", "keys", "joined"),
    [
        ({}, ["a", "b"], ["a", "b"]),  # a column called key, as in files that `lavabeam export` wrote
        ({"key": None}, ["t/000000000/1", "t/000000001/2"], ["t/000000000", "t/000000001"]),
    ],
)
def test_a_column_called_key_names_rows_and_pictures_alike(tmp_path, columns, keys, joined):
    path = write(tmp_path / "t.parquet", key=["a", "b"], id=[1, 2], image=[RED, BLUE], conversations=[ASKED] * 2)
    rows = talks(path, columns=columns)
    assert brief(rows) == [(key, [picture], "ok") for key, picture in zip(keys, joined, strict=True)]
    assert [row["key"] for row in photos(path, columns=columns)] == joined


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
@pytest.mark.parametrize("rows_per_slice", [1, 2, 100])
def test_the_cauldron(tmp_path, ending, rows_per_slice):
    path = write(
        tmp_path / f"t.{ending}",
        images=[[RED], [RED, BLUE], [], None],
        texts=[[{"user": "What?", "assistant": "It.", "source": "VQAv2"}]] * 4,
    )
    rows = talks(path, rows_per_slice=rows_per_slice)
    assert brief(rows) == [
        ("t/000000000", ["t/000000000/0"], "ok"),
        ("t/000000001", ["t/000000001/0", "t/000000001/1"], "ok"),
        ("t/000000002", [], "no_image"),
        ("t/000000003", [], "no_image"),
    ]
    assert rows[0]["messages"][0]["content"] == SHOWN
    assert rows[2]["detail"] == "a row with `texts` is about a picture, and the row has none"
    assert [(row["key"], row["import_status"]) for row in photos(path, rows_per_slice=rows_per_slice)] == [
        ("t/000000000/0", "ok"),
        ("t/000000001/0", "ok"),
        ("t/000000001/1", "ok"),
        ("t/000000002", "no_image"),
        ("t/000000003", "no_image"),
    ]


@pytest.mark.parametrize(
    ("cell", "status", "key"),
    [
        (base64.b64encode(png("red")).decode(), "ok", "t/000000000"),
        (f"data:image/png;base64,{base64.b64encode(png('red')).decode()}", "ok", "t/000000000"),
        (png("red"), "ok", "t/000000000"),
        ("red.png", "ok", "t/000000000"),
        ("./red.png", "ok", "t/000000000"),
        ("../red.png", "no_image", "t/000000000"),
        ("lost.png", "no_image", "t/000000000"),
        ("https://x.test/red.png", "no_image", "https://x.test/red.png"),
        ({"bytes": None, "path": "red.png"}, "ok", "t/000000000"),
        ({"bytes": None, "path": "https://x.test/red.png"}, "no_image", "https://x.test/red.png"),
    ],
)
def test_what_a_cell_may_hold(tmp_path, cell, status, key):
    (tmp_path / "red.png").write_bytes(png("red"))
    path = write(tmp_path / "t.parquet", image=[cell], conversations=[ASKED])
    (row,) = photos(path)
    assert (row["import_status"], bool(row["import_detail"])) == (status, status != "ok")
    assert brief(talks(path)) == [("t/000000000", [key], "ok")]


def test_pictures_by_their_paths_and_rows_by_a_column(tmp_path):
    path = write(
        tmp_path / "t.parquet",
        name=["x", "y"],
        image=["coco/1.jpg", "coco/2.jpg"],
        talk=[ASKED, ASKED],
        tone=["Be brief.", None],
    )
    columns = {"conversations": "talk", "system": "tone", "key": "name"}
    rows = talks(path, columns=columns, keys="path", key_prefix="p/")
    assert brief(rows) == [("p/x", ["coco/1.jpg"], "ok"), ("p/y", ["coco/2.jpg"], "ok")]
    assert [message["role"] for message in rows[0]["messages"]] == ["system", "user", "assistant"]
    assert brief(talks(path, columns=columns))[1] == ("y", ["y"], "ok")
    assert [row["key"] for row in photos(path, columns={"key": "name"})] == ["x", "y"]


def test_keys_do_not_depend_on_other_files(tmp_path):
    for folder in ("ai2d", "vqa"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "train-00000-of-00001.parquet", image=[RED], conversations=[ASKED])
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.parquet").write_bytes(b"junk")
    expected = [f"{folder}/train-00000-of-00001/000000000" for folder in ("ai2d", "vqa")]
    for path in (str(tmp_path), f"{tmp_path}/[av]*/*.parquet"):
        assert [row["key"] for row in talks(path)] == [row["key"] for row in photos(path)] == expected
    part = f"{tmp_path}/vqa/*.parquet"
    assert [row["key"] for row in photos(part, key_prefix="vqa/")] == expected[1:]


def test_a_folder_with_several_splits(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}-00000-of-00001.parquet", image=[RED], conversations=[ASKED])
    with pytest.raises(InputError, match=r"it has the splits test, train. Choose one with `split`"):
        talks(str(tmp_path))
    assert brief(talks(str(tmp_path), split="train"))[0][0] == "train-00000-of-00001/000000000"


def test_a_folder_of_other_files_names_their_importer(tmp_path):
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(
        InputError, match=r"no parquet file is below it.*It holds \.jsonl files: `lavabeam import llava"
    ):
        talks(str(tmp_path))


def test_columns_that_are_not_what_they_should_be(tmp_path):
    path = write(tmp_path / "t.parquet", image=[[[[0, 1]]]], label=[1])
    with pytest.raises(InputError, match=r"no column with conversations. Columns found: image, label"):
        talks(path)
    with pytest.raises(InputError, match=r"the column 'image' holds list.*; expected pictures"):
        photos(path)
    with pytest.raises(InputError, match=r"no column 'talk'. Columns found: image, label"):
        talks(path, columns={"conversations": "talk"})


def test_the_summary_says_what_is_left_behind(tmp_path):
    path = write(tmp_path / "t.parquet", image=[RED], conversations=[ASKED], score=[1], text=["alt"])
    made = HuggingFace(HuggingFaceConfig(path=path))
    made.slices()
    assert made.notes() == [
        "ignored columns: score.",
        "conversations (column `conversations`) are not imported here: `lavabeam import huggingface_chat` with the "
        "same --path makes a dataset of them.",
    ]
    chat = HuggingFaceChat(HuggingFaceChatConfig(path=path))
    chat.slices()
    assert chat.notes() == ["ignored columns: score, text."]


def test_rows_that_are_appended_leave_earlier_slices_unchanged(tmp_path):
    images, asked = [[RED, BLUE], [RED], [RED, BLUE], []], [[{"user": "q", "assistant": "a"}]] * 4
    write(tmp_path / "a.parquet", images=images, texts=asked)
    made = HuggingFace(HuggingFaceConfig(path=f"{tmp_path}/*.parquet", rows_per_slice=2))
    old = made.slices()
    assert [part.rows for part in old] == [2, 3, 1]
    write(tmp_path / "b.parquet", images=images, texts=asked)
    new = made.slices([part.rows for part in old])
    assert [part.digest for part in new[:3]] == [part.digest for part in old]
    assert [part.rows for part in new] == [2, 3, 1, 2, 3, 1]


def test_several_answers_to_a_question(tmp_path):
    """lmms-lab's VQA sets: `answers` are texts, or VQAv2's objects."""
    given = [["net", "nets", "nets"], ["b", "a"], [], None]
    path = write(tmp_path / "vqa.parquet", image=[RED] * 4, question=["What?"] * 4, answers=given)
    said = [row["messages"] and row["messages"][1]["content"][0]["text"] for row in talks(path)]
    assert said == ["nets", "b", None, None]
    assert [row["status"] for row in talks(path)] == ["ok", "ok", "bad_conversation", "bad_conversation"]
    assert talks(path, answers="first")[0]["messages"][1]["content"][0]["text"] == "net"
    objects = [[{"answer": one, "answer_confidence": "yes"} for one in ("a", "b", "b")]]
    path = write(tmp_path / "v2.parquet", image=[RED], question=["What?"], answers=objects)
    assert talks(path)[0]["messages"][1]["content"][0]["text"] == "b"
    path = write(tmp_path / "both.parquet", question=["What?"], answer=["own"], answers=[["a"]])
    assert talks(path)[0]["messages"][1]["content"][0]["text"] == "own"


def test_a_column_that_is_not_there_stops_the_import(tmp_path):
    path = write(tmp_path / "a.parquet", image=[RED], caption=["x"])
    with pytest.raises(InputError, match=r"no column 'CAPTION'. Columns found: image, caption"):
        photos(path, columns={"alt_text": "CAPTION"})


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz"])
@pytest.mark.parametrize("rows_per_slice", [1, 2, 100])
def test_pictures_as_base64_in_json_lines(tmp_path, name, rows_per_slice):
    blue = "data:image/png;base64," + base64.b64encode(png("blue")).decode()
    rows = [
        {"image": base64.b64encode(png("red")).decode(), "conversations": ASKED, "caption": "r", "id": 7},
        {"image": blue, "conversations": ASKED},
        {"image": {"bytes": base64.b64encode(png("red")).decode(), "path": "x.png"}, "conversations": ASKED},
        {"conversations": TEXT, "caption": None},
        {"image": "lost.png", "conversations": ASKED, "caption": 5},
    ]
    text = json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows)) + "\n\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    made = photos(str(path), rows_per_slice=rows_per_slice)
    assert [row["import_status"] for row in made] == ["ok", "ok", "ok", "no_image", "no_image"]
    assert [row["alt_text"] for row in made] == ["r", None, None, None, "5"]
    assert made[0]["image"]["bytes"] == png("red")
    said = talks(str(path), rows_per_slice=rows_per_slice)
    assert [row["status"] for row in said] == ["ok"] * 5
    assert [row["image_keys"] for row in said] == [
        [made[0]["key"]],
        [made[1]["key"]],
        [made[2]["key"]],
        [],
        [made[4]["key"]],
    ]


def test_lists_of_pictures_in_json_lines(tmp_path):
    one = base64.b64encode(png("red")).decode()
    rows = [
        {
            "images": [one, one],
            "messages": [{"role": "user", "content": "<image><image>\nq"}, {"role": "assistant", "content": "a"}],
        }
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, [*rows, {"images": [], "messages": rows[0]["messages"][1:]}])))
    assert [row["key"] for row in photos(str(path))] == ["a/000000000/0", "a/000000000/1", "a/000000001"]
    assert talks(str(path))[0]["image_keys"] == ["a/000000000/0", "a/000000000/1"]


def test_json_that_is_broken_is_named_with_its_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"image": "x", "conversations": []}\n{"image": \n')
    with pytest.raises(InputError, match=r"a\.jsonl:2: this is not JSON"):
        photos(str(path))
    path.write_text('{"picture": "x"}\n')
    with pytest.raises(InputError, match=r"no column .image. with pictures"):
        photos(str(path))
