"""Draws that belong to a row: the right distribution, the same in any batch."""

import torch

from pipelines.caption.nucleus import NucleusSampling, nucleus

LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def drawn(keys, scores=None, top_p=1.0, temperature=1.0, seed=3):
    scores = LOGITS.repeat(len(keys), 1) if scores is None else scores
    return NucleusSampling(keys, seed, top_p, temperature)(torch.zeros(len(keys), 1), scores)


def test_the_nucleus_is_the_smallest_set_that_reaches_the_mass():
    kept = [torch.isfinite(nucleus(LOGITS, top_p))[0].tolist() for top_p in (0.4, 0.6, 0.81, 1.0)]
    assert kept == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
        [True, True, True, True],
    ]


def test_the_likeliest_noisy_token_is_a_draw_from_the_softmax():
    keys = [str(number) for number in range(4000)]
    shares = torch.bincount(drawn(keys).argmax(dim=-1), minlength=4) / 4000
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.03)
    sharp = torch.bincount(drawn(keys, temperature=0.5).argmax(dim=-1), minlength=4) / 4000
    assert torch.allclose(sharp, torch.tensor([0.685, 0.247, 0.062, 0.007]), atol=0.03)


def test_a_row_draws_the_same_wherever_it_stands():
    together = drawn(["a", "b", "c"])
    assert torch.equal(drawn(["c", "a"]), together[[2, 0]])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(drawn(["a"], seed=4)[0], together[0])


def test_each_word_is_a_new_draw():
    sampling = NucleusSampling(["a"], 0, 1.0, 1.0)
    assert not torch.equal(sampling(torch.zeros(1, 1), LOGITS), sampling(torch.zeros(1, 2), LOGITS))
