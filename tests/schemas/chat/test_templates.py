"""What templates write, and the same as Jinja under transformers."""

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.chat import IGNORE, TEMPLATES, ImageRule, encode, get_template
from schemas.chat.jinja import chat_template
from schemas.errors import InputError

from .conftest import load

ONE_TOKEN = ImageRule(image_size=14, patch_size=14)
PICTURE = {"type": "image", "text": None}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def prompt(name: str, *messages: tuple[str, list[dict[str, Any]]]) -> str:
    rendered = get_template(name).render([{"role": role, "content": content} for role, content in messages])
    return "".join(segment.text for segment in rendered)


ROUND = (("user", [text("Hi")]), ("assistant", [text("Yo")]), ("user", [text("So?")]), ("assistant", [text("No")]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v1", " USER: Hi ASSISTANT: Yo</s>USER: So? ASSISTANT: No</s>"),
        ("v0", "\n\n### Human: Hi\n### Assistant: Yo\n### Human: So?\n### Assistant: No\n###"),
        ("llama_2", "\n<</SYS>>\n\nHi [/INST] Yo </s><s>[INST] So? [/INST] No </s>"),
        ("mistral", "[INST] Hi [/INST] Yo </s>[INST] So? [/INST] No </s>"),
        ("plain", "Yo\nNo\n"),
        (
            "llama_3",
            "<|start_header_id|>user<|end_header_id|>\n\nSo?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nNo<|eot_id|>",
        ),
        ("qwen", "<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\nNo<|im_end|>\n"),
        ("mpt", "<|im_start|>user\nSo?<|im_end|><|im_start|>assistant\nNo<|im_end|>"),
    ],
)
def test_rounds(name: str, expected: str) -> None:
    assert prompt(name, *ROUND).endswith(expected)


def test_a_system_message_replaces_the_default_and_an_empty_one_removes_it() -> None:
    assert prompt("qwen", ("system", [text("Be brief.")]), ("user", [text("Hi")])).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user"
    )
    assert prompt("llama_2", ("system", [text("")]), ("user", [text("Hi")])) == "[INST] Hi [/INST]"


def test_a_lone_picture_comes_first_and_several_stay_on_lines_of_their_own() -> None:
    assert prompt("mistral", ("user", [text("What?\n"), PICTURE])) == "[INST] <image>\nWhat? [/INST]"
    several = prompt("mistral", ("user", [text("One"), PICTURE, PICTURE, text(" two")]))
    assert several == "[INST] One\n<image>\n<image> two [/INST]"
    assert "<Image><image></Image>\nWhat?" in prompt("v1_mmtag", ("user", [PICTURE, text("What?")]))


def test_answers_before_the_first_question_are_left_out() -> None:
    assert prompt("mistral", ("assistant", [text("Hello!")]), ("user", [text("Hi")])) == "[INST] Hi [/INST]"


def test_unknown_names_get_the_nearest_known_one() -> None:
    with pytest.raises(InputError, match=r"template 'lama_3' is unknown\. Did you mean 'llama_3'"):
        get_template("lama_3")
    with pytest.raises(InputError, match=r"message 0: role 'asistant'\. Did you mean 'assistant'"):
        prompt("v1", ("asistant", [text("Hi")]))
    with pytest.raises(InputError, match="content part of type 'video'"):
        prompt("v1", ("user", [{"type": "video"}]))


CONVERSATIONS: list[list[dict[str, Any]]] = [
    [
        {"role": "user", "content": [PICTURE, text("What is this?")]},
        {"role": "assistant", "content": [text("Two dogs.")]},
        {"role": "user", "content": [text("Again")]},
        {"role": "assistant", "content": [text("")]},
    ],
    [
        {"role": "user", "content": [text("Describe.\n"), PICTURE]},
        {"role": "assistant", "content": [text(" two \n")]},
    ],
    [
        {"role": "system", "content": [text("Be \"brief\" 'n' \\ ok")]},
        {"role": "user", "content": [text("first"), PICTURE, PICTURE, text(" second"), PICTURE]},
        {"role": "assistant", "content": [text("ok")]},
        {"role": "user", "content": "  Hello \n"},
        {"role": "assistant", "content": "Yes"},
    ],
]


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("llama2_slow_legacyF", "v1"),
        ("llama2_slow_legacyT", "v1"),
        ("llama2_slow_legacyF", "v0"),
        ("llama2_slow_legacyF", "v1_mmtag"),
        ("llama2_slow_legacyF", "llama_2"),
        ("mistral", "mistral"),
        ("llama2_slow_legacyF_chatml", "chatml_direct"),
        ("llama3", "llama_3"),
        ("qwen2", "qwen"),
        ("mpt", "mpt"),
        ("llama2_slow_legacyF", "plain"),
        ("llama2_slow_legacyF", "llava_v1"),
        ("llama2_slow_legacyF", "llava_llama_2"),
        ("qwen2", "chatml"),
        ("llama2_slow_legacyF_chatml", "mistral_direct"),
    ],
)
def test_transformers_gives_the_same_ids_and_masks_from_the_jinja_template(
    name: str, template: str, tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer, form = load(name), get_template(template)
    content = {**tokenizer.content, "added_tokens": list(tokenizer.content["added_tokens"])}
    content["added_tokens"].append({**content["added_tokens"][0], "id": tokenizer.image_id, "content": "<image>"})
    content["model"] = {**content["model"], "vocab": {**content["model"]["vocab"], "<image>": tokenizer.image_id}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    peer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), **tokenizer.settings)
    peer.chat_template = chat_template(form, tokenizer)
    for messages in CONVERSATIONS:
        sizes = [(14, 14)] * str(messages).count("'image'")
        row = encode(messages, sizes, form, tokenizer, ONE_TOKEN)
        theirs = peer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        assert theirs["input_ids"] == row.ids.tolist()
        assert theirs["assistant_masks"] == (row.labels != IGNORE).astype(int).tolist()
        opening = encode(messages[:-1], sizes, form, tokenizer, ONE_TOKEN, generate=True)
        asked = peer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)
        assert asked["input_ids"] == opening.ids.tolist()


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_marks_of_answers_change_nothing_of_the_text(name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    tokenizer = load("llama2_slow_legacyF")
    marked, plain = (chat_template(TEMPLATES[name], tokenizer, generation=marks) for marks in (True, False))
    assert "{% generation %}" in marked  # TRL looks for this text
    assert marked.replace("{% generation %}", "").replace("{% endgeneration %}", "") == plain  # as other readers do
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    texts = [render_jinja_template(CONVERSATIONS, chat_template=one, **tokens)[0] for one in (marked, plain)]
    assert texts[0] == texts[1]


def test_every_name_has_a_template_that_ends_its_answers() -> None:
    for name, template in TEMPLATES.items():
        segments = template.render([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}])
        assert any(segment.supervised and segment.text != "Yo" for segment in segments) or name in ("plain", "v0")
        assert template.stop
