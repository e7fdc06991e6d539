"""A tokenizer read from tokenizer.json. Text is encoded without control tokens; a second method parses them."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from schemas.chat.tokenizerfile import read_tokenizer, settings_of, tokenizer_errors
from schemas.chat.wordcache import Pieces, WordCache
from schemas.errors import InputError

IMAGE_TOKEN = "<image>"
CERTAIN = 65_536
"""Characters of a text up to which it is encoded whole, to tell how many tokens it has."""

CACHED_TEXTS, CACHED_LENGTH = 1024, 4096
"""Texts whose ids are kept, and their characters at most: what a template writes recurs, a long text does not."""
CONTROL_LOOK = re.compile(r"[<\[].*[>\]]", re.DOTALL)
"""An added token that looks like this steers a model (`<tool_call>`), even if its file does not call it special."""

PROBE = "A word, 2 \u00e9\u4e00\n\n  and <image>"

USUAL_NAMES = {
    "bos_token": ("<s>", "<|begin_of_text|>"),
    "eos_token": ("</s>", "<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "<|endoftext|>"),
    "pad_token": ("<pad>", "[PAD]", "<|finetune_right_pad_id|>"),
    "unk_token": ("<unk>", "[UNK]"),
}
"""Names to look for when no tokenizer_config.json says which token has a role."""


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a tokenizer folder, or a tokenizer.json, with the `tokenizers` library alone.

    Raises InputError when it is missing or broken, or when the folder only has a SentencePiece `tokenizer.model`, which
    has to be converted once.
    """
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(_missing(path))
    content, settings = read_tokenizer(file), settings_of(file.parent)
    with tokenizer_errors(str(file)):
        tokenizer = Tokenizer(content, settings, where=str(path))
        # Every use once: errors are reported now, and not for the row that first needs it.
        tokenizer.encode(PROBE)
        tokenizer.decode(tokenizer.encode_parsed(PROBE))
        _ = tokenizer.hash
    return tokenizer


class Tokenizer:
    """Text to ids and back.

    `hash` (sha256, hex) covers what determines ids and counts, but neither `<image>` nor a separate padding token: a
    checkpoint to which these were added counts like its parent.
    """

    def __init__(self, content: dict[str, Any], settings: dict[str, Any], where: str = "tokenizer") -> None:
        """`content` and `settings`: the parsed tokenizer.json and tokenizer_config.json."""
        self.where = where
        self.content = content
        self.settings = settings
        vocabulary = content["model"]["vocab"]
        by_rank = {piece: i for i, (piece, *_) in enumerate(vocabulary)} if isinstance(vocabulary, list) else vocabulary
        self._ids: dict[str, int] = {**by_rank, **{token["content"]: token["id"] for token in content["added_tokens"]}}
        self.vocab_size = max(self._ids.values()) + 1
        self.own_size = max(by_rank.values(), default=-1) + 1
        """Ids of the vocabulary proper, without tokens that were added to it."""
        self.bos_id = self._role("bos_token")
        self.eos_id = self._role("eos_token")
        self.unk_id = self._role("unk_token")
        pad = self._role("pad_token")
        self.pad_id = next((part for part in (pad, self.unk_id, self.eos_id) if part is not None), 0)
        opening = _opening_token(content.get("post_processor"))
        self.adds_bos = self.bos_id is not None and (
            (opening is not None and self.token_id(opening) == self.bos_id) or bool(settings.get("add_bos_token"))
        )
        self.prefix = _prefix_scheme(content)
        self._cached = lru_cache(maxsize=CACHED_TEXTS)(self._encode)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self.content, self.settings, self.where)

    @property
    def image_id(self) -> int:
        """The id of `<image>`; if there is none yet, the next free id, which adding it would give."""
        known = self.token_id(IMAGE_TOKEN)
        return self.vocab_size if known is None else known

    def token_id(self, token: str) -> int | None:
        """The id of exactly this token, or None."""
        return self._ids.get(token)

    def encode(self, text: str, first: bool = True) -> Pieces:
        """Ids and character offsets of `text`, where `</s>` and the like are plain letters, never control tokens.

        first: the text starts the sequence; some tokenizers put a blank in front of that one only.
        """
        return self._cached(text, first) if len(text) <= CACHED_LENGTH else self._encode(text, first)

    def exceeds(self, text: str, tokens: int) -> bool:
        """Whether `text` surely has more than so many tokens, found out in time that grows with `tokens`, not with a
        text of megabytes. False leaves it open.

        Beginnings of the text are encoded. Where a beginning ends inside a word its last tokens may be others than the
        text's, so that it takes twice as many to be sure. A text of more than 64 characters per token is not encoded:
        only runs of one character have so few.
        """
        length = max(8 * tokens, CERTAIN)
        while length < len(text):
            if length > 64 * tokens or len(self._encode(text[:length]).ids) > 2 * tokens + 64:
                return True
            length *= 2
        return False

    def _encode(self, text: str, first: bool = True) -> Pieces:
        with tokenizer_errors(self.where):
            if self.words is not None:
                return self.words.encode(text, self.opening(first))
            encoding = (self._text_first if first else self._text_rest).encode(text, add_special_tokens=False)
            return Pieces(encoding.ids, encoding.offsets)

    def encode_parsed(self, text: str, opening: bool = True) -> list[int]:
        """Ids as the Hugging Face tokenizer of the same folder gives them: control tokens in the text take effect.

        opening: let the tokenizer write its own first token, if it has one.
        """
        with tokenizer_errors(self.where):
            ids = self.backend.encode(text, add_special_tokens=opening).ids
        if opening and self.adds_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            return [self.bos_id, *ids]
        return ids

    def decode(self, ids: list[int], skip_special: bool = False) -> str:
        """Text of the ids; ids outside the vocabulary (an `<image>` not yet added) are left out."""
        with tokenizer_errors(self.where):
            return self.backend.decode([i for i in ids if 0 <= i < self.vocab_size], skip_special_tokens=skip_special)

    @cached_property
    def hash(self) -> str:
        """Sha256 over the model, its normaliser and pre-tokeniser, added tokens, and the first and last token."""
        model = {key: value for key, value in self.content["model"].items() if key not in ("vocab", "merges")}
        vocabulary = self.content["model"].get("vocab")
        merges = [_joined(merge) for merge in self.content["model"].get("merges", [])]
        # A padding token that is also the first, last or unknown token was there before it became padding.
        pad = None if self.pad_id in (self.bos_id, self.eos_id, self.unk_id) else self.pad_id
        tokens = ((token["id"], token["content"]) for token in self.content["added_tokens"])
        added = sorted({(i, token) for i, token in tokens if token != IMAGE_TOKEN and i != pad})
        parts = [model, vocabulary, merges, added, self.content["normalizer"], self.content["pre_tokenizer"]]
        parts += [self.adds_bos, self.bos_id, self.eos_id]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def _role(self, role: str) -> int | None:
        """The id of the token with this role, as the settings say, or by its usual name if there are no settings."""
        name = _text_of(self.settings.get(role))
        if name is not None:
            return self.token_id(name)
        if self.settings:
            return None
        known = (self.token_id(candidate) for candidate in USUAL_NAMES[role])
        return next((found for found in known if found is not None), None)

    @cached_property
    def backend(self) -> Backend:
        """The tokenizer exactly as in its file."""
        backend = Backend.from_str(json.dumps(self.content))
        backend.no_truncation()
        backend.no_padding()
        return backend

    def opening(self, first: bool) -> Backend | None:
        """What encodes the first word of a text in front of which a blank is put; None where there is none."""
        prefixed = self.prefix == "always" or (first and self.prefix == "first")
        return self._text_first if prefixed else None

    @cached_property
    def words(self) -> WordCache | None:
        """Encodes text word by word where that gives the ids of the whole text; None where it does not."""
        return WordCache.of(text_only(self.content))

    @cached_property
    def _text_first(self) -> Backend:
        return Backend.from_str(json.dumps(text_only(self.content)))

    @cached_property
    def _text_rest(self) -> Backend:
        if self.prefix != "first":
            return self._text_first
        plain = text_only(self.content)
        return Backend.from_str(
            json.dumps({**plain, "pre_tokenizer": {**plain["pre_tokenizer"], "prepend_scheme": "never"}})
        )


