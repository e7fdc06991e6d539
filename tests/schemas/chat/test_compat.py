"""Compat mode against ids and labels that the original code made."""

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.chat import IGNORE, ORIGINAL_IMAGE, encode, get_template
from schemas.chat.compat import encode_like_original, original_job
from schemas.chat.llava_json import from_llava
from schemas.errors import InputError

from .conftest import VECTORS, load

CONVERSATIONS = {
    row["conv_id"]: row for row in map(json.loads, (VECTORS / "conversations.jsonl").read_text("utf-8").splitlines())
}


def originals() -> list[Any]:
    cases = []
    for line in (VECTORS / "originals.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        name = "-".join((row["compat"], row["template"], row["tokenizer"], row["conversation"]))
        cases.append(pytest.param(row, id=name))
    return cases


def messages_of(name: str) -> list[dict[str, Any]]:
    row = CONVERSATIONS[name]
    image = {"image": "picture.jpg"} if row["has_image"] else {}
    return from_llava({"conversations": row["conversations"], **image}, strict=False)[0]


@pytest.mark.parametrize("expected", originals())
def test_ids_labels_and_warnings_are_the_originals(expected: dict[str, Any]) -> None:
    template, tokenizer = get_template(expected["template"]), load(expected["tokenizer"])
    messages = messages_of(expected["conversation"])
    if "error" in expected:
        with pytest.raises(InputError, match="the original code fails on this row"):
            encode(messages, None, template, tokenizer, compat=expected["compat"])
        return
    row = encode(messages, None, template, tokenizer, compat=expected["compat"], max_length=expected["max_length"])
    labels = [IGNORE] * len(expected["ids"])
    for start, end in expected["learnt"]:
        labels[start:end] = expected["ids"][start:end]
    assert row.ids.tolist() == expected["ids"]
    assert row.labels.tolist() == labels
    assert row.warning == (expected["warning"] and expected["warning"].strip())
    prompt = original_job(messages, template, tokenizer, expected["compat"]).prompt
    assert prompt.endswith(expected["prompt_end"])


def test_a_picture_of_the_row_decides_even_when_no_turn_shows_it() -> None:
    messages, tokenizer = messages_of("text_multi"), load("llama2_slow_legacyF")
    cut = encode_like_original(messages, get_template("v1"), tokenizer, "llava", max_length=20)
    whole = encode_like_original(messages, get_template("v1"), tokenizer, "llava", max_length=20, has_image=True)
    assert (len(cut.ids), cut.truncated) == (20, True)
    assert (len(whole.ids) > 20, whole.truncated) == (True, True)


def test_several_pictures_in_a_turn_become_one_in_the_first_code_and_stay_in_the_next() -> None:
    text, picture = {"type": "text", "text": "\nWhat is on the table?"}, {"type": "image", "text": None}
    messages = [{"role": "user", "content": [picture, picture, text]}, {"role": "assistant", "content": "No"}]
    counts = [
        int((encode(messages, None, get_template("v1"), load("llama2"), compat=mode).ids == ORIGINAL_IMAGE).sum())
        for mode in ("llava", "llava_next")
    ]
    assert counts == [1, 2]


def test_a_row_of_one_assistant_turn_is_an_empty_prompt_in_inst_templates() -> None:
    messages = [{"role": "assistant", "content": "No"}]
    row = encode(messages, None, get_template("llava_llama_2"), load("llama2"), compat="llava")
    assert (row.ids.tolist(), row.labels.tolist(), row.warning) == ([1], [IGNORE], None)


def test_block_wise_templates_take_a_system_turn_behind_the_first() -> None:
    messages = [{"role": role, "content": "No"} for role in ("user", "system", "assistant")]
    tokenizer, template = load("qwen2"), get_template("qwen")
    prompt = original_job(messages, template, tokenizer, "llava_next").prompt
    assert "<|im_start|>user\nNo<|im_end|>\n<|im_start|>system\nNo<|im_end|>\n<|im_start|>assistant" in prompt
    row = encode(messages, None, template, tokenizer, compat="llava_next")
    said = int(tokenizer.encode_parsed("No")[0])
    assert [label for token, label in zip(row.ids, row.labels, strict=True) if token == said] == [IGNORE, IGNORE, said]
    with pytest.raises(InputError, match="turn 1 is from 'system'"):
        encode(messages, None, get_template("v1"), load("llama2"), compat="llava")


def test_version_0_takes_every_speaker_and_masks_only_who_is_called_human() -> None:
    conversations = [{"from": who, "value": "No"} for who in ("human", "Human", "gpt", "tool")]
    messages, _ = from_llava({"conversations": conversations}, any_speaker=True)
    tokenizer, template = load("llama2_slow_legacyF"), get_template("v0")
    prompt = original_job(messages, template, tokenizer, "llava").prompt
    assert prompt.endswith("### Human: No\n### Human: No\n### Assistant: No\n### unknown: No\n### ")
    row = encode(messages[:3], None, template, tokenizer, compat="llava")
    # Labels that the original gave: "##" and "#" of every turn, and all of the second and third.
    second, third = [2277, 29937, 12968, 29901, 1939, 13], [2277, 29937, 4007, 22137, 29901, 1939, 13]
    supervised = [2277, 29937, *[IGNORE] * 4, *second, *third, 2277, 29937, 29871]
    assert row.labels[-len(supervised) :].tolist() == supervised
    with pytest.raises(InputError, match="turn 1 is from 'Human', but it only knows human and gpt"):
        encode(messages, None, get_template("v1"), tokenizer, compat="llava")


def test_block_wise_templates_learn_what_any_other_speaker_says() -> None:
    conversations = [{"from": who, "value": "No"} for who in ("human", "tool", "gpt")]
    messages, _ = from_llava({"conversations": conversations}, any_speaker=True)
    tokenizer = load("qwen2")
    row = encode(messages, None, get_template("qwen"), tokenizer, compat="llava_next")
    assert tokenizer.decode(row.labels[-14:].tolist()) == (
        "<|im_start|>tool\nNo<|im_end|>\n<|im_start|>assistant\nNo<|im_end|>\n"
    )


def test_a_system_turn_and_an_unknown_mode_are_refused(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "No"}, {"role": "user", "content": "No"}]
    with pytest.raises(InputError, match="turn 0 is from 'system'"):
        encode(messages, None, get_template("v1"), load("llama2"), compat="llava")
    with pytest.raises(InputError, match="compat 'lava': expected one of llava, llava_next"):
        encode(messages, None, get_template("v1"), load("llama2"), compat="lava")
