"""Small parts of real tokenizers, and the conversations that the original code was run on."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from schemas.chat import Tokenizer

VECTORS = Path(__file__).parent / "vectors"
LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
SETTINGS: dict[str, dict[str, Any]] = {
    "llama2": LLAMA,
    "mistral": LLAMA,
    "mpt": dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "qwen2": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
}
FIRST_LLAMA_3_TEMPLATE = (
    "<|start_header_id|>{{ role }}<|end_header_id|>\n\n<|start_header_id|>assistant<|end_header_id|>"
)


@lru_cache
def load(name: str) -> Tokenizer:
    """`llama2`, `mistral`, `mpt`, `llama3`, `qwen2`, or one of those as the vectors call and set it."""
    family = next(part for part in SETTINGS if name.startswith(part))
    content = json.loads((VECTORS / "tokenizers" / f"{family}.json").read_text(encoding="utf-8"))
    settings = dict(SETTINGS[family])
    if "legacyT" in name:
        content["pre_tokenizer"]["prepend_scheme"] = "always"
    if name.endswith("_chatml"):
        for number, token in enumerate(("<|im_start|>", "<|im_end|>")):
            content["model"]["vocab"][token] = 32000 + number
            content["added_tokens"].append({**content["added_tokens"][0], "id": 32000 + number, "content": token})
    if name.endswith("april_template"):
        settings["chat_template"] = FIRST_LLAMA_3_TEMPLATE
    return Tokenizer(content, settings, where=name)


@pytest.fixture
def llama() -> Tokenizer:
    return load("llama2_slow_legacyF")


@pytest.fixture
def qwen() -> Tokenizer:
    return load("qwen2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer folder as transformers saves it."""
    (tmp_path / "tokenizer.json").write_text((VECTORS / "tokenizers" / "llama2.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(LLAMA))
    return tmp_path
