"""Which rows of a source go into the mix, and why the others do not. Pure functions on rows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.mix.recipe import MixSource
from schemas.errors import InputError
from schemas.standing import LEFT_OUT


def copies(hashed: int, weight: float) -> int:
    """How often a row is taken, given `key_hash` of it: the whole part of `weight` always, one more for a share of
    `weight % 1` of the keys."""
    return int(weight) + (hashed / 2**64 < weight % 1)


def key_hash(key: str, seed: int) -> int:
    """64 bits that key and seed decide alone, so rows added elsewhere change nothing here."""
    return _hash(f"{seed}/{key}")


def in_validation(key: str, image_keys: Sequence[str] | None, share: float, seed: int) -> bool:
    """Whether a row belongs to the validation part: by its first picture, so that no picture is in both parts of a mix
    as a first one, and by its own key where it has none."""
    return share > 0 and _hash(f"validation/{seed}/{(image_keys or [key])[0]}") / 2**64 < share


def refused_by(row: Mapping[str, Any], filters: Mapping[str, Any]) -> str | None:
    """Why the first filter that refuses the row does so; None when all pass.

    `<column>=<value>` where values are listed, and one of a few reasons for a range: `<column> below <min>`.
    """
    for column, accepted in filters.items():
        value = row[column]
        if isinstance(accepted, list):
            reason = None if value in accepted else f"{column}={value}"
        elif isinstance(value, str | list | dict):
            raise InputError(
                f"mix: `min` and `max` are for numbers, but {column!r} holds {_kind(value)}. List what passes."
            )
        else:
            reason = _outside(column, value, accepted)
        if reason is not None:
            return reason
    return None


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else "lists" if isinstance(value, list) else "structures"


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
