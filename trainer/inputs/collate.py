"""Items to tensors: padded rows, or one packed row. Every micro-batch has a picture, so every rank runs the tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from schemas.chat import IGNORE, ImageRule
from trainer.inputs.data import Item
from trainer.models.families import family_of


@dataclass(frozen=True)
class Collator:
    """A micro-batch without pictures gets a blank one: its tokens have attention 0 or a separate sequence, and no
    labels. The loss is the same, and tower and projector run on every rank in every micro-step, as ZeRO requires.
    """

    rule: ImageRule
    image_id: int
    pad_id: int
    packed: bool = False
    multiple: int = 1
    """Of which the length of a packed row is one, filled up with a sequence of padding that teaches nothing."""

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        """Model inputs of a micro-batch: int64 ids and labels (rows, tokens), uint8 pictures (`stack_pictures`), where
        logits are needed (`learnt`), and for packed rows where each begins (`boundaries`). An empty micro-batch becomes
        a blank picture without labels. `trainer.inputs.device` normalises the pictures where the model is."""
        rows = [(item.ids, item.labels) for item in items]
        pictures = [picture for item in items for picture in item.pictures]
        sizes = [size for item in items for size in item.sizes]
        counts = [len(item.pictures) for item in items]
        blank = not pictures
        if blank:
            side = self.rule.image_size
            sizes, counts = [(side, side)], [1]
            pictures = [np.zeros((self.rule.tiles(side, side), 3, side, side), np.uint8)]
        inputs = self._packed(rows, blank) if self.packed else self._padded(rows, blank)
        return {**inputs, **learnt(inputs["labels"]), **stack_pictures(pictures, sizes, counts, self.rule)}

    def _padded(self, rows: list[tuple[np.ndarray, np.ndarray]], blank: bool) -> dict[str, torch.Tensor]:
        extra = self._blank_tokens() if blank else 0
        count = max(len(rows), 1)
        width = max((len(ids) + (extra if number == 0 else 0) for number, (ids, _) in enumerate(rows)), default=extra)
        tokens = np.full((count, width), self.pad_id, np.int64)
        labels = np.full((count, width), IGNORE, np.int64)
        mask = np.zeros((count, width), np.int64)
        for number, (ids, targets) in enumerate(rows):
            tokens[number, : len(ids)] = ids
            labels[number, : len(ids)] = targets
            mask[number, : len(ids)] = 1
        if blank:
            start = len(rows[0][0]) if rows else 0
            tokens[0, start : start + extra] = self.image_id
            # In a row with nothing else, some position must be attended to; it has no labels.
            mask[0, start : start + extra] = 0 if rows else 1
        return _tensors({"input_ids": tokens, "labels": labels, "attention_mask": mask})

    def _packed(self, rows: list[tuple[np.ndarray, np.ndarray]], blank: bool) -> dict[str, Any]:
        """One row. Positions restart at every sample, which is what keeps samples from attending to each other.

        The first label of a sample is dropped: it would be predicted from the previous sample.
        """
        if blank:
            extra = np.full(self._blank_tokens(), self.image_id, np.int32)
            rows = [*rows, (extra, np.full(len(extra), IGNORE, np.int32))]
        missing = -sum(len(ids) for ids, _ in rows) % self.multiple
        if missing:
            rows = [*rows, (np.full(missing, self.pad_id, np.int32), np.full(missing, IGNORE, np.int32))]
        labels = [np.concatenate([[IGNORE], targets[1:]]) for _, targets in rows]
        tokens = np.concatenate([ids for ids, _ in rows]).astype(np.int64)
        positions = np.concatenate([np.arange(len(ids)) for ids, _ in rows])
        values = {"input_ids": tokens, "labels": np.concatenate(labels).astype(np.int64), "position_ids": positions}
        lengths = [len(ids) for ids, _ in rows]
        return {**_tensors({name: value[None] for name, value in values.items()}), **boundaries(lengths)}

    def _blank_tokens(self) -> int:
        return self.rule.tokens(self.rule.image_size, self.rule.image_size)


def boundaries(lengths: Sequence[int]) -> dict[str, Any]:
    """What variable-length attention needs to know of packed rows, by transformers' names (FlashAttentionKwargs).

    `cu_seq_lens_q`, `_k`: int32 (rows + 1,), where each row begins, and the end. `max_length_q`, `_k`: the longest row
    as a Python integer: a tensor would make the host wait for the GPU in every layer, and flash-attn 4 refuses one.
    Without these transformers infers them from `position_ids`, in every layer again.
    """
    starts = torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32))
    longest = int(max(lengths))
    return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}


def learnt(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """`logits_to_keep` (positions,) int64: those at which any row predicts a token that it learns; and `shift_labels`
    (rows, positions): what is predicted there. Logits of the others, most of a mix, need neither memory nor time.

    At least one position is kept: the loss of nothing is 0, not missing.
    """
    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)
    positions = (following != IGNORE).any(0).nonzero()[:, 0]
    if not len(positions):
        positions = torch.zeros(1, dtype=torch.int64)
    return {"logits_to_keep": positions, "shift_labels": following[:, positions]}


def stack_pictures(
    pictures: list[np.ndarray], sizes: list[tuple[int, int]], counts: Sequence[int], rule: ImageRule
) -> dict[str, torch.Tensor]:
    """The pictures of all rows as the models of `rule` take them; sizes: (width, height) of each, counts: of each row.

    `pixel_values` (tiles of all pictures, 3, S, S), of the pictures' type; for families with tiles `image_sizes` int64
    (pictures, 2): height and width, the order that transformers expects; for those whose pictures depend on how many a
    row has, `batch_num_images` (rows with pictures,). transformers' processors pad every picture to the most tiles of
    any; its models cut that off again, and take tiles without padding as they are.
    """
    family = family_of(rule)
    found = {"pixel_values": torch.from_numpy(np.concatenate(pictures))}
    if family.tiled:
        found["image_sizes"] = torch.tensor([[height, width] for width, height in sizes])
    if family.tiled and family.counts:
        found["batch_num_images"] = torch.tensor([count for count in counts if count])
    return found


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
