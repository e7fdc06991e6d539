"""A row of LLaVA's JSON is written again as it was, from what an import stores of it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.chat.as_written import as_written, id_and_extra
from schemas.chat.llava_json import from_llava
from schemas.errors import InputError

ASKED = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]
SAID = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi."}]


def stored(row):
    messages, images = from_llava(row)
    return messages, images, *id_and_extra(row, messages, images)


def again(row):
    messages, images, id, extra = stored(row)
    return as_written(messages, images, "the key", id, extra)


@pytest.mark.parametrize(
    ("row", "id", "extra"),
    [
        ({"id": "000000033471", "image": "coco/a.jpg", "conversations": ASKED}, "000000033471", {}),
        ({"conversations": SAID}, None, {}),
        ({"id": 5, "conversations": SAID}, "5", {"id": 5}),
        ({"id": None, "conversations": SAID}, None, {"id": None}),
        ({"id": "", "conversations": SAID, "model": "", "n": None}, "", {"model": "", "n": None}),
        ({"id": "a", "conversations": SAID, "score": 1.0, "tags": [1, "x"]}, "a", {"score": 1.0, "tags": [1, "x"]}),
        ({"conversations": SAID, "question": "kept"}, None, {"question": "kept"}),
        ({"image": ["a.jpg"], "conversations": ASKED}, None, {"image": ["a.jpg"]}),
        ({"images": ["a.jpg"], "conversations": ASKED}, None, {"images": ["a.jpg"]}),
        ({"system": "Be brief.", "conversations": SAID}, None, {"system": "Be brief."}),
        ({"conversations": [{"from": "system", "value": "s"}, *SAID]}, None, {}),
        (
            {"conversations": [{"from": "user", "value": "Hello"}, {"from": "gpt", "value": "Hi.", "markdown": True}]},
            None,
            {"conversations": [{"from": "user"}, {"markdown": True}]},
        ),
        (
            {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>What?"}, ASKED[1]]},
            None,
            {"conversations": [{"value": "<image>What?"}, None]},
        ),
        ({"image": "a.jpg", "conversations": [{"from": "human", "value": "What?\n<image>"}, ASKED[1]]}, None, {}),
        ({"id": "\ud800", "conversations": SAID, "t": "\udc00"}, "\\ud800", {"id": "\ud800", "t": "\udc00"}),
    ],
)
def test_what_a_row_leaves_over(row, id, extra):
    kept = stored(row)
    assert (kept[2], json.loads(kept[3])) == (id, extra)
    kept[3].encode()
    assert again(row) == row
    assert repr(again(row).get("id")) == repr(row.get("id"))  # 5 stays a number


@pytest.mark.parametrize("empty", [None, "", []])
def test_a_row_without_a_picture_is_written_without_the_key(empty):
    assert again({"id": "a", "image": empty, "conversations": SAID}) == {"id": "a", "conversations": SAID}


def test_other_shapes_are_written_as_llava_with_their_other_keys():
    row = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}], "score": 2}
    assert again(row) == {"conversations": SAID, "score": 2}
    assert again({"query": "Hello", "response": "Hi.", "history": []}) == {"conversations": SAID}
    assert again({"conversations": row["messages"], "source": "s"}) == {"conversations": SAID, "source": "s"}


def test_changed_messages_are_written_and_other_keys_stay():
    row = {
        "id": "a",
        "image": ["a.jpg"],
        "conversations": [{"from": "user", "value": "<image>What?"}, ASKED[1]],
        "score": 2,
    }
    messages, images, id, extra = stored(row)
    messages[0]["content"][1]["text"] = "Why?"
    assert as_written(messages, images, "k", id, extra) == {
        "id": "a",
        "image": "a.jpg",
        "conversations": [{"from": "human", "value": "<image>\nWhy?"}, ASKED[1]],
        "score": 2,
    }


@pytest.mark.parametrize("written", ["./coco//a.jpg", "coco\\a.jpg", "/data/coco/a.jpg", "x/../coco/a.jpg"])
def test_a_name_that_an_import_cleaned_is_written_as_it_was(written):
    row = {"image": written, "conversations": ASKED}
    messages, _ = from_llava(row)
    id, extra = id_and_extra(row, messages, ["coco/a.jpg"])
    assert as_written(messages, ["coco/a.jpg"], "k", id, extra) == row
    assert as_written(messages, ["b.jpg"], "k", id, extra) == {"image": "b.jpg", "conversations": ASKED}


def test_a_row_that_no_json_brought_has_its_key_as_id():
    messages, _ = from_llava({"conversations": SAID})
    assert as_written(messages, [], "photos/3/detail") == {"id": "photos/3/detail", "conversations": SAID}


@pytest.mark.parametrize(("extra", "words"), [("{", "expected a JSON object"), ("[1]", "expected a JSON object")])
def test_an_extra_that_is_no_object_is_refused(extra, words):
    with pytest.raises(InputError, match=f"row 'k'.*{words}"):
        as_written(from_llava({"conversations": SAID})[0], [], "k", None, extra)


def test_a_role_without_a_speaker_is_refused():
    with pytest.raises(InputError, match=r"row 'k': a message of role 'tool'"):
        as_written([{"role": "tool", "content": [{"type": "text", "text": "x"}]}], [], "k")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def rows(draw):
    speakers = draw(st.lists(st.sampled_from(["human", "gpt", "user", "assistant", "system"]), min_size=1, max_size=4))
    values = [draw(TEXT) for _ in speakers]
    for _ in range(draw(st.integers(0, 2))):
        turn = draw(st.integers(0, len(values) - 1))
        at = draw(st.integers(0, len(values[turn])))
        shown = draw(st.sampled_from(["<image>", "<image>\n", "\n<image>"]))
        values[turn] = values[turn][:at] + shown + values[turn][at:]
    shown = sum(value.count("<image>") for value in values)
    names = [f"folder/{number}.jpg" for number in range(shown)]
    turns = [
        {"from": speaker, "value": value} | draw(st.dictionaries(TEXT, VALUES, max_size=1))
        for speaker, value in zip(speakers, values, strict=True)
    ]
    row = draw(st.dictionaries(TEXT, VALUES, max_size=3))
    if draw(st.booleans()):
        row["id"] = draw(VALUES)
    if names:
        row["image"] = names[0] if len(names) == 1 and draw(st.booleans()) else names
    return row | {"conversations": turns}


@given(rows())
def test_every_row_that_can_be_read_is_written_as_it_was(row):
    try:
        messages, images = from_llava(row)
    except InputError:
        return
    id, extra = id_and_extra(row, messages, images)
    if row.get("image") in (None, "", []):
        row.pop("image", None)
    assert json.dumps(as_written(messages, images, "k", id, extra), sort_keys=True) == json.dumps(row, sort_keys=True)
