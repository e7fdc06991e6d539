"""Sequence parallelism: several ranks share each packed row, and exchange heads for tokens around attention.

DeepSpeed-Ulysses (Jacobs et al. 2023, arXiv 2309.14509, section 3): everything but attention looks at tokens one by
one, so a rank computes its part of the row. Before attention each rank gives away its tokens' other heads and receives
its own heads of all tokens; afterwards the reverse. Tower, projector and embeddings are computed by all ranks of a
group: they are small beside a row this long.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

NAME = "ulysses"


def own_group(size: int) -> Any:
    """The process group of `size` neighbouring ranks that this rank belongs to. Every rank has to call this."""
    own = None
    for first in range(0, dist.get_world_size(), size):
        group = dist.new_group(range(first, first + size))
        if first <= dist.get_rank() < first + size:
            own = group
    return own


def share_rows(model: Any, group: Any, kernel: str) -> None:
    """Let the language model compute this rank's part of every row, with `kernel` for the attention of its heads."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention_of(group, kernel))
    model.config.text_config._attn_implementation = NAME
    model.model.language_model.register_forward_pre_hook(_own_part(group), with_kwargs=True)


def _own_part(group: Any) -> Any:
    """A hook that leaves only this rank's tokens. Boundaries of rows stay those of all: attention sees all tokens."""
    part, parts = dist.get_rank(group), dist.get_world_size(group)

    def cut(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        own = {name: named[name].chunk(parts, 1)[part] for name in ("inputs_embeds", "position_ids")}
        return given, {**named, **own}

    return cut


def _attention_of(group: Any, kernel: str) -> Any:
    """transformers' attention interface around `kernel`."""
    from transformers import AttentionInterface

    inner = AttentionInterface()[kernel]

    def attention(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None = None,  # of this rank's tokens: no kernel may take them for those of all
        **named: Any,
    ) -> tuple[torch.Tensor, None]:
        """query, key, value: (1, heads, this rank's tokens, size). Returns (1, this rank's tokens, heads, size)."""
        # flash-attn's wrapper asks the module which kernel it is.
        config = SimpleNamespace(_attn_implementation=kernel, dtype=query.dtype)
        stand_in = SimpleNamespace(config=config, is_causal=True, modules=module.modules)
        whole = [_heads_for_tokens(part, group) for part in (query, key, value)]
        return _tokens_for_heads(inner(stand_in, *whole, None, **named)[0], group), None

    return attention


def _heads_for_tokens(own: torch.Tensor, group: Any) -> torch.Tensor:
    """(1, heads, own tokens, size) -> (1, own heads, tokens, size)."""
    parts = dist.get_world_size(group)
    _, heads, tokens, size = own.shape
    sent = own.reshape(parts, heads // parts, tokens, size)  # rank i of the group gets the i-th part of the heads
    found = _Exchange.apply(sent, group)
    return found.transpose(0, 1).reshape(1, heads // parts, parts * tokens, size)


def _tokens_for_heads(own: torch.Tensor, group: Any) -> torch.Tensor:
    """(1, tokens, own heads, size) -> (1, own tokens, heads, size)."""
    parts = dist.get_world_size(group)
    _, tokens, heads, size = own.shape
    found = _Exchange.apply(own.reshape(parts, tokens // parts, heads, size), group)
    return found.transpose(0, 1).reshape(1, tokens // parts, parts * heads, size)


class _Exchange(torch.autograd.Function):
    """Part i of the first dimension goes to rank i of the group. The gradient takes the way back, which is the same."""

    @staticmethod
    def forward(context: Any, sent: torch.Tensor, group: Any) -> torch.Tensor:
        context.group = group
        sent = sent.contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        return received

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        sent = gradients[0].contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=context.group)
        return received, None
