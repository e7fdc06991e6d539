"""Words as the original's samplers count them."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.chat.llava_json import from_llava, to_llava
from schemas.chat.words import word_counts
from schemas.records import CONVERSATIONS

MESSAGES = CONVERSATIONS.field("messages").type
IMAGE = {"type": "image", "text": None}


def said(text):
    return {"type": "text", "text": text}


def original_length(row):
    """`modality_lengths` of haotian-liu/LLaVA c121f04, llava/train/train.py, without the sign."""
    return sum(len(turn["value"].split()) for turn in row["conversations"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("<image>\nWhat is this?", "A cat."), 6),
        (("What is in <image>?", "Nothing."), 5),
        (("left:<image> right:<image>.", "a  b\n c"), 5),
        (("<image>\n<image>\nCompare.", ""), 3),
        (("<image>", "\u00a0one\u3000two\u2009three \x1f four\x85"), 5),
        (("", ""), 0),
    ],
)
def test_words_of_llava_rows_are_the_originals(values, words):
    turns = [{"from": speaker, "value": value} for speaker, value in zip(("human", "gpt"), values, strict=True)]
    row = {"image": "a.jpg", "conversations": turns}
    messages, _ = from_llava(row, strict=False)
    assert original_length(row) == words
    assert word_counts(pa.array([messages], MESSAGES)).tolist() == [words]


def test_a_picture_that_opens_a_turn_is_a_word_of_its_own():
    glued = [{"role": "user", "content": [IMAGE, IMAGE, said("What is"), IMAGE, said("?")]}]
    assert to_llava(glued, ["a", "b", "c"])["conversations"][0]["value"] == "<image>\n<image>\nWhat is<image>?"
    assert word_counts(pa.array([glued], MESSAGES)).tolist() == [4]


PARTS = st.lists(st.just(IMAGE) | st.text(" \nab\u3000.", max_size=4).map(said), max_size=5)
ROWS = st.lists(st.lists(PARTS, max_size=4), min_size=1, max_size=6)


@given(rows=ROWS, start=st.integers(0, 2))
@settings(max_examples=150, deadline=None)
def test_any_rows_count_as_they_would_be_written(rows, start):
    made = [[{"role": "user", "content": parts} for parts in row] for row in rows]
    written = [original_length(to_llava(messages)) for messages in made]
    assert word_counts(pa.array(made, MESSAGES)[start:]).tolist() == written[start:]
