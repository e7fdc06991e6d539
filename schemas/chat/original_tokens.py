"""Tokenise as the original LLaVA code did, with the slow Llama tokenizer of transformers 4.37 where it used that.

Sources: transformers 4.37.2, tokenization_llama.py and tokenization_utils.py; LLaVA, mm_utils.tokenizer_image_token.
"""

from __future__ import annotations

import json
import re
from functools import cached_property, lru_cache
from typing import Any

from tokenizers import Tokenizer as Backend

from schemas.chat.tokenizer import IMAGE_TOKEN, Tokenizer, text_only
from schemas.chat.tokenizerfile import tokenizer_errors
from schemas.errors import InputError

ORIGINAL_IMAGE = -200
BLANK = "\u2581"
"""SentencePiece's visible blank."""


class OriginalTokens:
    """The original's view of a tokenizer.

    `legacy`: the slow Llama tokenizer put a blank before every piece of text between control tokens (legacy), or only
    before the first. It follows the tokenizer's settings or, if they do not say, its prefix rule.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.is_slow = _is_sentencepiece(tokenizer.content) and tokenizer.prefix in ("first", "always")
        stated = tokenizer.settings.get("legacy")
        self.legacy = stated if isinstance(stated, bool) else tokenizer.prefix == "always"
        self.image_id = tokenizer.image_id

    @staticmethod
    @lru_cache(maxsize=4)
    def of(tokenizer: Tokenizer) -> OriginalTokens:
        """The view of this tokenizer, made once."""
        return OriginalTokens(tokenizer)

    @property
    def pad_id(self) -> int:
        """The original pads with the unknown token, and counts everything else."""
        return self.tokenizer.pad_id if self.tokenizer.unk_id is None else self.tokenizer.unk_id

    @property
    def always_opens_answer(self) -> bool:
        """Whether the chat template always adds an assistant header, as Llama-3's first published one did."""
        text = self.tokenizer.settings.get("chat_template")
        return isinstance(text, str) and "<|start_header_id|>" in text and "add_generation_prompt" not in text

    def token(self, name: str) -> int:
        """The id of a control token; raises InputError when the tokenizer has none of that name."""
        found = self.tokenizer.token_id(name)
        if found is None:
            raise InputError(f"{self.tokenizer.where}: the tokenizer has no token {name}, which this template needs.")
        return found

    def ids(self, text: str) -> list[int]:
        """`tokenizer(text).input_ids`."""
        if not self.is_slow:
            return self.tokenizer.encode_parsed(text)
        opening = [self.tokenizer.bos_id] if self.tokenizer.adds_bos and self.tokenizer.bos_id is not None else []
        return opening + (self._legacy(text) if self.legacy else self._recent(text))

    def with_images(self, text: str) -> list[int]:
        """`tokenizer_image_token`: text between pictures is tokenised piece by piece, the first token kept once."""
        chunks = [self.ids(chunk) for chunk in text.split(IMAGE_TOKEN)]
        shared = int(bool(chunks[0]) and chunks[0][0] == self.tokenizer.bos_id)
        ids = chunks[0][:]
        for chunk in chunks[1:]:
            ids += [ORIGINAL_IMAGE, *chunk[shared:]]
        return ids

    def parsed(self, text: str, has_image: bool) -> list[int]:
        """Ids of a block of a chat template; `<image>` is one token when the row has pictures."""
        chunks = text.split(IMAGE_TOKEN) if has_image else [text]
        ids = self.tokenizer.encode_parsed(chunks[0], opening=False)
        for chunk in chunks[1:]:
            ids += [self.image_id, *self.tokenizer.encode_parsed(chunk, opening=False)]
        return ids

    def _legacy(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece, control in self._stretches(text):
            ids += [control] if control is not None else self._pieces(BLANK + piece)
        return ids

    def _recent(self, text: str) -> list[int]:
        if not text:
            return []
        ids: list[int] = []
        for number, (piece, control) in enumerate(self._stretches(BLANK + text)):
            if number == 1 and control in self._special and ids == self._pieces(BLANK):
                ids = []
            ids += [control] if control is not None else self._pieces(piece)
        return ids

    def _pieces(self, text: str) -> list[int]:
        with tokenizer_errors(self.tokenizer.where):
            return self._raw.encode(text.replace(" ", BLANK), add_special_tokens=False).ids

    def _stretches(self, text: str) -> list[tuple[str, int | None]]:
        """The text split at added tokens, longest match first; with the id of each piece that is one."""
        cut = self._added_pattern.split(text) if self._added else [text]
        return [(piece, self._added.get(piece)) for piece in cut if piece]

    @cached_property
    def _added(self) -> dict[str, int]:
        return {token["content"]: token["id"] for token in self.tokenizer.content["added_tokens"]}

    @cached_property
    def _special(self) -> set[int]:
        return {token["id"] for token in self.tokenizer.content["added_tokens"] if token.get("special")}

    @cached_property
    def _added_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._added, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    @cached_property
    def _raw(self) -> Backend:
        """Only the merges: blanks and control tokens are handled here."""
        bare = {**text_only(self.tokenizer.content), "normalizer": None, "pre_tokenizer": None, "added_tokens": []}
        return Backend.from_str(json.dumps(bare))


def _is_sentencepiece(content: dict[str, Any]) -> bool:
    """A SentencePiece BPE that takes a text as one word, as Llama's does."""
    pre = content.get("pre_tokenizer") or {}
    whole = not pre or (pre.get("type") == "Metaspace" and not pre.get("split", True))
    return content["model"].get("type") == "BPE" and bool(content["model"].get("byte_fallback")) and whole
