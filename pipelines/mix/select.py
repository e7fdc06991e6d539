"""Which rows of a source go into the mix, and why the others do not. Pure functions on rows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.mix.recipe import MixSource
from schemas.errors import InputError
from schemas.standing import LEFT_OUT


def copies(key: str, weight: float, seed: int) -> int:
    """How often a row is taken: the whole part of `weight` always, one more for a `weight % 1` share of the keys.

    A function of key and seed alone, so rows added elsewhere change nothing here.
    """
    share = _hash(f"{seed}/{key}") / 2**64
    return int(weight) + (share < weight % 1)


def refused_by(row: Mapping[str, Any], filters: Mapping[str, Any]) -> str | None:
    """Why the first filter that refuses the row does so; None when all pass.

    `<column>=<value>` where values are listed, and one of a few reasons for a range: `<column> below <min>`.
    """
    for column, accepted in filters.items():
        value = row[column]
        if isinstance(accepted, list):
            reason = None if value in accepted else f"{column}={value}"
        elif isinstance(value, str | list | dict):
            raise InputError(f"mix: `min` and `max` are for numbers, but {column!r} has {value!r}. List what passes.")
        else:
            reason = _outside(column, value, accepted)
        if reason is not None:
            return reason
    return None


def _outside(column: str, value: Any, accepted: Mapping[str, float]) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return f"{column} missing"
    if value < accepted.get("min", value):
        return f"{column} below {accepted['min']:g}"
    return f"{column} above {accepted['max']:g}" if value > accepted.get("max", value) else None


def caption_rows(batch_rows: list[dict[str, Any]], source: MixSource, name: str) -> Iterator[dict[str, Any]]:
    """Image rows as conversations of one picture and its caption; rows without a caption are left out."""
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
            "status": "ok",
            LEFT_OUT: None if caption else "no_caption",
        }


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
