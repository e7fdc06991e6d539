"""Counting tokens without making them gives what encoding gives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.chat import ImageRule, Tokenizer, count, encode, get_template, learn
from schemas.chat.wordcache import WordCache, end_of_word, start_of_word
from schemas.errors import InputError
from tests.schemas.chat.conftest import load

PAIRS = [
    ("llama2_slow_legacyF", "v1"),
    ("llama2_slow_legacyF", "plain"),
    ("llama2_slow_legacyT", "v1"),
    ("llama2_slow_legacyT", "llama_2"),
    ("mistral", "mistral"),
    ("llama3", "llama_3"),
    ("qwen2", "qwen"),
    ("llama2_slow_legacyF_chatml", "chatml"),
]
TEXTS = st.text(alphabet="ab .\n\t\u2581\u00e9\u4e00</s>", max_size=12) | st.sampled_from(
    ["", " ", "  a", "a  ", "word ", " \n", "USER: ASSISTANT: ", "\u2581", "a\u2581 b", "</s>", "\U0001f600 x"]
)
RULE = ImageRule("square", 28, 14)


def talk(texts: list[str], picture: bool) -> list[dict]:
    messages = []
    for number, text in enumerate(texts):
        parts = [{"type": "image", "text": None}] if picture and not number else []
        role = "user" if number % 2 == 0 else "assistant"
        messages.append({"role": role, "content": [*parts, {"type": "text", "text": text}]})
    return messages


@pytest.mark.parametrize(("name", "template"), PAIRS)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=6), picture=st.booleans())
def test_counts_are_those_of_the_encoded_row(name: str, template: str, texts: list[str], picture: bool) -> None:
    messages, sizes = talk(texts, picture), [(30, 20)] if picture else []
    tokenizer, chosen = load(name), get_template(template)
    try:
        expected = encode(messages, sizes, chosen, tokenizer, RULE)
    except InputError as error:
        with pytest.raises(InputError) as raised:
            count(messages, sizes, chosen, tokenizer, RULE)
        assert str(raised.value) == str(error)
        return
    found = count(messages, sizes, chosen, tokenizer, RULE)
    assert found == (expected.tokens, expected.image_tokens, expected.supervised)


@given(st.text(alphabet="ab \u2581", max_size=8), st.integers(min_value=0, max_value=8))
def test_a_word_around_a_place_is_one_of_the_words_of_the_text(text: str, place: int) -> None:
    starts, at = [], 0
    while at < len(text):
        starts.append(at)
        at = end_of_word(text, at)
    assert at == len(text)
    if place < len(text):
        assert start_of_word(text, place) == max(start for start in starts if start <= place)


def test_words_are_counted_again_when_too_many_were_remembered(llama: Tokenizer, monkeypatch) -> None:
    monkeypatch.setattr("schemas.chat.wordcache.COUNTED_ROOM", 3)
    words = WordCache(llama.words.backend)
    text = "one two three four five"
    assert words.number(f" {text}") == len(words.encode(f" {text}", None).ids)
    learn([text, "six seven"], llama)
    assert words.number(" six one") == len(words.encode(" six one", None).ids)
