"""Validates an untrusted tokenizer.json before the library builds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.modelfolder import read_json

MOST_GAPS = 65_536
"""Unused ids of a vocabulary, beside as many as it has tokens: an embedding table has a row for each."""
LONGEST_TEXT = 4096
"""Characters of a replacement, prefix or pattern in a file; only a SentencePiece character map is longer."""
LONGEST_MAP = 4 << 20
"""Characters of such a map, in base 64."""
MOST_TEMPLATE = 1 << 20
"""Bytes of a chat template; long ones with tools take 20 KB."""

MOST_GROWTH = 16
"""How many times longer a text may get by normalising it. One blank becomes one visible blank in known tokenizers."""
STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
REMEDY = "Save the tokenizer again."


def read_tokenizer(file: Path) -> dict[str, Any]:
    """The parsed tokenizer.json; raises InputError for one that no writer makes, or that would take endless memory."""
    content = read_json(file, REMEDY)
    with tokenizer_errors(str(file)):
        ids = _token_ids(content)
        if not ids or min(ids) < 0 or max(ids) >= 2 * len(ids) + MOST_GAPS:
            words = f"{len(ids)} tokens with ids from {min(ids, default=0)} to {max(ids, default=0)}"
            raise ValueError(f"{words}; expected ids from 0 on, with few of them unused")
        for step in STEPS:
            _check_texts(step, content.get(step))
            growth = _growth(content.get(step))
            if growth > MOST_GROWTH:
                raise ValueError(f"{step} makes a text up to {growth} times longer; expected at most {MOST_GROWTH}")
    return content


@contextmanager
def tokenizer_errors(where: str) -> Iterator[None]:
    """Turns whatever the library raises, panics of its Rust code included, into an InputError that names the file."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, InputError) or not (isinstance(error, Exception) or is_panic(error)):
            raise
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(
            f"{where}: this is not a tokenizer.json that can be used ({ascii(words)[1:-1]}). {REMEDY}"
        ) from error


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust came upon a state that it excludes: no Exception, and its class has no public name."""
    return type(error).__name__ == "PanicException"


def _token_ids(content: dict[str, Any]) -> list[int]:
    """The ids of all tokens. Raises ValueError where they are not as the format has them."""
    model, added = content.get("model"), content.get("added_tokens", [])
    if not isinstance(model, dict) or not isinstance(added, list):
        raise ValueError("expected 'model', an object, and 'added_tokens', a list")
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        ids = list(vocabulary.values())
    elif isinstance(vocabulary, list) and all(isinstance(one, list) and len(one) == 2 for one in vocabulary):
        ids = list(range(len(vocabulary)))
    else:
        raise ValueError("expected 'model.vocab', an object of ids or a list of pairs")
    for token in added:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not token["content"]:
            raise ValueError(f"the added token {str(token)[:80]} has no text")
        ids.append(token.get("id"))
    wrong = next((one for one in ids if not isinstance(one, int) or isinstance(one, bool)), None)
    if wrong is not None or None in ids:
        raise ValueError(f"a token has the id {str(wrong)[:80]!r}, expected a number")
    return ids


def _check_texts(where: str, value: Any) -> None:
    if isinstance(value, str):
        longest = LONGEST_MAP if where.endswith("precompiled_charsmap") else LONGEST_TEXT
        if len(value) > longest:
            raise ValueError(f"{where} has {len(value)} characters; expected at most {longest}")
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        _check_texts(f"{where}.{key}", inner)


def _growth(step: Any) -> int:
    """How many times longer a text may get, by replacements within `step` one after the other."""
    if isinstance(step, list):
        return prod(_growth(one) for one in step)
    if not isinstance(step, dict):
        return 1
    inner = prod(_growth(value) for value in step.values() if isinstance(value, dict | list))
    if step.get("type") != "Replace":
        return inner
    pattern = step.get("pattern")
    found = pattern.get("String") if isinstance(pattern, dict) else None
    if found == "":
        raise ValueError("a Replace with an empty pattern")
    # A regular expression may match a single character, or none.
    shortest = len(found) if isinstance(found, str) else 1
    return inner * max(1, -(-len(str(step.get("content", ""))) // shortest))


def settings_of(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, completed by special_tokens_map.json and chat_template.jinja if those exist."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            found = read_json(folder / name, REMEDY)
            settings.update({key: value for key, value in found.items() if value is not None})
    if (folder / "chat_template.jinja").is_file():
        settings["chat_template"] = _template(folder / "chat_template.jinja")
    return settings


def _template(path: Path) -> str:
    if (size := path.stat().st_size) > MOST_TEMPLATE:
        raise InputError(f"{path}: {size} bytes, expected at most {MOST_TEMPLATE}: this is not a template. {REMEDY}")
    try:
        return path.read_text(encoding="utf-8")
    except ValueError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}). {REMEDY}") from error
