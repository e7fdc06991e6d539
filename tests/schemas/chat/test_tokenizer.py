"""Reading tokenizers, and telling them apart."""

import json
import pickle
from pathlib import Path

import pytest

from schemas.chat import Tokenizer, load_tokenizer
from schemas.chat.wordcache import Pieces
from schemas.errors import InputError

from .conftest import VECTORS, load


def test_a_folder_tells_its_control_tokens(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id) == (1, 2, 0, 0)
    assert (tokenizer.adds_bos, tokenizer.prefix, tokenizer.token_id("</s>")) == (True, "first", 2)
    assert tokenizer.token_id("<image>") is None
    assert tokenizer.image_id == tokenizer.vocab_size == 32000


def test_a_file_alone_goes_by_the_usual_names() -> None:
    tokenizer = load_tokenizer(VECTORS / "tokenizers" / "llama2.json")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (1, 2, 0)


def test_offsets_are_characters_of_the_text(llama: Tokenizer) -> None:
    pieces = llama.encode("Two dogs")
    assert [("Two dogs"[a:b], i) for i, (a, b) in zip(pieces.ids, pieces.offsets, strict=True)] == [
        ("Two", llama.token_id("\u2581Two")),
        (" dogs", llama.token_id("\u2581dogs")),
    ]
    assert llama.encode("dogs", False).ids != llama.encode("dogs").ids


def test_the_hash_knows_what_changes_ids_and_ignores_what_does_not(folder: Path) -> None:
    first = load_tokenizer(folder).hash
    content = json.loads((folder / "tokenizer.json").read_text())

    def changed(**parts: object) -> str:
        (folder / "tokenizer.json").write_text(json.dumps({**content, **parts}, indent=3))
        return load_tokenizer(folder).hash

    image = {**content["added_tokens"][0], "id": 32000, "content": "<image>"}
    assert changed(added_tokens=[*content["added_tokens"], image]) == first
    assert changed(truncation={"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}) == first
    assert changed(pre_tokenizer={**content["pre_tokenizer"], "prepend_scheme": "always"}) != first
    assert changed(post_processor=None) != first
    model = {**content["model"], "merges": content["model"]["merges"][:-1]}
    assert changed(model=model) != first


@pytest.mark.parametrize("name", ["llama2", "mistral", "llama3", "qwen2", "mpt"])
def test_naming_a_padding_token_that_was_there_leaves_the_hash(name: str) -> None:
    """Checkpoints name one (`<unk>` for Llama-2), their language model's folder often does not."""
    bare = load(name)
    settings = {**bare.settings, "pad_token": bare.backend.id_to_token(bare.pad_id)}
    assert Tokenizer(bare.content, settings).hash == bare.hash


def test_a_tokenizer_travels_to_other_processes(qwen: Tokenizer) -> None:
    again = pickle.loads(pickle.dumps(qwen))
    assert (again.hash, again.encode("Yes").ids) == (qwen.hash, qwen.encode("Yes").ids)


def test_added_blanks_are_vocabulary_and_added_tags_are_not() -> None:
    tokenizer = load("mpt")
    assert tokenizer.encode("a    b").ids[1] == tokenizer.token_id("    ")
    content = {**tokenizer.content}
    tag = {**content["added_tokens"][-1], "content": "<tool_call>", "special": False, "id": 50279}
    content["model"] = {**content["model"], "vocab": {**content["model"]["vocab"], "<tool_call>": 50279}}
    content["added_tokens"] = [*content["added_tokens"], tag]
    assert 50279 not in Tokenizer(content, tokenizer.settings).encode("<tool_call>").ids
    assert 50279 in Tokenizer(content, tokenizer.settings).encode_parsed("<tool_call>")


def test_what_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(InputError, match=r"no tokenizer\.json in this folder"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"spm")
    with pytest.raises(InputError, match=r"only tokenizer\.model.*Convert it once"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(InputError, match=r"this is not a tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["llama2", "qwen2"])
@pytest.mark.parametrize("unit", ["a b ", "x", " ", "\u00e9\u4e00"])
def test_a_text_of_megabytes_is_found_to_exceed_from_its_beginning(
    name: str, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load(name)
    encoded = []
    whole = tokenizer._encode

    def counted(text: str, first: bool = True) -> Pieces:
        encoded.append(len(text))
        return whole(text, first)

    monkeypatch.setattr(tokenizer, "_encode", counted)
    assert tokenizer.exceeds(unit * (4_000_000 // len(unit)), 1100)
    assert sum(encoded) <= 3 * 65_536


@pytest.mark.parametrize("name", ["llama2", "qwen2"])
@pytest.mark.parametrize("unit", ["a b ", "xy", "    ", "\u00e9\u4e00", "understanding ", "\n\n"])
def test_a_text_that_fits_never_exceeds(name: str, unit: str) -> None:
    tokenizer = load(name)
    for characters in (60_000, 70_000, 140_000, 300_000):
        text = unit * (characters // len(unit))
        tokens = len(tokenizer.encode(text).ids)
        for limit in (tokens, tokens + 1, 2 * tokens):
            assert characters > 64 * limit or not tokenizer.exceeds(text, limit)
