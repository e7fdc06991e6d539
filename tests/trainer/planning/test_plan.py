"""A plan covers every row once, is a function of its inputs alone, and its steps do not depend on the ranks."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trainer.planning.epoch as epoch_module
from schemas.errors import InputError
from trainer.plan import STRATEGIES, make_plan

OWN = [name for name, strategy in STRATEGIES.items() if not strategy.original]


def rows_like_a_mix(count, seed=0):
    """Lengths with the long tail of an instruction mix, and a few rows without an image."""
    random = np.random.RandomState(seed)
    images = (random.rand(count) > 0.1).astype(int)
    lengths = np.clip(random.lognormal(5.3, 0.8, count), 20, 1400).astype(int) + 576 * images
    return np.minimum(lengths, 2048), images


def rows_of_step(plan, step):
    ranks = range(plan.work.world_size)
    return sorted(int(row) for rank in ranks for batch in plan.micro_batches(step, rank) for row in batch)


sizes = st.fixed_dictionaries(
    {
        "world_size": st.integers(1, 5),
        "accumulation": st.integers(1, 3),
        "batch": st.integers(1, 5),
        "strategy": st.sampled_from(OWN),
        "padded": st.booleans(),
        "seed": st.integers(0, 2**32),
        "epoch": st.integers(0, 3),
    }
)


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=120), bound=st.integers(300, 900), sizes=sizes)
@settings(max_examples=150, deadline=None)
def test_plan_covers_every_sample_once_within_the_bound(lengths, bound, sizes):
    lengths = np.array(lengths)
    images = lengths % 3
    batch = sizes.pop("batch")
    global_batch = batch * sizes["world_size"] * sizes["accumulation"]
    plan = make_plan(lengths, images, global_batch=global_batch, max_tokens=bound, **sizes)
    assert plan.steps == -(-len(lengths) // global_batch)
    for step in range(plan.steps):
        ranks = [plan.micro_batches(step, rank) for rank in range(sizes["world_size"])]
        assert {len(batches) for batches in ranks} == {plan.micro_steps(step)}
        held = [batch for batches in ranks for batch in batches]
        assert np.array_equal(np.sort(np.concatenate(held)), plan.samples(step))
        assert len(plan.samples(step)) == global_batch or step == plan.steps - 1
        for batch in held:
            tokens = lengths[batch]
            assert (len(batch) * tokens.max(initial=0) if sizes["padded"] else tokens.sum()) <= bound
        if len(plan.samples(step)) >= len(held) and sizes["strategy"] != "random":
            assert all(len(batch) for batch in held)
    assert sorted(np.concatenate([plan.samples(step) for step in range(plan.steps)])) == list(range(len(lengths)))


@pytest.mark.parametrize("strategy", [*OWN, "modality_length"])
def test_world_size_invariance_of_later_steps_after_a_resume(strategy):
    lengths, images = rows_like_a_mix(1000)
    plans = [
        make_plan(lengths, images, seed=7, global_batch=8, world_size=world, strategy=strategy) for world in (1, 2, 4)
    ]
    trained = [[rows_of_step(plan, step) for step in range(plan.steps)] for plan in plans]
    for position in range(plans[0].steps + 1):
        resumed = [[plan.samples(step).tolist() for step in range(position, plan.steps)] for plan in plans]
        assert resumed[0] == resumed[1] == resumed[2] == trained[position % 3][position:]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_from_position_restores_the_rest_of_an_epoch(strategy):
    lengths, images = rows_like_a_mix(300)
    arguments = {"seed": 1, "global_batch": 12, "world_size": 2, "accumulation": 2, "strategy": strategy}
    whole = list(make_plan(lengths, images, **arguments).from_position(0, rank=1))
    for position in (0, 1, 13, len(whole)):
        rest = list(make_plan(lengths, images, **arguments).from_position(position, rank=1))
        assert [step for step, _ in rest] == list(range(position, len(whole)))
        for (_, batches), (_, expected) in zip(rest, whole[position:], strict=True):
            assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in expected]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("strategy", ["balanced", "length_window"])
def test_steps_are_divided_alike_whichever_others_are_divided_with_them(strategy, padded, monkeypatch):
    lengths, images = rows_like_a_mix(2000)
    arguments = {"seed": 1, "global_batch": 32, "world_size": 4, "strategy": strategy, "padded": padded}
    together = make_plan(lengths, images, max_tokens=9000, **arguments)
    expected = [together.micro_batches(step, 2) for step in range(together.steps)]
    monkeypatch.setattr(epoch_module, "BLOCK_ROWS", 100)
    alone = make_plan(lengths, images, max_tokens=9000, **arguments)
    for step, batches in enumerate(expected):
        assert [batch.tolist() for batch in alone.micro_batches(step, 2)] == [batch.tolist() for batch in batches]


def test_order_is_frozen():
    # The batches of a released version are a promise: same config, data and seed.
    lengths = np.array([700, 650, 2000, 90, 600, 610, 1500, 300, 640, 800])
    plan = make_plan(lengths, (lengths > 500).astype(int), seed=42, epoch=1, global_batch=4, world_size=2)
    assert [plan.samples(step).tolist() for step in range(plan.steps)] == [[1, 2, 5, 8], [0, 3, 6, 9], [4, 7]]
    assert [batch.tolist() for batch in plan.micro_batches(0, 0)] == [[2]]


def test_seed_and_epoch_change_the_order():
    lengths, images = rows_like_a_mix(200)
    orders = {
        tuple(make_plan(lengths, images, seed=seed, epoch=epoch, global_batch=8, world_size=2).samples(0))
        for seed in (0, 1, -1)
        for epoch in (0, 1)
    }
    assert len(orders) == 6


def test_balanced_steps_are_random_sets_and_windows_hold_similar_lengths():
    lengths, images = rows_like_a_mix(6400)
    spread = {}
    for strategy in ("balanced", "length_window"):
        plan = make_plan(lengths, images, seed=0, global_batch=32, world_size=2, strategy=strategy)
        spread[strategy] = np.mean([np.ptp(lengths[plan.samples(step)]) for step in range(plan.steps)])
    assert spread["length_window"] < spread["balanced"] / 10


def test_the_incomplete_last_step_is_kept_or_left_out():
    lengths, images = rows_like_a_mix(50)
    kept = make_plan(lengths, images, seed=0, global_batch=16, world_size=4, accumulation=2)
    assert [len(kept.samples(step)) for step in range(kept.steps)] == [16, 16, 16, 2]
    assert kept.micro_steps(3) == 1
    assert sorted(len(kept.micro_batches(3, rank)[0]) for rank in range(4)) == [0, 0, 1, 1]
    left = make_plan(lengths, images, seed=0, global_batch=16, world_size=4, accumulation=2, drop_last=True)
    assert [len(left.samples(step)) for step in range(left.steps)] == [16, 16, 16]


def test_a_tight_bound_gives_every_rank_more_micro_steps():
    lengths = np.array([1000] * 8)
    plan = make_plan(lengths, np.ones(8, int), seed=0, global_batch=8, world_size=2, max_tokens=1999)
    assert [[batch.size for batch in plan.micro_batches(0, rank)] for rank in (0, 1)] == [[1] * 4] * 2


def test_micro_batches_of_a_long_row_leave_the_rest_to_others():
    lengths = np.array([2000, 500, 500, 500, 500])
    plan = make_plan(lengths, np.zeros(5, int), seed=0, global_batch=5, world_size=2)
    alone = [batch.tolist() for rank in (0, 1) for batch in plan.micro_batches(0, rank) if 0 in batch]
    assert alone == [[0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": [5, 0, 7]}, "lengths: row 1 has 0, the minimum is 1"),
        ({"lengths": [5, 6]}, "2 lengths but 3 image counts"),
        ({"lengths": [5.0, 6.0, 7.0]}, "float64; expected integers"),
        ({"lengths": [[5], [6], [7]]}, "shape"),
        ({"lengths": [], "image_counts": []}, "no rows to plan"),
        ({"image_counts": [1, 1, -2]}, "image counts: row 2 has -2"),
        ({"strategy": "balance"}, "Did you mean 'balanced'"),
        ({"global_batch": 0}, "global batch is 0"),
        ({"world_size": 0}, "world size is 0"),
        ({"epoch": -1}, "epoch is -1"),
        ({"world_size": 3}, "a global batch of 2 leaves some of the 3 ranks"),
        ({"max_tokens": 6}, "row 2 has 7 tokens, more than the 6"),
        ({"max_tokens": 9, "strategy": "modality_length"}, "takes no max_tokens"),
        ({"global_batch": 3, "world_size": 2, "strategy": "modality_length"}, "not a multiple of 2 ranks"),
        ({"global_batch": 4, "drop_last": True}, "do not fill a step of 4"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {
        "lengths": [5, 6, 7],
        "image_counts": [1, 0, 1],
        "seed": 0,
        "global_batch": 2,
        "world_size": 1,
    } | changes
    lengths, image_counts = np.array(arguments.pop("lengths")), np.array(arguments.pop("image_counts"), int)
    with pytest.raises(InputError, match=message):
        make_plan(lengths, image_counts, **arguments)


def test_steps_and_ranks_outside_the_plan_are_errors():
    plan = make_plan(np.array([5, 6]), np.array([1, 1]), seed=0, global_batch=2, world_size=2)
    for step, rank in ((1, 0), (-1, 0), (0, 2)):
        with pytest.raises(IndexError):
            plan.micro_batches(step, rank)


def test_planning_loads_no_torch():
    code = "import sys, trainer.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
