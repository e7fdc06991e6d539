"""The files that other programs need to prompt a checkpoint as it was trained: tokenizer, template, image processor.

An image rule, a template and a tokenizer flow in; the JSON files of a llava-hf folder flow out, in the layout that
transformers 4 and 5 both read.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from schemas.chat import ImageRule, Tokenizer, get_template, load_tokenizer
from schemas.chat.jinja import chat_template
from schemas.errors import InputError
from trainer.models.families import Family
from trainer.models.towers import Triple

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
KEPT_SETTINGS = (*ROLES, "additional_special_tokens", "model_max_length")
"""Settings that do not change ids. Others (`legacy`, `add_prefix_space`, a specific class) make transformers 5 rebuild
the tokenizer from its vocabulary by a rule of its class, instead of reading tokenizer.json."""


def write_processor(
    folder: Path,
    tokenizer: Tokenizer,
    family: Family,
    rule: ImageRule,
    mean: Triple,
    std: Triple,
    template: str | None,
) -> None:
    """Write the processor's and the tokenizer's settings into `folder`, which already holds tokenizer.json.

    template: None leaves the chat template out.
    """
    colours = {"image_mean": list(mean), "image_std": list(std)}
    _write(folder / "preprocessor_config.json", {**family.preparation(rule), **colours})
    prompting = {**family.prompting(rule), "vision_feature_select_strategy": select_strategy(rule)}
    _write(folder / "processor_config.json", prompting)
    _write(folder / "tokenizer_config.json", _tokenizer_settings(tokenizer, family.processor))
    for old in ("special_tokens_map.json", "added_tokens.json", "chat_template.json", "chat_template.jinja"):
        (folder / old).unlink(missing_ok=True)
    stops = {tokenizer.eos_id}
    if template is not None:
        chat = get_template(template)
        (folder / "chat_template.jinja").write_text(chat_template(chat, tokenizer), encoding="utf-8")
        stops |= {tokenizer.token_id(text) for text in chat.stop}
    ends = sorted(token for token in stops if token is not None)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": ends or None, "pad_token_id": tokenizer.pad_id}
    _write(folder / "generation_config.json", {name: value for name, value in ids.items() if value is not None})


def write_tokenizer(source: str | Path, folder: Path) -> Tokenizer:
    """Copy a tokenizer into `folder`, add `<image>` as its last token if it has none, and return the result.

    Raises InputError when the vocabulary has gaps, where other readers would put that token.
    """
    source = Path(source)
    ours = load_tokenizer(source)
    content = json.loads((source / "tokenizer.json" if source.is_dir() else source).read_text(encoding="utf-8"))
    content = _with_image_token(content, ours)
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
    if source.is_dir() and (source / "tokenizer.model").is_file():
        shutil.copyfile(source / "tokenizer.model", folder / "tokenizer.model")
    made = Tokenizer(content, ours.settings, where=str(folder))
    given = made.backend.token_to_id("<image>")
    if given != made.image_id:
        raise InputError(
            f"{source}: ids between {given} and {made.vocab_size} are unused, so <image> cannot get the id after all "
            "others. Add tokens for them, then assemble again."
        )
    _write(folder / "tokenizer_config.json", _tokenizer_settings(made, None))
    return load_tokenizer(folder)


def _with_image_token(content: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer.json with `<image>`, without truncation, and with the first token that the settings ask for:
    transformers' generic class reads that from tokenizer.json alone."""
    added = list(content["added_tokens"])
    if tokenizer.token_id("<image>") is None:
        look = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added.append({"id": tokenizer.image_id, "content": "<image>", **look, "special": True})
    content = {**content, "added_tokens": added, "truncation": None, "padding": None}
    opens = tokenizer.backend.encode("", add_special_tokens=True).ids == [tokenizer.bos_id]
    if tokenizer.adds_bos and not opens:
        steps = [content.get("post_processor"), _opening(int(tokenizer.bos_id or 0), tokenizer)]
        content["post_processor"] = {"type": "Sequence", "processors": [step for step in steps if step]}
    return content


def _opening(number: int, tokenizer: Tokenizer) -> dict[str, Any]:
    token = tokenizer.backend.id_to_token(number)
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    one, other = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    known = {token: {"id": token, "ids": [number], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": [first, one], "pair": [first, one, other], "special_tokens": known}


def select_strategy(rule: ImageRule) -> str:
    """transformers' name for which of the tower's tokens are kept: `default` drops the first, `full` none."""
    return "default" if rule.select == "patch" and rule.class_token else "full"


def _tokenizer_settings(tokenizer: Tokenizer, processor: str | None) -> dict[str, Any]:
    kept = {name: tokenizer.settings[name] for name in KEPT_SETTINGS if tokenizer.settings.get(name) is not None}
    known = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id)
    for role, number in zip(ROLES, known, strict=True):
        if role not in kept and number is not None:
            kept[role] = tokenizer.backend.id_to_token(number)
    settings = {
        **kept,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "extra_special_tokens": {"image_token": "<image>"},
        "image_token": "<image>",
    }
    return {**settings, "processor_class": processor} if processor else settings


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
