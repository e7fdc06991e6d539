"""Which rows of a source go into the mix, and why the others do not. Pure functions on rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipelines.mix.recipe import MixSource
from schemas.dataset import Dataset
from schemas.errors import InputError


class KeyIndex:
    """Image key -> row of an images dataset, in 16 bytes per row: sorted 64-bit hashes beside row numbers."""

    def __init__(self, dataset: Dataset):
        keys = [key for batch in dataset.batches(["key"], 4096) for key in batch.column(0).to_pylist()]
        hashes = np.fromiter((_hash(key) for key in keys), np.uint64, len(keys))
        self.order = np.argsort(hashes, kind="stable")
        self.hashes = hashes[self.order]

    def find(self, key: str) -> int | None:
        """The first row whose key hashes like `key` (64 bits: callers read the row's key and compare)."""
        place = int(np.searchsorted(self.hashes, np.uint64(_hash(key))))
        if place == len(self.hashes) or self.hashes[place] != _hash(key):
            return None
        return int(self.order[place])


def copies(key: str, weight: float, seed: int) -> int:
    """How often a row is taken: the whole part of `weight` always, one more for a `weight % 1` share of the keys.

    A function of key and seed alone, so rows added elsewhere change nothing here.
    """
    share = _hash(f"{seed}/{key}") / 2**64
    return int(weight) + (share < weight % 1)


def refused_by(row: Mapping[str, Any], filters: Mapping[str, Any]) -> str | None:
    """The first column of `row` that a filter refuses; None when all pass."""
    for column, accepted in filters.items():
        value = row[column]
        if isinstance(accepted, list):
            passes = value in accepted
        elif isinstance(value, str | list | dict):
            raise InputError(f"mix: `min` and `max` are for numbers, and {column!r} has {value!r}. List what passes.")
        else:
            passes = value is not None and accepted.get("min", value) <= value <= accepted.get("max", value)
        if not passes:
            return column
    return None


def image_filters(source: MixSource, columns: list[str]) -> dict[str, Any]:
    """The filters on pictures: the recipe's own, and what every picture must be (there, and no copy)."""
    filters: dict[str, Any] = {}
    if "download_status" in columns:
        filters["download_status"] = ["ok"]
    if source.duplicates == "drop" and "duplicate_of" in columns:
        filters["duplicate_of"] = [None]
    return {**filters, **source.image_where}


def caption_rows(batch_rows: list[dict[str, Any]], source: MixSource, name: str) -> Iterator[dict[str, Any]]:
    """Image rows as conversations of one picture and its caption; rows without a caption keep status `no_caption`."""
    column = source.captions or ""
    for row in batch_rows:
        caption = row[column][0] if isinstance(row[column], list) and row[column] else row[column]
        asked = [{"type": "image", "text": None}]
        asked += [{"type": "text", "text": source.question}] if source.question else []
        answer = [{"type": "text", "text": caption or ""}]
        yield {
            "key": f"{row['key']}/{column}",
            "image_keys": [row["key"]],
            "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}],
            "kind": "caption",
            "source": name,
            "status": "ok" if caption else "no_caption",
        }


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
