"""Validates planner input, naming the row or number that is wrong."""

from __future__ import annotations

import numpy as np

from schemas.errors import InputError


def check_rows(lengths: np.ndarray, image_counts: np.ndarray, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Both as int64 (N,). Raises InputError unless lengths are integers >= `least` and image counts integers >= 0."""
    lengths, image_counts = _integers("lengths", lengths, least), _integers("image counts", image_counts, 0)
    if len(lengths) != len(image_counts):
        raise InputError(f"{len(lengths)} lengths but {len(image_counts)} image counts; give one of each per row")
    if len(lengths) == 0:
        raise InputError("there are no rows to plan; give a dataset with at least one row")
    return lengths, image_counts


def check_sizes(global_batch: int, world_size: int, accumulation: int, epoch: int) -> None:
    """Raises InputError for sizes below one, and for ranks without a row."""
    sizes = {"world size": world_size, "accumulation": accumulation, "global batch": global_batch, "epoch": epoch + 1}
    for name, size in sizes.items():
        if size < 1:
            least = "0" if name == "epoch" else "1"
            raise InputError(f"{name} is {size - (name == 'epoch')}; the minimum is {least}")
    if global_batch < world_size:
        raise InputError(
            f"a global batch of {global_batch} leaves some of the {world_size} ranks without a row in every step; "
            f"make it at least {world_size}"
        )


def check_token_bound(strategy: str, original: bool, lengths: np.ndarray, max_tokens: int | None) -> None:
    """Raises InputError for a row that no micro-step can hold, and for a bound on a grouping that cannot apply it."""
    if max_tokens is None:
        return
    if original:
        raise InputError(
            f"strategy {strategy} keeps the original's batches and takes no max_tokens; leave it out or use balanced"
        )
    longest = int(lengths.argmax())
    if lengths[longest] > max_tokens:
        over = int((lengths > max_tokens).sum())
        raise InputError(
            f"row {longest} has {lengths[longest]} tokens, more than the {max_tokens} a micro-step may hold "
            f"({over} such rows); "
            f"raise max_tokens to at least {lengths[longest]} or leave these rows out of the mix"
        )


def _integers(name: str, values: np.ndarray, least: int) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1:
        raise InputError(f"{name} have shape {values.shape}; expected one number per row")
    if values.size and values.dtype.kind not in "iu":
        raise InputError(f"{name} are {values.dtype}; expected integers")
    values = values.astype(np.int64)
    wrong = np.flatnonzero(values < least)
    if len(wrong):
        raise InputError(f"{name}: row {wrong[0]} has {values[wrong[0]]}, the minimum is {least} ({len(wrong)} rows)")
    return values
