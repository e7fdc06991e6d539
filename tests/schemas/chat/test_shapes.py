"""Conversations as people publish them: what is read, and what is refused with its reason."""

import pytest

from schemas.chat.llava_json import from_llava
from schemas.chat.shapes import unread_keys
from schemas.errors import InputError

ASKED = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It."}]
IMAGE = {"type": "image", "text": None}


def text(content):
    return {"type": "text", "text": content}


def said(*turns):
    """Messages of alternating speakers; a list is a message's parts."""
    return [
        {"role": ("user", "assistant")[number % 2], "content": turn if isinstance(turn, list) else [text(turn)]}
        for number, turn in enumerate(turns)
    ]


SHOWN = said([IMAGE, text("\nWhat?")], "It.")
ONE_LINE = said([IMAGE, text("What?")], "It.")


@pytest.mark.parametrize(
    ("row", "messages", "images"),
    [
        ({"image": "a.jpg", "conversations": ASKED}, SHOWN, ["a.jpg"]),
        ({"image": ["a.jpg"], "conversations": ASKED}, SHOWN, ["a.jpg"]),
        ({"images": ["a.jpg"], "conversations": ASKED}, SHOWN, ["a.jpg"]),
        ({"image": "", "images": "a.jpg", "conversations": ASKED}, SHOWN, ["a.jpg"]),
        ({"image": {"path": "a.jpg", "bytes": None}, "conversations": ASKED}, SHOWN, ["a.jpg"]),
        ({"image": "https://a/b.jpg", "conversations": ASKED}, SHOWN, ["https://a/b.jpg"]),
        (
            {"image": ["a", "b"], "conversations": [{"from": "human", "value": "<image><image>Same?"}, ASKED[1]]},
            said([IMAGE, IMAGE, text("Same?")], "It."),
            ["a", "b"],
        ),
        (
            {
                "image": "a",
                "conversations": [
                    {"role": "user", "content": "<image>What?"},
                    {"role": "assistant", "content": "It."},
                ],
            },
            ONE_LINE,
            ["a"],
        ),
        (
            {
                "images": ["a"],
                "messages": [
                    {"role": "user", "content": "<image>What?"},
                    {"role": "assistant", "content": "It."},
                ],
            },
            ONE_LINE,
            ["a"],
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": "a.jpg"}},
                            {"type": "text", "text": "What?"},
                        ],
                    },
                    {"role": "assistant", "content": "It."},
                ]
            },
            ONE_LINE,
            ["a.jpg"],
        ),
        (
            {
                "images": ["a"],
                "messages": [
                    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
                    {"role": "assistant", "content": [{"type": "text", "text": "It."}]},
                ],
            },
            ONE_LINE,
            ["a"],
        ),
        ({"query": "<image>What?", "response": "It.", "images": ["a"]}, ONE_LINE, ["a"]),
        (
            {"query": "And?", "response": "So.", "history": [["Hi", "Yo"]]},
            said("Hi", "Yo", "And?", "So."),
            [],
        ),
        ({"image": "a", "question": "What?", "answer": "It."}, SHOWN, ["a"]),
        (
            {
                "images": ["a", "b"],
                "texts": [{"user": "Same?", "assistant": "No."}, {"user": "Why?", "assistant": "So."}],
            },
            said([IMAGE, text("\n"), IMAGE, text("\nSame?")], "No.", "Why?", "So."),
            ["a", "b"],
        ),
        ({"instruction": "Sort", "input": "b a", "output": "a b"}, said("Sort\nb a", "a b"), []),
        ({"instruction": "Hi", "input": "", "output": "Yo"}, said("Hi", "Yo"), []),
        ({"instruction": "What?", "output": "It.", "image": "a"}, SHOWN, ["a"]),
        ({"query": "What?", "response": "It.", "images": ["a"]}, SHOWN, ["a"]),
        (
            {"query": "And?", "response": "So.", "history": [["What?", "It."]], "images": ["a"]},
            said([IMAGE, text("\nWhat?")], "It.", "And?", "So."),
            ["a"],
        ),
        (
            {"query": "<img>a.jpg</img><img>b.jpg</img>Same?", "response": "No."},
            said([IMAGE, IMAGE, text("Same?")], "No."),
            ["a.jpg", "b.jpg"],
        ),
        (
            {
                "conversations": [
                    {"from": "user", "value": "Picture 1: <img>a.jpg</img>\nWhat?"},
                    {"from": "assistant", "value": "<img>b</img>"},
                ]
            },
            said([text("Picture 1: "), IMAGE, text("\nWhat?")], "<img>b</img>"),
            ["a.jpg"],
        ),
        (
            {"system": "Be brief.", "conversation": [{"human": "Hi", "assistant": "Yo"}]},
            [{"role": "system", "content": [text("Be brief.")]}, *said("Hi", "Yo")],
            [],
        ),
        ({"prompt": "What?", "completion": "It.", "image": "a"}, SHOWN, ["a"]),
        (
            {
                "prompt": [{"role": "user", "content": "What?"}],
                "completion": [{"role": "assistant", "content": "It."}],
                "images": ["a"],
            },
            SHOWN,
            ["a"],
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "What?"},
                    {"role": "assistant", "content": "It."},
                ],
                "images": [{"path": "a", "bytes": None}],
            },
            [{"role": "system", "content": [text("Be brief.")]}, *SHOWN],
            ["a"],
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "value": "a"}, {"type": "text", "value": "What?"}],
                    },
                    {"role": "assistant", "content": [{"type": "text", "value": "It."}]},
                ]
            },
            ONE_LINE,
            ["a"],
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "input_image", "image_url": "a"},
                            {"type": "input_text", "text": "What?"},
                        ],
                    },
                    {"role": "assistant", "content": [{"type": "output_text", "text": "It."}]},
                ]
            },
            ONE_LINE,
            ["a"],
        ),
        (
            {
                "images": ["a"],
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image", "text": None, "image_url": None},
                            {"type": "text", "text": "What?", "image_url": None},
                        ],
                    },
                    {"role": "assistant", "content": [{"type": "text", "text": "It.", "image_url": None}]},
                ],
            },
            ONE_LINE,
            ["a"],
        ),
        ({"image": None, "conversations": [{"from": "human", "value": "Hi"}, ASKED[1]]}, said("Hi", "It."), []),
        ({"image": "", "conversations": [{"from": "human", "value": "Hi"}, ASKED[1]]}, said("Hi", "It."), []),
        (
            {"system": "Be brief.", "image": "a", "conversations": ASKED},
            [{"role": "system", "content": [text("Be brief.")]}, *SHOWN],
            ["a"],
        ),
        (
            {"system_prompt": "Be brief.", "query": "Hi", "response": "Yo"},
            [{"role": "system", "content": [text("Be brief.")]}, *said("Hi", "Yo")],
            [],
        ),
        (
            {"system": "Other.", "conversations": [{"from": "system", "value": "Be brief."}, *ASKED], "image": "a"},
            [{"role": "system", "content": [text("Be brief.")]}, *SHOWN],
            ["a"],
        ),
    ],
)
def test_shapes_that_are_read(row, messages, images):
    assert from_llava(row) == (messages, images)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"video": "a.mp4", "conversations": ASKED}, "row: it has 'video', which is not trained on here"),
        ({"audio": "a.wav", "query": "Hi", "response": "Yo"}, "it has 'audio'"),
        ({"img": "a.jpg", "conversations": ASKED}, "its picture is named in 'img'.* Rename the key to `image`"),
        ({"image_path": "a.jpg", "conversations": ASKED}, "named in 'image_path'"),
        ({"conversations": ASKED}, "<image> is in its text"),
        ({"conversations": [{"from": "human", "value": "<video>\nWhat?"}, ASKED[1]]}, "<video> is in its text"),
        ({"image": "a", "conversations": [{"from": "human", "value": "What?"}, ASKED[1]]}, "1 images and 0 <image>"),
        ({"image": "data:image/png;base64,iVBO", "conversations": ASKED}, "a data URL"),
        ({"image": "a", "conversatons": ASKED}, "no list `conversations`"),
        ({"messages": [{"role": "user"}]}, "turn 0 is {'role': 'user'}"),
        ({"messages": [{"role": "tool", "content": "1"}]}, "turn 0 is from 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "a part of a message is {'type': 'video'}"),
        ({"query": "Hi", "response": None}, "turn 1 is None"),
        ({"query": "Hi", "response": "Yo", "history": ["Hi"]}, "history is"),
        ({"texts": [{"user": "Hi"}]}, "texts 0 is"),
        ({"conversation": [{"human": "Hi"}]}, "conversation 0 is"),
        ({"prompt": "Hi"}, "no list `conversations` "),
        (
            {"images": ["a", "b"], "query": "<image>What?", "response": "It."},
            "2 images and 1 <image> in its conversations",
        ),
    ],
)
def test_rows_that_would_be_trained_on_without_what_they_show_are_refused(row, message):
    with pytest.raises(InputError, match=message):
        from_llava(row)


def test_a_placeholder_in_an_answer_is_text():
    messages, _ = from_llava(
        {"conversations": [{"from": "human", "value": "Which tag?"}, {"from": "gpt", "value": "<image>"}]}
    )
    assert messages == said("Which tag?", "<image>")


def test_keys_with_a_value_that_is_left_behind_are_named():
    row = {"id": 1, "conversations": ASKED, "image": "a", "model": "", "score": 0.5, "tags": [], "source": "x"}
    assert unread_keys(row) == {"score", "source"}
