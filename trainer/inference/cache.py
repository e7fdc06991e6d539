"""Key-value caches of a batch with rows joining and leaving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 64
"""Columns that a layer allocates ahead. transformers' own layer copies all its keys and values for every token."""


class Rows:
    """`mask`: (rows, width), 1 where a row has a token, on the CPU. `cache`: transformers' own; keys and values of a
    layer are (rows, heads, width, head size), on the layer's device."""

    def __init__(self, mask: torch.Tensor | None = None):
        """mask: of prompts whose keys and values the next forward pass fills in; None for no rows."""
        self.mask = torch.zeros((0, 0), dtype=torch.int64) if mask is None else mask
        # Without a configuration every layer keeps all positions, also one that looks back over a window only: what it
        # may look at follows from the mask, and rows of all layers can be moved alike.
        self.cache: Any = Cache(layer_class_to_replicate=_Roomy)

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


class _Roomy(DynamicLayer):
    """A layer whose `keys` and `values` are views of a larger allocation that new tokens are written into."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._held: list[torch.Tensor] = []
        self._shown: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *arguments: Any, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized or self.keys is None or self.values is None or not self.keys.numel():
            return super().update(key_states, value_states, *arguments, **options)
        width = self.keys.shape[2] + key_states.shape[2]
        foreign = not self._shown or self._shown[0] is not self.keys or self._shown[1] is not self.values
        if foreign or width > self._held[0].shape[2]:
            self._held = [self._larger(one, width + ROOM) for one in (self.keys, self.values)]
        for held, new in zip(self._held, (key_states, value_states), strict=True):
            held[:, :, width - new.shape[2] : width] = new
        self._shown = [held[:, :, :width] for held in self._held]
        self.keys, self.values = self._shown
        return self.keys, self.values

    def _larger(self, values: torch.Tensor, width: int) -> torch.Tensor:
        made = values.new_empty((*values.shape[:2], width, values.shape[3]))
        made[:, :, : values.shape[2]] = values
        return made


def _widened(values: torch.Tensor, width: int) -> torch.Tensor:
    return pad(values, (0, 0, width - values.shape[2], 0))
