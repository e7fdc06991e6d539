"""LLaVA's rows to messages and back."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.chat import llava_json
from schemas.chat.llava_json import from_llava, to_llava
from schemas.errors import InputError

from .conftest import VECTORS


def row(*values: str, image: Any = None) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]
    return {"conversations": turns} if image is None else {"image": image, "conversations": turns}


def test_pictures_become_parts_where_they_stand() -> None:
    messages, images = from_llava(row("<image>\nWhat?", "A cat.", "And <image>?", "Dogs.", image=["a.jpg", "b.jpg"]))
    assert images == ["a.jpg", "b.jpg"]
    assert messages[0] == {
        "role": "user",
        "content": [{"type": "image", "text": None}, {"type": "text", "text": "\nWhat?"}],
    }
    assert [part["type"] for part in messages[2]["content"]] == ["text", "image", "text"]
    assert messages[3] == {"role": "assistant", "content": [{"type": "text", "text": "Dogs."}]}


def test_without_an_image_the_placeholder_is_text() -> None:
    assert from_llava(row("<image>\nWhat?", "A cat."), strict=False)[0][0]["content"] == [
        {"type": "text", "text": "<image>\nWhat?"}
    ]


def test_the_golden_rows_come_back_to_the_character() -> None:
    for line in (VECTORS / "conversations.jsonl").read_text("utf-8").splitlines():
        given_row = json.loads(line)
        source = row() | {"conversations": given_row["conversations"]}
        if given_row["has_image"]:
            source["image"] = "a.jpg"
        messages, images = from_llava(source)
        assert to_llava(messages, images) == source


@given(st.lists(st.text(max_size=20).filter(lambda text: "<image>" not in text), min_size=1, max_size=5))
def test_any_text_comes_back(values: list[str]) -> None:
    assert to_llava(from_llava(row(*values))[0]) == row(*values)


def test_a_picture_next_to_a_word_gets_a_line_of_its_own() -> None:
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
    made = to_llava([{"role": "user", "content": parts}], ["a.jpg", "b.jpg"], key="7")
    assert made == {
        "id": "7",
        "image": ["a.jpg", "b.jpg"],
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}],
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (row("What?", "A cat.", image="a.jpg"), "file.json, row 3: 1 images and 0 <image>"),
        (row("<image>\n<image>", "A cat.", image="a.jpg"), "1 images and 2 <image>"),
        ({"talk": []}, r"no list `conversations` \(keys \['talk'\]\)"),
        ({"conversations": "Hi"}, "no list `conversations`, but str"),
        ([], "list; expected a row of LLaVA's JSON format"),
        ({"conversations": [{"from": "bot", "value": "Hi"}]}, "turn 0 is from 'bot'; expected human or gpt"),
        ({"conversations": [{"from": "human", "value": None}]}, "turn 0 is"),
        ({"conversations": [{"from": "human", "value": "Hi"}], "image": 3}, "image is 3"),
        ({"conversations": []}, "its `conversations` are empty"),
        ({"conversations": [{"from": "human", "value": "\ud83d"}]}, "turn 0 has an unpaired surrogate"),
        (row("<image>\nWhat?", "A cat."), "<image> is in its text, and the row names nothing"),
    ],
)
def test_other_shapes_are_refused_by_row(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_llava(source, "file.json, row 3")


ODD = st.sampled_from(["human", "gpt", "user", "dog", "system", None, 3, ["gpt"]])
TEXTS = st.lists(
    st.sampled_from(["<image>", "\n", "a", "<video>", "<img>b.jpg</img>", "é", "\ud83d", "<"]), max_size=3
).map("".join)
TURN = st.fixed_dictionaries({"from": ODD, "value": TEXTS | st.none()}) | st.just({"from": "gpt"}) | st.just("text")
ROWS = st.fixed_dictionaries(
    {"conversations": st.lists(TURN, max_size=4) | st.none()},
    optional={
        "id": st.integers(),
        "image": st.sampled_from(["a.jpg", "", None, ["a.jpg"], [], "data:image/png", 3, {"path": "b.jpg"}]),
        "images": st.sampled_from([["a.jpg"], None]),
        "img": st.just("a.jpg"),
        "video": st.sampled_from(["a.mp4", ""]),
        "system": st.just("Be brief."),
        "messages": st.just([{"role": "user", "content": "a"}]),
    },
)


@given(ROWS, st.booleans(), st.booleans())
def test_plain_rows_are_read_as_all_others_are(given_row: dict[str, Any], strict: bool, any_speaker: bool) -> None:
    def read() -> Any:
        try:
            return from_llava(given_row, "row 7", strict, any_speaker)
        except InputError as error:
            return str(error)

    fast = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llava_json, "_plain", lambda row: None)
        assert read() == fast