def text_only(content: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer.json without its control tokens, the merges that would build one, and its post-processor."""
    control = {token["content"] for token in content["added_tokens"] if is_control(token)}
    model = dict(content["model"])
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if _joined(merge) not in control]
    kept = [token for token in content["added_tokens"] if token["content"] not in control]
    plain = {"model": model, "added_tokens": kept, "post_processor": None, "truncation": None, "padding": None}
    return {**content, **plain}


def is_control(token: dict[str, Any]) -> bool:
    """Whether an added token steers the model. Added runs of blanks (GPT-NeoX has 23) are ordinary vocabulary."""
    return bool(token.get("special")) or CONTROL_LOOK.fullmatch(token["content"]) is not None


def _opening_token(processor: dict[str, Any] | None) -> str | None:
    """The control token that the post-processor writes in front of every text."""
    processor = processor or {}
    if processor.get("type") == "Sequence":
        found = (_opening_token(step) for step in processor["processors"])
        return next((token for token in found if token is not None), None)
    start: dict[str, Any] = next(iter(processor.get("single", [])), {})
    return start["SpecialToken"]["id"] if "SpecialToken" in start else None


def _prefix_scheme(content: dict[str, Any]) -> str:
    """When the tokenizer writes a blank before a text: 'never', only before the 'first', or 'always'."""
    pre = content.get("pre_tokenizer") or {}
    if pre.get("type") == "Metaspace":
        return str(pre.get("prepend_scheme", "always"))
    normaliser = content.get("normalizer") or {}
    steps = [normaliser, *normaliser.get("normalizers", [])]
    return "always" if any(step.get("type") == "Prepend" for step in steps) else "never"


def _joined(merge: str | list[str]) -> str:
    return merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)


def _text_of(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _missing(path: Path) -> str:
    if path.is_dir() and (path / "tokenizer.model").is_file():
        return (
            f"{path}: found only tokenizer.model, but tokenizer.json is needed. Convert it once, where transformers "
            "and sentencepiece are installed, keeping the merges ordered by score; docs/inputs.md has the code."
        )
    if not path.exists():
        return f"{path}: no such file or folder. Give a folder that holds tokenizer.json."
    return f"{path}: no tokenizer.json in this folder. Give the folder of a Hugging Face tokenizer or model."
