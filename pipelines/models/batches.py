"""Batches in which one bad item costs one item."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from schemas.errors import LavaBeamError

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Failed:
    """What replaces a result when a model raised on this item alone."""

    detail: str


def in_batches(
    items: Sequence[Item], most: int, model: Callable[[Sequence[Item]], Sequence[Made]]
) -> list[Made | Failed]:
    """One result per item, in order; `model` gets at most `most` items at a time.

    When it raises on a batch, each item of that batch is tried alone; our own errors are about all of them, and pass.
    """
    found: list[Made | Failed] = []
    for start in range(0, len(items), most):
        found += _tried(items[start : start + most], model)
    return found


def one_line(error: Any) -> str:
    """What went wrong, without memory addresses: the same input must give the same row."""
    message = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "the bytes", " ".join(str(error).split()))
    return f"{type(error).__name__}: {message}"[:300]


def _tried(items: Sequence[Item], model: Callable[[Sequence[Item]], Sequence[Made]]) -> list[Made | Failed]:
    try:
        return list(model(items))
    except LavaBeamError:
        raise
    except Exception as error:
        # Whatever a model library raises: it is reported in the row, and the other rows go on.
        if len(items) == 1:
            return [Failed(one_line(error))]
        return [one for item in items for one in _tried([item], model)]
