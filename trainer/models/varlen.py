"""Attention over packed rows without flash-attn: torch's own variable-length kernel, as an attention of transformers.

Rows are concatenated into one; `cu_seq_lens` says where each begins, and none sees another. On a GPU this is
`torch.nn.attention.varlen`; elsewhere the same is computed row by row.
"""

from __future__ import annotations

import inspect
from itertools import pairwise
from typing import Any

import torch

from schemas.errors import LavaBeamError

NAME = "torch_varlen"

OPTIONS = {"scale", "window_size", "enable_gqa"}
"""Of torch's function: the first releases that had it (2.10) lack them, and without them it is not this attention."""


def register() -> None:
    """Make NAME an `attn_implementation`. Without a mask function of that name transformers makes no mask."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, varlen_attention)


def available() -> bool:
    """Whether this torch has the kernel's function with all that we need."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return inspect.signature(varlen_attn).parameters.keys() >= OPTIONS


def varlen_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each packed row, as transformers calls it.

    query: (1, heads, tokens, size); key, value: (1, heads or fewer, tokens, size). cu_seq_lens_q: int32 (rows + 1,).
    Returns (1, tokens, heads, size). Raises LavaBeamError for rows that are not packed: they have no boundaries.
    """
    if cu_seq_lens_q is None or max_length_q is None or len(query) != 1:
        raise LavaBeamError(f"attention {NAME} was given rows that are not packed. Use `attention: sdpa` for them.")
    window = -1 if sliding_window is None else sliding_window - 1  # a token itself counts as one of the window
    kernel = _kernel if query.is_cuda else row_by_row
    queries, keys, values = (part[0].transpose(0, 1) for part in (query, key, value))
    return kernel(queries, keys, values, cu_seq_lens_q, max_length_q, scaling, window)[None], None


def _kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    scale: float | None,
    window: int,
) -> torch.Tensor:
    """torch's kernel: (tokens, heads, size) each, in half precision, `window` tokens back (-1: all)."""
    from torch.nn.attention.varlen import varlen_attn

    found = varlen_attn(
        query,
        key,
        value,
        starts,
        starts,
        longest,
        longest,
        scale=scale,
        window_size=(window, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(found, torch.Tensor)
    return found


def row_by_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    scale: float | None,
    window: int,
) -> torch.Tensor:
    """What the kernel computes, by torch's scaled dot product of one row at a time, on any device."""
    parts = []
    for start, end in pairwise(starts.tolist()):
        one, keys, values = (part[start:end].transpose(0, 1)[None] for part in (query, key, value))
        mask = _window_mask(end - start, window, query.device) if 0 <= window < end - start else None
        found = torch.nn.functional.scaled_dot_product_attention(
            one, keys, values, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
        )
        parts.append(found[0].transpose(0, 1))
    return torch.cat(parts)


def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """bool (length, length): the token itself and `window` tokens before it."""
    back = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (back >= 0) & (back <= window)
