"""Conversations inside tar archives, and the keys of the pictures beside them."""

import pytest

from pipelines.importers.webdataset import WebDataset, WebDatasetConfig
from pipelines.importers.webdataset_chat import WebDatasetChat, WebDatasetChatConfig
from tests.pipelines.importers.archives import all_rows, archive, png


def said(question, **row):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": "It."}], **row}


SAMPLES = [
    ("000.png", png("red")),
    ("000.json", said("<image>\nWhat?", id="x", image="coco/x.jpg", source="coco")),
    ("001.json", said("Hello")),
    ("002.png", png("red")),
    ("002.json", said("<image>\nWhat?")["conversations"]),
    ("003.0.png", png("red")),
    ("003.1.png", png("red")),
    ("003.json", said("<image><image>Same?")),
    ("004.0.png", png("red")),
    ("004.1.png", png("red")),
    ("004.json", said("<image><image>Same?", image=["1.png", "0.png"])),
    ("005.json", said("<image>\nWhat?")),
    ("006.json", said("Hello", image="lost.jpg")),
    ("007.png", png("red")),
    ("007.json", said("Hello")),
    ("008.png", png("red")),
    ("009.json", b"{"),
    ("010.json", said("<video>\nWhat?", video="a.mp4")),
]


@pytest.mark.parametrize("rows_per_slice", [1, 4, 100])
def test_a_sample_is_a_conversation_about_its_own_pictures(tmp_path, rows_per_slice):
    path = str(archive(tmp_path / "s.tar", SAMPLES))
    rows = all_rows(WebDatasetChat(WebDatasetChatConfig(path=path, rows_per_slice=rows_per_slice)))
    pictures = {row["key"] for row in all_rows(WebDataset(WebDatasetConfig(path=path))) if row["image"]}
    assert [(row["key"], row["image_keys"], row["status"]) for row in rows] == [
        ("s/000", ["s/000"], "ok"),
        ("s/001", [], "ok"),
        ("s/002", ["s/002"], "ok"),
        ("s/003", ["s/003.0.png", "s/003.1.png"], "ok"),
        ("s/004", ["s/004.1.png", "s/004.0.png"], "ok"),
        ("s/005", [], "bad_conversation"),
        ("s/006", [], "no_image"),
        ("s/007", ["s/007"], "bad_conversation"),
        ("s/008", ["s/008"], "bad_conversation"),
        ("s/009", [], "bad_conversation"),
        ("s/010", [], "bad_conversation"),
    ]
    assert {key for row in rows for key in row["image_keys"]} == pictures
    assert (rows[0]["source"], rows[1]["source"]) == ("coco", None)
    assert rows[5]["detail"].startswith("row s/005: <image> is in its text")
    assert rows[8]["detail"] == "row s/008: the sample has no json file, but png"


def test_the_importer_of_pictures_says_that_there_are_conversations(tmp_path):
    made = WebDataset(WebDatasetConfig(path=str(archive(tmp_path / "s.tar", SAMPLES[:2]))))
    made.slices()
    assert made.notes() == [
        "conversations (`conversations` in json files) are not kept here: `lavabeam import webdataset_chat`."
    ]
