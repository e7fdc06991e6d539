"""The order in which LLaVA and LLaVA-NeXT train, index for index, without torch.

Every function takes the arguments of the original's sampler: lengths whose sign is the modality (negative: text only),
the batch size of one rank, ranks x accumulation steps, and a random state that reproduces torch's. Written from the
behaviour of haotian-liu/LLaVA c121f04 and LLaVA-VL/LLaVA-NeXT df17966, `llava/train/llava_trainer.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from schemas.errors import InputError
from trainer.planning.torch_random import TorchRandom


@dataclass(frozen=True)
class Streams:
    """torch's global random state, and the sampler's own generator (the same object where it has none)."""

    world: TorchRandom
    own: TorchRandom


Grouping = Callable[[np.ndarray, int, int, Streams], np.ndarray]


def original_order(
    strategy: str,
    lengths: np.ndarray,
    batch_size: int,
    world_size: int,
    *,
    seed: int,
    generator_seed: int | None = None,
    epoch: int = 0,
) -> np.ndarray:
    """The indices the original's sampler yields after `torch.manual_seed(seed)`, int64.

    strategy is a key of `GROUPINGS`. With `generator_seed` the sampler holds a torch.Generator of that seed, else it
    draws from the global state only. `epoch` counts earlier passes over the same sampler. The `_auto` modality
    grouping drops rows, as the original does. Raises InputError where the original asserts (a length of zero).
    """
    world = TorchRandom(seed)
    streams = Streams(world, world if generator_seed is None else TorchRandom(generator_seed))
    for _ in range(epoch):
        GROUPINGS[strategy](lengths, batch_size, world_size, streams)
    return GROUPINGS[strategy](lengths, batch_size, world_size, streams)


def even_chunks(rows: np.ndarray, lengths: np.ndarray, chunks: int) -> np.ndarray:
    """Each line of `rows` (S, G, by descending length) as `chunks` chunks of equal size and similar length, joined.

    The next row goes to the shortest chunk that is not full, on a tie to the first. Where G is not a multiple of
    `chunks`, chunk k takes every chunks-th row starting at k.
    """
    lines, width = rows.shape
    if width % chunks:
        return np.concatenate([rows[:, chunk::chunks] for chunk in range(chunks)], axis=1)
    every = np.arange(lines)
    full = np.iinfo(np.int64).max
    totals = np.zeros((lines, chunks), np.int64)
    counts = np.zeros((lines, chunks), np.int64)
    chunk_of = np.empty((lines, width), np.int64)
    for column in range(width):
        shortest = totals.argmin(1)
        chunk_of[:, column] = shortest
        totals[every, shortest] += lengths[rows[:, column]]
        counts[every, shortest] += 1
        totals[every, shortest] = np.where(counts[every, shortest] == width // chunks, full, totals[every, shortest])
    return np.take_along_axis(rows, np.argsort(chunk_of, axis=1, kind="stable"), axis=1)


def rank_batches(
    indices: np.ndarray, batch_size: int, world_size: int, *, drop_last: bool, even_batches: bool = True
) -> list[list[np.ndarray]]:
    """The batches of each rank, as torch's BatchSampler under accelerate's BatchSamplerShard deals them.

    Batch j goes to rank j % world_size. `drop_last` leaves out the last incomplete round; otherwise `even_batches`
    completes it with the first rows again, or, if False, leaves ranks uneven.
    """
    rounds = (
        whole_rounds(indices, batch_size * world_size, drop_last=drop_last) if drop_last or even_batches else indices
    )
    batches = [rounds[start : start + batch_size] for start in range(0, len(rounds), batch_size)]
    return [batches[rank::world_size] for rank in range(world_size)]


def whole_rounds(indices: np.ndarray, size: int, *, drop_last: bool) -> np.ndarray:
    """`indices` cut, or completed from its own beginning, to a multiple of `size`."""
    excess = len(indices) % size
    if excess == 0:
        return indices
    if drop_last:
        return indices[: len(indices) - excess]
    return np.concatenate([indices, np.resize(indices[:size], size - excess)])


def _length_grouped(lengths: np.ndarray, batch_size: int, world_size: int, streams: Streams) -> np.ndarray:
    """get_length_grouped_indices: random megabatches, each divided evenly among ranks."""
    return _divided(streams.own.randperm(len(lengths)), lengths, batch_size * world_size, world_size)


def _length_grouped_auto(lengths: np.ndarray, batch_size: int, world_size: int, streams: Streams) -> np.ndarray:
    """get_length_grouped_indices_auto_single: sorted windows of up to 50 megabatches, and the megabatches shuffled."""
    size = batch_size * world_size
    window = min(len(lengths) // (size * 4), 50) or 1
    order = streams.own.randperm(len(lengths))
    windows = [
        _descending(order[start : start + window * size], lengths) for start in range(0, len(order), window * size)
    ]
    if windows:
        # The longest row comes first: if memory runs out, it does so at the start of the epoch.
        longest = int(np.argmax([lengths[rows[0]] for rows in windows]))
        windows[0][0], windows[longest][0] = windows[longest][0], windows[0][0]
    grouped = _divided(np.concatenate([*windows, order[:0]]), lengths, size, world_size)
    return _shuffled(_megabatches(grouped, size), streams.own)


def _variable_length(lengths: np.ndarray, batch_size: int, world_size: int, streams: Streams) -> np.ndarray:
    """get_variable_length_grouped_indices: all rows sorted, shuffled within windows of 8 megabatches."""
    size = batch_size * world_size
    key = streams.own.randperm(len(lengths))
    ordered = _descending(np.arange(len(lengths)), lengths)
    windows = [_descending(ordered[start : start + 8 * size], key) for start in range(0, len(ordered), 8 * size)]
    return _shuffled(_megabatches(np.concatenate([*windows, key[:0]]), size), streams.own)


def _modality(single: Grouping, keep_last: bool) -> Grouping:
    """The grouping by modality: each separately, then whole megabatches shuffled together.

    The last megabatch of either modality is not shuffled: both are joined into one mixed end (LLaVA, and NeXT's plain
    variant), or dropped (NeXT's `_auto`). Only the shuffle uses the sampler's own generator.
    """

    def grouping(lengths: np.ndarray, batch_size: int, world_size: int, streams: Streams) -> np.ndarray:
        zero = np.flatnonzero(lengths == 0)
        if len(zero):
            raise InputError(
                f"row {zero[0]} has length 0, which has no sign to show its modality. Should not have zero length."
            )
        if (lengths > 0).all() or (lengths < 0).all():
            return single(lengths, batch_size, world_size, streams)
        megabatches, last = [], []
        for sign in (1, -1):
            rows = np.flatnonzero(lengths * sign > 0)
            grouped = rows[single(lengths[rows] * sign, batch_size, world_size, Streams(streams.world, streams.world))]
            parts = _megabatches(grouped, batch_size * world_size)
            megabatches += parts[:-1]
            last.append(parts[-1])
        end = np.sort(np.concatenate(last)) if keep_last else last[0][:0]
        return np.concatenate([_shuffled(megabatches, streams.own), end])

    return grouping


def _divided(order: np.ndarray, lengths: np.ndarray, size: int, world_size: int) -> np.ndarray:
    """`order` cut into megabatches of `size`, each sorted by descending length and divided evenly among ranks."""
    whole = len(order) // size * size
    parts = [order[:whole].reshape(-1, size), order[whole:].reshape(1, -1)]
    return np.concatenate(
        [even_chunks(_descending(part, lengths), lengths, world_size).reshape(-1) for part in parts if part.size]
        + [order[:0]]
    )


def _descending(rows: np.ndarray, key: np.ndarray) -> np.ndarray:
    """`rows` sorted by descending `key` along the last axis; stable, like Python's sort."""
    return np.take_along_axis(rows, np.argsort(-key[rows], axis=-1, kind="stable"), axis=-1)


def _megabatches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _shuffled(parts: list[np.ndarray], random: TorchRandom) -> np.ndarray:
    order = random.randperm(len(parts))
    return np.concatenate([parts[index] for index in order.tolist()] + [np.empty(0, np.int64)])


GROUPINGS: dict[str, Grouping] = {
    "length_grouped": _length_grouped,
    "length_grouped_auto": _length_grouped_auto,
    "variable_length": _variable_length,
    "modality_length": _modality(_length_grouped, keep_last=True),
    "modality_length_auto": _modality(_length_grouped_auto, keep_last=False),
}
