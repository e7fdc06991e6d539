"""Figures of a plan: exact on rows small enough for a pencil, and the promised quality on a mix."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import InputError
from trainer.plan import NF4_BYTES, CostModel, ModelSizes, compare, estimate_memory, make_plan, render
from trainer.planning.balance import balance, longest_first
from trainer.planning.padded import partition

LINEAR = CostModel(linear=1.0, attention=0.0, vision=0.0)


def mix(count, seed=3):
    """Three kinds of rows as in an instruction mix: short answers and long ones on an image, and long text."""
    random = np.random.RandomState(seed)
    kind = random.choice(3, count, p=[0.6, 0.34, 0.06])
    text = np.choose(
        kind, [random.lognormal(4.6, 0.5, count), random.lognormal(5.6, 0.4, count), random.lognormal(7.1, 0.8, count)]
    )
    return np.clip(text + 576 * (kind < 2), 40, 2048).astype(int), (kind < 2).astype(int)


def test_cost_is_a_polynomial_of_length():
    cost = CostModel(linear=2.0, attention=0.5, vision=100.0)
    assert cost.cost(np.array([10, 4]), np.array([1, 0])).tolist() == [2 * 10 + 0.5 * 100 + 100, 2 * 4 + 0.5 * 16]
    assert cost.padded_cost(np.array([3]), np.array([10]), np.array([2])).tolist() == [3 * (20 + 50) + 200]


def test_cost_from_sizes_counts_the_passes():
    # 2N forward + 4N backward + 2N recomputed; no weight gradients where frozen.
    sizes = {"language_parameters": 1e9, "hidden_size": 1000, "layers": 10, "attention_efficiency": 1.0}
    assert CostModel.from_sizes(**sizes).linear == 8e9
    assert CostModel.from_sizes(**sizes, train_language=False).linear == 6e9
    assert CostModel.from_sizes(**sizes, checkpointing=False).linear == 6e9
    assert CostModel.from_sizes(**sizes).attention == 4 * 1000 / 2 * 10 * 4.5
    vision = {"vision_parameters": 3e8, "tokens_per_image": 577}
    assert CostModel.from_sizes(**vision, projector_parameters=0).vision == 2 * 3e8 * 577
    assert CostModel.from_sizes(**vision, projector_parameters=0, train_vision=True).vision == 6 * 3e8 * 577
    assert CostModel.from_sizes(**vision, projector_parameters=1e7).vision == (2 * 3e8 + 6 * 1e7) * 577


def test_a_free_token_is_refused():
    with pytest.raises(InputError, match="cost of a token must be positive"):
        CostModel(linear=0.0, attention=1.0, vision=1.0)


def test_figures_by_hand():
    # Original order of 4 equal-modality rows in one megabatch: sorted 40 30 | 20 10, dealt 40+10 and 30+20.
    lengths = np.array([10, 20, 30, 40])
    plan = make_plan(
        lengths,
        np.ones(4, int),
        seed=0,
        global_batch=4,
        world_size=2,
        strategy="modality_length",
        padded=True,
        cost=LINEAR,
    )
    found = plan.summary()
    assert found["padding_share"] == pytest.approx(1 - 100 / (80 + 60))
    assert found["rank_balance"] == pytest.approx(80 / 70)
    assert found["time_ratio"] == pytest.approx(80 / 50)
    assert (found["peak_tokens"], found["peak_images"], found["steps"], found["micro_steps"]) == (80, 2, 1, 1)
    assert (found["unused"], found["repeated"], found["rows"]) == (0, 0, "padded")


def test_figures_count_unused_and_repeated_rows():
    lengths = np.array([4, 5, 6, -7, -8])
    arguments = {"seed": 0, "global_batch": 2, "world_size": 2}
    plan = make_plan(np.abs(lengths), (lengths > 0).astype(int), strategy="modality_length", **arguments)
    assert (plan.summary()["unused"], plan.summary()["repeated"]) == (0, 1)
    plan = make_plan(np.abs(lengths), (lengths > 0).astype(int), strategy="modality_length_auto", **arguments)
    assert plan.summary()["unused"] == 3


def test_quality_on_a_mix():
    lengths, images = mix(12_800)
    found = {}
    for world, batch, accumulation in ((8, 16, 1), (8, 4, 4), (64, 2, 1)):
        for entry in compare(
            lengths,
            images,
            seed=0,
            global_batch=world * batch * accumulation,
            world_size=world,
            accumulation=accumulation,
        ):
            found[world, accumulation, entry["strategy"], entry["rows"]] = entry["time_ratio"]
    assert found[8, 1, "balanced", "padding-free"] <= 1.02
    assert found[8, 4, "balanced", "padding-free"] <= 1.03
    assert found[64, 1, "length_window", "padding-free"] <= 1.03
    assert found[64, 1, "length_window", "padded"] <= 1.03
    assert found[8, 1, "balanced", "padded"] < 1.2 < found[8, 1, "modality_length", "padded"]


@given(
    costs=st.lists(st.lists(st.integers(1, 50), min_size=9, max_size=9), min_size=1, max_size=4), bins=st.integers(1, 6)
)
@settings(max_examples=60, deadline=None)
def test_longest_first_is_within_grahams_bound(costs, bins):
    costs = -np.sort(-np.array(costs, float), axis=1)
    assignment, loads, feasible = longest_first(costs, costs.astype(int), bins, None)
    assert feasible.all()
    for line, row in enumerate(costs):
        assert np.allclose(np.bincount(assignment[line], row, bins), loads[line])
        # Graham 1966: the last row of the heaviest bin was put on a bin no heavier than the mean of the others' work.
        assert loads[line].max() <= row.sum() / bins + (1 - 1 / bins) * row[0] + 1e-9


@given(
    costs=st.lists(st.lists(st.integers(1, 50), min_size=12, max_size=12), min_size=1, max_size=3),
    ranks=st.integers(1, 3),
    micro_steps=st.integers(1, 3),
    bound=st.integers(50, 400),
)
@settings(max_examples=80, deadline=None)
def test_swaps_never_slow_a_step_down(costs, ranks, micro_steps, bound):
    costs = -np.sort(-np.array(costs, float), axis=1)
    tokens, bins = costs.astype(int), ranks * micro_steps
    _, before, _ = longest_first(costs, tokens, bins, bound)
    slots, feasible = balance(costs, tokens, bins, ranks, bound)
    for line in np.flatnonzero(feasible):
        after = np.bincount(slots[line], costs[line], bins)
        assert after.max() <= before[line].max() + 1e-9
        assert np.isclose(after.sum(), costs[line].sum())
        assert np.bincount(slots[line], tokens[line], bins).max() <= bound
        # The heaviest micro-batches share the first micro-step.
        slowest = after.reshape(micro_steps, ranks).max(1)
        assert (np.diff(slowest) <= 1e-9).all()


def test_padded_partition_is_optimal_on_a_small_step():
    lengths = np.array([[100, 90, 50, 40, 30, 10]])
    slots, feasible = partition(lengths, np.zeros((1, 6), int), 3, 3, None, LINEAR)
    # All contiguous cuts into three, by brute force.
    best = min(
        max(100 * a, lengths[0, a] * (b - a), lengths[0, b] * (6 - b)) for a in range(1, 5) for b in range(a + 1, 6)
    )
    cost = max((slots[0] == slot).sum() * lengths[0][slots[0] == slot].max() for slot in range(3))
    assert feasible.all()
    assert cost == best


def test_compare_says_why_a_strategy_cannot_plan():
    found = compare(np.array([5, 6, 7, 8]), np.ones(4, int), seed=0, global_batch=3, world_size=2)
    errors = {entry["strategy"]: entry.get("error") for entry in found}
    assert "not a multiple of 2 ranks" in errors["modality_length"]
    assert errors["balanced"] is None
    assert "not a multiple" in render(found)


def test_memory_of_states_follows_the_stages():
    sizes = ModelSizes(language_parameters=7.5e9, vision_parameters=0, projector_parameters=0)
    states = {
        stage: estimate_memory(sizes, gpus=64, zero_stage=stage, peak_tokens=0, peak_images=0) for stage in range(4)
    }
    # Rajbhandari et al. 2020, figure 1: 7.5 B parameters on 64 GPUs: 120, 31.4, 16.6 and 1.9 GB.
    sums = [state.parameters + state.gradients + state.optimizer for state in states.values()]
    assert sums == pytest.approx([120e9, 31.4e9, 16.6e9, 1.9e9], rel=0.02)


def test_memory_of_adapters_and_offload():
    estimate = partial(estimate_memory, ModelSizes(), gpus=1, peak_tokens=2048, peak_images=2)
    lora = estimate(zero_stage=0, trainable_parameters=160e6, frozen_bytes=NF4_BYTES)
    assert 3e9 < lora.parameters < 5e9
    # 4-bit layers; 16 bits for adapters, tower and both tables of the vocabulary.
    whole = 0.304e9 + 2 * 4096 * 32000
    assert lora.parameters == pytest.approx(2 * 160e6 + 2 * whole + NF4_BYTES * (7.065e9 - 160e6 - whole))
    assert lora.optimizer == 12 * 160e6
    assert lora.total < 24e9 < estimate(zero_stage=0).total
    offloaded = estimate(zero_stage=3, offload_optimizer=True, offload_parameters=True)
    assert (offloaded.parameters, offloaded.gradients, offloaded.optimizer) == (0, 0, 0)
    assert estimate(zero_stage=0, checkpointing=False).activations > 5 * estimate(zero_stage=0).activations
    with pytest.raises(InputError, match="stages are 0 to 3"):
        estimate(zero_stage=4)


def test_compare_adds_the_memory_of_each_peak():
    lengths, images = mix(512)
    memory = partial(estimate_memory, ModelSizes(), gpus=8, zero_stage=2)
    found = compare(lengths, images, seed=0, global_batch=64, world_size=8, memory=memory)
    peaks = {entry["peak_tokens"]: entry["memory_total"] for entry in found}
    assert sorted(peaks.values()) == [peaks[peak] for peak in sorted(peaks)]
    assert found[0]["memory_total"] == sum(found[0]["memory"].values())
    assert "GiB" in render(found)
