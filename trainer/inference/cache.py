"""The key-value caches of a batch whose rows come and go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad


class Rows:
    """`mask`: (rows, width), 1 where a row has a token, on the CPU. `cache`: transformers' own; keys and values of a
    layer are (rows, heads, width, head size), on the layer's device."""

    def __init__(self, mask: torch.Tensor | None = None):
        """mask: of prompts whose keys and values the next forward pass fills in; None for no rows."""
        from transformers import DynamicCache

        self.mask = torch.zeros((0, 0), dtype=torch.int64) if mask is None else mask
        # Without a configuration every layer keeps all positions, also one that looks back over a window only: what it
        # may look at follows from the mask, and rows of all layers can be moved alike.
        self.cache: Any = DynamicCache()

    def append(self, other: Rows) -> None:
        """Put the rows of `other` below these. Both become as wide as the wider one, on the left."""
        if not len(self.mask):
            self.mask, self.cache = other.mask, other.cache
            return
        width = max(self.mask.shape[1], other.mask.shape[1])
        self.mask = torch.cat([pad(one, (width - one.shape[1], 0)) for one in (self.mask, other.mask)])
        for ours, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            ours.keys = torch.cat([_widened(one, width) for one in (ours.keys, theirs.keys)])
            ours.values = torch.cat([_widened(one, width) for one in (ours.values, theirs.values)])

    def keep(self, rows: Sequence[int]) -> None:
        """Only `rows`, in that order, without the columns that are padding in all of them."""
        if not rows:
            self.__init__()  # type: ignore[misc]
            return
        chosen = torch.tensor(rows)
        mask = self.mask[chosen]
        first = int(mask.any(0).nonzero()[0])
        self.mask = mask[:, first:]
        for layer in self.cache.layers:
            index = chosen.to(layer.keys.device)
            layer.keys, layer.values = layer.keys[index, :, first:], layer.values[index, :, first:]

    def grow(self) -> None:
        """Room for one more token of every row; the next forward pass fills in its keys and values."""
        self.mask = pad(self.mask, (0, 1), value=1)


def _widened(values: torch.Tensor, width: int) -> torch.Tensor:
    return pad(values, (0, 0, width - values.shape[2], 0))
