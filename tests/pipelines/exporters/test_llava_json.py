"""LLaVA's JSON in, the same JSON out."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.exporters.names import inside
from schemas import Dataset
from tests.pipelines.exporting import export, photos, picture, talks, tree


def said(*turns: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(turns)]


ROWS = [
    {"id": "000000000001", "image": "coco/1.jpg", "conversations": said("<image>\nWhat?", "A cat.")},
    {"id": 2, "conversations": said("Hello", "Hi. <image> is a word."), "model": ""},
    {"id": "000000000001", "image": "coco/1.jpg", "conversations": said("Where?\n<image>", "é")},
    {"image": ["coco/1.jpg", "vg/2"], "conversations": said("<image><image>Both?", "No."), "n": None},
    {"id": 1.5, "image": "vg/2", "conversations": [{"from": "user", "value": "<image>"}], "tags": [1, {"a": True}]},
]
PICTURES = {"coco/1.jpg": picture(1), "vg/2": picture(2, "PNG"), "coco/3.jpg": picture(3)}


@pytest.fixture
def made(tmp_path):
    (tmp_path / "in.json").write_text(json.dumps(ROWS))
    return talks(tmp_path / "talks", tmp_path / "in.json"), photos(tmp_path / "photos", PICTURES)


def read(folder: Path, name: str = "llava.json") -> list:
    return json.loads((folder / name).read_text())


def test_rows_come_back_as_they_were_with_their_pictures(tmp_path, made):
    done = export(made[0], tmp_path / "out", "llava_json", made[1])
    assert json.dumps(read(tmp_path / "out"), sort_keys=True) == json.dumps(ROWS, sort_keys=True)
    assert (done.rows, done.exported, done.left_out, done.notes) == (5, 5, {}, ())
    found = tree(tmp_path / "out" / "images")
    assert found == {name: PICTURES[name] for name in ("coco/1.jpg", "vg/2")}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "images", "llava.json"]


def test_what_is_exported_can_be_imported_and_exported_again(tmp_path, made):
    export(made[0], tmp_path / "out", "llava_json", made[1])
    again = talks(tmp_path / "again", tmp_path / "out" / "llava.json")
    export(again, tmp_path / "out2", "llava_json", made[1])
    assert (tmp_path / "out2" / "llava.json").read_bytes() == (tmp_path / "out" / "llava.json").read_bytes()


def test_without_images_the_text_is_written_and_that_is_said(tmp_path, made):
    done = export(made[0], tmp_path / "out", "llava_json")
    assert read(tmp_path / "out") == ROWS
    assert not (tmp_path / "out" / "images").exists()
    assert "pictures were not copied" in done.notes[0]


def test_files_of_a_size_hold_all_rows_in_order(tmp_path, made):
    done = export(made[0], tmp_path / "out", "llava_json", made[1], shard_size=300)
    assert done.files == ["llava-00000.json", "llava-00001.json", "llava-00002.json"]
    assert [row for name in done.files for row in read(tmp_path / "out", name)] == ROWS


def test_rows_that_cannot_be_used_are_counted(tmp_path):
    rows = [
        ROWS[0],
        {"id": "x", "conversations": [{"from": "dog", "value": "woof"}]},
        {**ROWS[0], "image": "coco/none.jpg"},
        {**ROWS[0], "image": "lost.jpg"},
        ROWS[1],
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = talks(tmp_path / "talks", tmp_path / "in.jsonl")
    done = export(made, tmp_path / "out", "llava_json", photos(tmp_path / "photos", {**PICTURES, "lost.jpg": None}))
    assert read(tmp_path / "out") == [ROWS[0], ROWS[1]]
    assert done.left_out == {"download=timeout": 1, "image_missing": 1, "import=bad_conversation": 1}
    assert json.loads((tmp_path / "out" / "export.json").read_text())["left_out"] == done.left_out


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("../../etc/passwd", "etc/passwd"),
        ("/etc/ssh/key", "etc/ssh/key"),
        ("a//./b/../c.jpg", "a/b/c.jpg"),
        ("..\\..\\a.jpg", "a.jpg"),
        ("a\0b\n.jpg", "a_b_.jpg"),
        ("https://example.org/a.jpg?x=1", "https:/example.org/a.jpg?x=1"),
        ("..", "picture"),
        ("", "picture"),
        ("ä" * 300 + ".jpg", "ä" * 88 + "-bf7721a4.jpg"),
    ],
)
def test_names_stay_inside_the_folder(name, expected):
    assert inside(name) == expected


@given(st.text(max_size=30))
def test_no_name_leads_out(name):
    parts = inside(name).split("/")
    assert all(part not in ("", ".", "..") and len(part.encode(errors="replace")) <= 255 for part in parts)


def test_names_that_lead_out_or_clash_are_changed_and_rows_follow(tmp_path):
    """`a` is a file where `a/b.jpg` needs a folder; two keys become one name."""
    pictures = {"../evil.jpg": picture(1), "evil.jpg": picture(2), "a": picture(3), "a/b.jpg": picture(4)}
    rows = [{"image": name, "conversations": ROWS[0]["conversations"]} for name in pictures]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    made = talks(tmp_path / "talks", tmp_path / "in.json")
    done = export(made, tmp_path / "deep" / "out", "llava_json", photos(tmp_path / "photos", pictures))
    written = read(tmp_path / "deep" / "out")
    root = tmp_path / "deep" / "out" / "images"
    assert [(root / row["image"]).read_bytes() for row in written] == list(pictures.values())
    assert [row["image"] for row in written][::2] == ["evil.jpg", "a"]
    assert len(tree(root)) == 4
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["out"]
    assert "3 pictures were renamed" in done.notes[0]
    kept = json.loads((tmp_path / "deep" / "out" / "export.json").read_text())["memory"]
    assert [one["picture"] for one in kept["examples"]] == ["../evil.jpg", "evil.jpg", "a/b.jpg"]


def test_a_picture_that_has_an_address_is_named_by_its_file(tmp_path):
    """Readers take an address for something to fetch, so `https://...` would be no picture of the folder."""
    pictures = {"https://a.test/1.jpg": picture(1), "https://a.test/2?x=1": picture(2, "PNG")}
    rows = [{"image": [*pictures], "conversations": ROWS[3]["conversations"]}]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    made = talks(tmp_path / "talks", tmp_path / "in.json")
    done = export(made, tmp_path / "out", "llava_json", photos(tmp_path / "photos", pictures))
    (row,) = read(tmp_path / "out")
    assert row["image"] == ["https:/a.test/1.jpg", "https:/a.test/2?x=1.png"]
    assert [(tmp_path / "out" / "images" / name).read_bytes() for name in row["image"]] == list(pictures.values())
    assert "2 pictures were renamed" in done.notes[0]


def test_generated_rows_have_their_key_as_id_and_pictures_an_ending(tmp_path):
    made = Dataset.open(Path(__file__).parent.parent.parent / "golden" / "conversations-1.0")
    export(made, tmp_path / "out", "llava_json", photos(tmp_path / "photos", {"a": picture(1, "PNG")}))
    (row,) = read(tmp_path / "out")
    assert (row["id"], row["image"]) == ("a/detail", "a.png")
    assert list(tree(tmp_path / "out" / "images")) == ["a.png"]


def test_a_mix_is_exported_with_the_names_that_its_pictures_had(tmp_path):
    golden = Path(__file__).parent.parent.parent / "golden"
    export(Dataset.open(golden / "samples-1.1"), tmp_path / "out", "llava_json")
    first, second = read(tmp_path / "out")
    assert (first["id"], first["model"], first["image"]) == (5, "", "talks/a/detail.png")
    assert second == {"id": "talks/text", "conversations": [{"from": "gpt", "value": "One red pixel."}]}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
NAMES = ["a.jpg", "b/c.png", "b/d", "e é.jpg"]


@st.composite
def row(draw):
    names = draw(st.lists(st.sampled_from(NAMES), max_size=2))
    before, after = draw(TEXT.filter(lambda text: "<image>" not in text)), draw(TEXT)
    asked = before + "<image>" * len(names) + after.replace("<image>", "")
    found = draw(st.dictionaries(st.sampled_from(["id", "model", "score", "question", "b"]), VALUE, max_size=3))
    if names:
        found["image"] = names[0] if len(names) == 1 and draw(st.booleans()) else names
    turns = [
        {"from": "human", "value": asked},
        {"from": draw(st.sampled_from(["gpt", "assistant"])), "value": draw(TEXT)},
    ]
    return {**found, "conversations": turns}


@settings(max_examples=12, deadline=None)
@given(st.lists(row(), min_size=1, max_size=6))
def test_any_rows_come_back_equal_and_in_order(rows):
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "in.json").write_text(json.dumps(rows))
        images = photos(
            folder / "photos", {name: picture(n) for n, name in enumerate(["a.jpg", "b/c.png", "b/d", "e é.jpg"])}
        )
        done = export(talks(folder / "talks", folder / "in.json", 2), folder / "out", "llava_json", images)
        assert done.left_out == {}
        assert json.dumps(read(folder / "out"), sort_keys=True) == json.dumps(rows, sort_keys=True)
    finally:
        shutil.rmtree(folder)
