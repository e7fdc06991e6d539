"""Hostile tokenizers: one clear error each, at load, and no memory beyond the file's own size."""

import copy
import json

import pytest

from schemas.chat import load_tokenizer
from schemas.errors import InputError

WORDS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


@pytest.fixture(scope="module")
def content():
    """A byte-level BPE tokenizer without merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    return json.loads(made.to_str())


def added(**values):
    look = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": 258, "content": "<x>", **look, "special": True, **values}


def split(pattern):
    kind = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [kind, WORDS]}


def replaced(pattern, text):
    return {"type": "Replace", "pattern": pattern, "content": text}


HOSTILE = {
    "expected 'model', an object": lambda one: one.clear(),
    "with ids from 0 to 4294967295; expected": lambda one: one["added_tokens"].append(added(id=2**32 - 1)),
    "with ids from 0 to 4611686018427387904; expected": lambda one: one["added_tokens"].append(added(id=2**62)),
    "with ids from -1 to 257; expected": lambda one: one["added_tokens"].append(added(id=-1)),
    "has no text": lambda one: one["added_tokens"].append(added(content="")),
    "has the id 'x', expected a number": lambda one: one["model"]["vocab"].update(a="x"),
    "expected 'model.vocab'": lambda one: one["model"].update(vocab=7),
    "a Replace with an empty pattern": lambda one: one.update(normalizer=replaced({"String": ""}, "x")),
    "normalizer makes a text up to 1000000000 times longer": lambda one: one.update(
        normalizer={"type": "Sequence", "normalizers": [replaced({"String": "a"}, "a" * 10)] * 9}
    ),
    "makes a text up to 100 times longer": lambda one: one.update(decoder=replaced({"Regex": "a*"}, "b" * 100)),
    "prepend has 5000 characters": lambda one: one.update(normalizer={"type": "Prepend", "prepend": "x" * 5000}),
    "PanicException": lambda one: one.update(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<nope>", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    ),
    "end pattern with unmatched parenthesis": lambda one: one.update(pre_tokenizer=split("(")),
    "Unk token `<nope>` not found": lambda one: one["model"].update(unk_token="<nope>", vocab={"a": 0}),
    "KeyError": lambda one: one.pop("normalizer"),
}


@pytest.mark.parametrize("words", HOSTILE)
def test_a_hostile_tokenizer_is_one_clear_error_at_load(tmp_path, content, words):
    changed = copy.deepcopy(content)
    HOSTILE[words](changed)
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match=rf"{tmp_path}.*: this is not a tokenizer\.json.*{words}.*Save the"):
        load_tokenizer(tmp_path)


def test_a_pattern_that_panics_on_a_later_text_is_one_clear_error_too(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, "pre_tokenizer": split("(a|aa)+$")}))
    tokenizer = load_tokenizer(tmp_path)
    for encode in (tokenizer.encode, tokenizer.encode_parsed):
        with pytest.raises(InputError, match=f"{tmp_path}.*PanicException.*retry-limit"):
            encode("a" * 60 + "!")


def test_files_beside_it_are_read_as_carefully(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(InputError, match=r"tokenizer_config\.json: not valid JSON"):
        load_tokenizer(tmp_path)


def test_a_chat_template_that_is_no_text_is_one_clear_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"chat_template\.jinja: not UTF-8 text"):
        load_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(bytes(2 << 20))
    with pytest.raises(InputError, match=r"chat_template\.jinja: 2097152 bytes"):
        load_tokenizer(tmp_path)


def test_an_interruption_is_not_taken_for_a_bad_file(tmp_path, content, monkeypatch):
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    tokenizer = load_tokenizer(tmp_path)
    monkeypatch.setattr(tokenizer, "_words", None, raising=False)
    monkeypatch.setattr("schemas.chat.tokenizer.Pieces", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode("a text of its own")
