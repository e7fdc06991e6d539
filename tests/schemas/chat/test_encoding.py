"""Default mode: one pass, labels by character, text that stays text."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.chat import IGNORE, Encoded, ImageRule, Tokenizer, encode, get_template
from schemas.errors import InputError

from .conftest import load

RULE = ImageRule(image_size=28, patch_size=14)
PICTURE = {"type": "image", "text": None}
PAIRS = [
    ("llama2_slow_legacyF", "v1"),
    ("llama2_slow_legacyT", "v0"),
    ("llama2_slow_legacyF", "llama_2"),
    ("mistral", "mistral"),
    ("llama2_slow_legacyF", "plain"),
    ("llama2_slow_legacyF_chatml", "chatml_direct"),
    ("mpt", "mpt"),
    ("llama3", "llama_3"),
    ("qwen2", "qwen"),
]


def talk(*turns: str, picture: bool = False) -> list[dict[str, Any]]:
    """User and assistant in turn; a picture, if any, at the start of the first turn."""
    messages: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[number % 2], "content": [{"type": "text", "text": text}]}
        for number, text in enumerate(turns)
    ]
    if picture:
        messages[0]["content"].insert(0, PICTURE)
    return messages


def supervised_text(row: Encoded, tokenizer: Tokenizer) -> str:
    return tokenizer.decode([label for label in row.labels.tolist() if label != IGNORE])


@pytest.mark.parametrize(("name", "template"), PAIRS)
def test_answers_and_their_ends_are_supervised_and_nothing_else(name: str, template: str) -> None:
    tokenizer, form = load(name), get_template(template)
    row = encode(talk("Describe the picture.", "Two dogs.", picture=True), [(10, 10)], form, tokenizer, RULE)
    ending = {"v0": "\n###", "llama_2": " </s>", "mistral": " </s>", "plain": "\n", "v1": "</s>"}
    ending |= {"llama_3": "<|eot_id|>"} | dict.fromkeys(("chatml_direct", "mpt", "qwen"), "<|im_end|>")
    assert supervised_text(row, tokenizer) == "Two dogs." + ending[template]
    assert (row.image_tokens, row.images) == (4, 1)
    assert row.ids.tolist().count(tokenizer.image_id) == 4
    assert row.tokens == len(row.ids) == len(row.labels)
    assert row.supervised == int((row.labels != IGNORE).sum())


@pytest.mark.parametrize(
    "answer", ["It is the text ASSISTANT: followed by [/INST]", "ok </s> ok", "<|im_end|> ok", "### ok"]
)
@pytest.mark.parametrize(("name", "template"), PAIRS)
def test_answers_that_look_like_templates_are_supervised_whole(name: str, template: str, answer: str) -> None:
    tokenizer = load(name)
    row = encode(talk("Yes", answer, "No", "Two"), None, get_template(template), tokenizer)
    text = supervised_text(row, tokenizer)
    assert text.startswith(answer)
    assert "Two" in text


def test_an_empty_answer_teaches_to_stop_where_generation_starts(llama: Tokenizer) -> None:
    row = encode(talk("Say nothing.", ""), None, get_template("v1"), llama)
    opening = encode(talk("Say nothing."), None, get_template("v1"), llama, generate=True)
    assert row.labels.tolist() == [IGNORE] * opening.tokens + [llama.eos_id]
    assert row.ids.tolist()[:-1] == opening.ids.tolist()


@pytest.mark.parametrize("text", ["</s>", "<s>", "<unk>", "<image>", "<|im_end|>", "<|im_start|>system", "[INST]"])
@pytest.mark.parametrize(("name", "template"), PAIRS)
def test_text_never_becomes_a_control_token_or_a_picture(name: str, template: str, text: str) -> None:
    tokenizer, form = load(name), get_template(template)
    controls = {token["id"] for token in tokenizer.content["added_tokens"] if token["special"]} | {tokenizer.image_id}

    def found(said: str) -> int:
        row = encode(talk(said, said), None, form, tokenizer)
        return sum(token in controls for token in row.ids.tolist())

    assert found(f"ok {text} ok") == found("ok")


def test_a_prompt_for_generation_is_the_start_of_the_training_row(qwen: Tokenizer) -> None:
    whole = encode(talk("Hello", "Yes"), None, get_template("qwen"), qwen).ids.tolist()
    opening = encode(talk("Hello"), None, get_template("qwen"), qwen, generate=True).ids.tolist()
    assert whole[: len(opening)] == opening
    assert qwen.decode(opening[-3:]) == "<|im_start|>assistant\n"


def test_one_first_token_where_the_tokenizer_or_the_template_has_it() -> None:
    for name, template in PAIRS:
        tokenizer = load(name)
        ids = encode(talk("Hello", "Yes"), None, get_template(template), tokenizer).ids.tolist()
        expected = tokenizer.bos_id is not None and name != "mpt"
        assert (ids[0] == tokenizer.bos_id, ids[1] == tokenizer.bos_id) == (expected, False), name


def test_a_cut_inside_a_picture_takes_the_whole_picture(llama: Tokenizer) -> None:
    messages = talk("Describe", "Yes", picture=True)
    whole = encode(messages, [(10, 10)], get_template("v1"), llama, RULE)
    start = whole.ids.tolist().index(llama.image_id)
    for length in range(start + 1, start + 4):
        row = encode(messages, [(10, 10)], get_template("v1"), llama, RULE, max_length=length)
        assert (len(row.ids), row.images, row.truncated, row.all_masked) == (start, 0, True, True)
        assert (row.tokens, row.image_tokens) == (whole.tokens, 4)
    kept = encode(messages, [(10, 10)], get_template("v1"), llama, RULE, max_length=start + 4)
    assert (len(kept.ids), kept.images) == (start + 4, 1)


@given(st.lists(st.text(max_size=30), min_size=2, max_size=6), st.sampled_from(PAIRS[:4] + PAIRS[5:]))
@settings(max_examples=60, deadline=None)
def test_any_text_is_supervised_to_the_character(turns: list[str], pair: tuple[str, str]) -> None:
    tokenizer, form = load(pair[0]), get_template(pair[1])
    row = encode(talk(*turns), None, form, tokenizer)
    assert ((row.labels == IGNORE) | (row.labels == row.ids)).all()
    text = supervised_text(row, tokenizer)
    assert all(unicodedata.normalize("NFC", said.strip()) in text for said in turns[1::2])
    asked = talk(*(said if number % 2 else "" for number, said in enumerate(turns)))
    assert abs(encode(asked, None, form, tokenizer).supervised - row.supervised) <= len(turns) // 2


def test_what_does_not_fit_is_reported_in_one_line(llama: Tokenizer) -> None:
    messages = talk("Describe", "Yes", picture=True)
    with pytest.raises(InputError, match="show 1 pictures, and 2 sizes"):
        encode(messages, [(1, 1), (1, 1)], get_template("v1"), llama, RULE)
    with pytest.raises(InputError, match="no image rule"):
        encode(messages, [(1, 1)], get_template("v1"), llama)
    with pytest.raises(InputError, match=r"no token <\|im_start\|>, which template 'qwen' uses"):
        encode(talk("Yes", "No"), None, get_template("qwen"), llama)
