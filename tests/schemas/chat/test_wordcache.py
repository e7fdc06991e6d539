"""Words kept from earlier texts give the ids and offsets of the whole text."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from schemas.chat import wordcache
from schemas.chat.tokenizer import Tokenizer, text_only
from schemas.chat.wordcache import WordCache

from .conftest import VECTORS

CONTENT = {name: json.loads((VECTORS / f"tokenizers/{name}.json").read_text("utf-8")) for name in ("llama2", "mistral")}
VISIBLE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, VISIBLE]}
KINDS: dict[str, dict[str, Any]] = {
    "first": {},
    "always": {"pre_tokenizer": {**CONTENT["llama2"]["pre_tokenizer"], "prepend_scheme": "always"}},
    "as the hub has it": {"pre_tokenizer": None, "normalizer": PREPEND},
}
WORDS = [
    "a",
    "picture",
    " ",
    "  ",
    "\n",
    "\u2581",
    "\u65e5\u672c",
    "</s>",
    "<0x0A>",
    "1",
    ".",
    "\u00a0",
    "\x00",
    "ing",
    "e\u0301",
]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=20).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONTENT)
def test_words_give_the_ids_and_offsets_of_the_text(name: str, kind: str) -> None:
    tokenizer = Tokenizer({**CONTENT[name], **KINDS[kind]}, {})
    assert tokenizer.words is not None

    @given(text=TEXTS, first=st.booleans())
    @settings(max_examples=150, deadline=None)
    def check(text: str, first: bool) -> None:
        whole = (tokenizer._text_first if first else tokenizer._text_rest).encode(text, add_special_tokens=False)
        assert tokenizer.encode(text, first) == (whole.ids, whole.offsets)

    check()


def test_other_tokenizers_take_the_text_whole() -> None:
    content = text_only(CONTENT["llama2"])
    assert WordCache.of(content) is not None
    model = content["model"]
    across = {**model, "vocab": {**model["vocab"], "a\u2581b": 99_999}}
    added = [{"id": 99_999, "content": "a b", "special": False}]
    split = {**content["pre_tokenizer"], "split": True}
    changes = ({"model": across}, {"added_tokens": added}, {"pre_tokenizer": split}, {"normalizer": {"type": "NFC"}})
    for change in ({"model": {**model, "dropout": 0.1}}, *changes):
        assert WordCache.of({**content, **change}) is None


def test_words_are_forgotten_when_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordcache, "ROOM", 2)
    cache = WordCache.of(text_only(CONTENT["llama2"]))
    assert cache is not None
    whole = Backend.from_str(json.dumps({**text_only(CONTENT["llama2"])}))
    opening = whole.encode("a picture a picture ing", add_special_tokens=False)
    assert cache.encode("a picture a picture ing", whole) == (opening.ids, opening.offsets)
    assert set(cache.words) == {" ing"}
