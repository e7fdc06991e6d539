"""Attention over packed rows: each row's is its own, on a CPU by parts and on a GPU by torch's kernel."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import LavaBeamError
from trainer.models import varlen


def naive(query, key, value, lengths, window, scale):
    """softmax(q k^T) v by hand over all packed tokens with a mask. (tokens, heads, size) each."""
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(len(row))
    back = place[:, None] - place
    seen = (row[:, None] == row) & (back >= 0) & ((back <= window) if window >= 0 else True)
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, float("-inf")).softmax(-1), value)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    shared=st.sampled_from([1, 2, 4]),
    window=st.sampled_from([None, 1, 2, 5, 100]),
    seed=st.integers(0, 99),
)
def test_each_row_attends_to_itself_alone(lengths, shared, window, seed):
    torch.manual_seed(seed)
    tokens = sum(lengths)
    parts = [torch.randn(1, heads, tokens, 8, requires_grad=True) for heads in (4, shared, shared)]
    starts = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    found, _ = varlen.varlen_attention(
        None, *parts, None, scaling=0.3, sliding_window=window, cu_seq_lens_q=starts, max_length_q=max(lengths)
    )
    flat = [part[0].transpose(0, 1) for part in parts]
    expected = naive(*flat, lengths, -1 if window is None else window - 1, 0.3)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(expected)
    ours = torch.autograd.grad((found[0] * weights).sum(), parts)
    theirs = torch.autograd.grad((expected * weights).sum(), parts)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_rows_that_are_not_packed_are_refused():
    part = torch.zeros(2, 4, 3, 8)
    with pytest.raises(LavaBeamError, match="not packed"):
        varlen.varlen_attention(None, part, part, part, None)


def test_this_torch_has_the_kernel_with_all_that_we_give_it():
    """constraints.txt pins a torch whose function takes scale, window and shared heads."""
    assert varlen.available()


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] < 8,
    reason="torch's variable-length kernel needs a GPU of compute capability 8.0",
)
@pytest.mark.parametrize(("shared", "window"), [(4, None), (2, None), (1, 3)])
def test_the_kernel_computes_what_the_parts_do(shared, window):
    torch.manual_seed(0)
    starts = torch.tensor([0, 5, 6, 40], dtype=torch.int32, device="cuda")
    parts = [
        torch.randn(1, heads, 40, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for heads in (4, shared, shared)
    ]
    found, _ = varlen.varlen_attention(
        None, *parts, None, scaling=0.125, sliding_window=window, cu_seq_lens_q=starts, max_length_q=34
    )
    flat = [part[0].transpose(0, 1) for part in parts]
    expected = varlen.row_by_row(*flat, starts, 34, 0.125, -1 if window is None else window - 1)
    torch.testing.assert_close(found[0], expected, atol=2e-2, rtol=2e-2)
    ours = torch.autograd.grad(found.float().sum(), parts)
    theirs = torch.autograd.grad(expected.float().sum(), parts)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=5e-2, rtol=5e-2)
