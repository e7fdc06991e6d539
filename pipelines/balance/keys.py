"""`balance_keys`: the noun phrases of every caption."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from pipelines.balance.phrases import LEXICON, Finder, finder, versions
from pipelines.engine.step import Config, Context, Step
from schemas.dataset import Dataset, Fragment
from schemas.errors import InputError
from schemas.fingerprint import fingerprint

PHRASES = "noun_phrases"


class BalanceConfig(Config):
    """Whose concepts are balanced, and by which rule."""

    column: str = Field("alt_text", description="the captions: a text column, or a list (the first text counts)")
    phrases: str = Field(LEXICON, description="what finds noun phrases: lexicon (English), or spacy:MODEL")
    rule: Literal["pool", "union"] = Field(
        "pool",
        description="pool: a frequent phrase draws until the pool holds max_per_phrase captions with it; union: it "
        "draws that many regardless of the pool",
    )
    min_count: int = Field(3, ge=1, description="phrases in fewer captions draw nothing")
    max_per_phrase: int = Field(100, ge=1, description="maximum captions that a phrase draws")
    seed: int = 0
    """Decides, with keys and phrases, which captions are drawn."""


class KeyStatus(StrEnum):
    """What is known about a caption."""

    ok = "ok"
    no_caption = "no_caption"  # null, or without a letter or digit
    no_phrase = "no_phrase"  # no noun phrase in it


class BalanceKeys(Step[BalanceConfig]):
    """Adds the different noun phrases of each caption, in order: lower case, without determiners and numbers."""

    name = "balance_keys"
    version = 1
    Config = BalanceConfig
    statuses = KeyStatus
    adds = (pa.field(PHRASES, pa.list_(pa.string())),)
    batch_rows = 256
    _find: Finder | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.config.column,)

    def fingerprint(self, inputs: dict[str, str]) -> str:
        """No option of the rule changes the phrases, only what is made of them."""
        asked = {"column": self.config.column, "phrases": self.config.phrases}
        return fingerprint(self.name, self.version, {**asked, **self.dependencies}, inputs)

    def depends_on(self) -> dict[str, Any]:
        return versions(self.config.phrases)

    def fragments(self, dataset: Dataset) -> list[Fragment]:
        """All; raises InputError for a column that holds no text."""
        kind = _column_type(dataset, self.config.column)
        if kind is not None and not _is_text(kind):
            raise InputError(
                f"balance: column {self.config.column!r} of {dataset.path} holds {kind}, expected text or lists of "
                "text. Name another with --column."
            )
        return list(dataset.fragments)

    def setup(self, context: Context) -> None:
        self._find = finder(self.config.phrases)

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        captions = [_first(value) for value in batch.column(self.config.column).to_pylist()]
        self._find = self._find or finder(self.config.phrases)
        found = iter(self._find([caption for caption in captions if caption]))
        return self.rows_to_batch([_row(next(found) if caption else None) for caption in captions])


def _row(phrases: list[str] | None) -> dict[str, Any]:
    if phrases is None:
        return {PHRASES: None, "status": KeyStatus.no_caption.value}
    return {PHRASES: phrases, "status": (KeyStatus.ok if phrases else KeyStatus.no_phrase).value}


def _first(value: str | list[str | None] | None) -> str:
    """The text of a cell, empty where there is none: of a list the first, as in a mix's source of `captions`."""
    text = (value[0] if value else None) if isinstance(value, list) else value
    return text if text and any(map(str.isalnum, text)) else ""


def _column_type(dataset: Dataset, column: str) -> pa.DataType | None:
    """The type of a column, None where no fragment has rows or the column: the engine reports one that is missing."""
    if column not in dataset.columns:
        return None
    fragment = next((one for one in dataset.fragments if one.rows), None)
    return None if fragment is None else next(iter(fragment.batches([column], 1))).schema.field(column).type


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
