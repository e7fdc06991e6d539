"""What the epoch plan needs to know about the rows of a mix, from a few columns; no picture is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from schemas.chat import ImageRule
from schemas.chat.words import word_counts
from schemas.dataset import Dataset
from trainer.planning.strategies import strategy_of

LENGTHS_WITH_IMAGE = 128
"""LLaVA's `lengths` adds this to the words of a row with a picture, `modality_lengths` does not
(llava/train/train.py)."""


@dataclass(frozen=True)
class Rows:
    """lengths: tokens of each row, pictures included, after truncation. images: its pictures. tiles: the tower's inputs
    for them: one each, or where they are cut the overview and the tiles. All int64 (rows,)."""

    lengths: np.ndarray
    images: np.ndarray
    tiles: np.ndarray

    @classmethod
    def of(cls, mix: Dataset, rule: ImageRule, max_length: int | None) -> Rows:
        """Read the columns of `mix`; lengths are capped at `max_length` tokens."""
        tokens, images = (column.astype(np.int64) for column in mix.numeric(["tokens", "image_count"]))
        return cls(np.minimum(tokens, max_length or np.iinfo(np.int64).max), images, tile_counts(mix, rule))


def tile_counts(mix: Dataset, rule: ImageRule) -> np.ndarray:
    """Inputs of the tower for each row, int64 (rows,)."""
    if not rule.depends_on_size:
        return mix.numpy("image_count").astype(np.int64)
    parts = [np.empty(0, np.int64)]
    for fragment in mix.fragments:
        table = fragment.read(["widths", "heights"]).combine_chunks()
        widths, heights = (_lists(table.column(name)) for name in ("widths", "heights"))
        counts = np.asarray(widths.value_lengths().fill_null(0))
        row = np.repeat(np.arange(fragment.rows), counts)
        beside = np.minimum(counts[row], 2)  # alone, or one of several
        sizes = np.stack([widths.flatten().to_numpy(), heights.flatten().to_numpy(), beside], axis=1)
        known, which = np.unique(sizes, axis=0, return_inverse=True)
        tiles = np.array([rule.tiles(*one) for one in known.tolist()], np.int64)
        parts.append(np.bincount(row, tiles[which.reshape(-1)], fragment.rows).astype(np.int64))
    return np.concatenate(parts)


def original_lengths(mix: Dataset, strategy: str) -> np.ndarray:
    """What the original's sampler of this name sorts by, int64 (rows,): words, not tokens.

    LLaVA's `modality_lengths` are the words of all turns, with `<image>` as one; its `lengths`, which samplers without
    modality use, add LENGTHS_WITH_IMAGE where a row has a picture.
    """
    parts = [word_counts(_lists(fragment.read(["messages"]).column(0))) for fragment in mix.fragments]
    words = np.concatenate([np.empty(0, np.int64), *parts])
    if not strategy_of(strategy).signed:
        words += LENGTHS_WITH_IMAGE * (mix.numpy("image_count") > 0)
    return words


def _lists(column: pa.ChunkedArray) -> pa.ListArray:
    found = column.combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)
