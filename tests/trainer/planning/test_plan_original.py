"""The original's order of data, index for index: golden vectors made by running LLaVA and LLaVA-NeXT, and torch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import InputError
from trainer.plan import make_plan
from trainer.planning.original import even_chunks, original_order, rank_batches
from trainer.planning.torch_random import LONGEST, TorchRandom

VECTORS = Path(__file__).parents[1] / "vectors"
STRATEGY = {
    "get_length_grouped_indices": "length_grouped",
    "get_length_grouped_indices_auto_single": "length_grouped_auto",
    "get_variable_length_grouped_indices": "variable_length",
    "get_modality_length_grouped_indices": "modality_length",
    "get_modality_length_grouped_indices_auto": "modality_length_auto",
}


def read(name):
    return [json.loads(line) for line in (VECTORS / name).read_text().splitlines()]


SAMPLER = {row["id"]: row for row in read("sampler.jsonl")}
RANKS = read("sampler_rank_batches.jsonl")


def order_of(row):
    return original_order(
        STRATEGY[row["fn"]],
        np.array(row["lengths"]),
        row["batch_size"],
        row["world_size"],
        seed=row["global_seed"],
        generator_seed=row["generator_seed"],
    )


@pytest.mark.parametrize("name", [name for name, row in SAMPLER.items() if not row["error"]])
def test_sampler_equals_the_original_index_for_index(name):
    row = SAMPLER[name]
    order = order_of(row)
    assert order.tolist() == row["indices"]
    assert len(row["lengths"]) - len(order) == row["n_dropped"]


@pytest.mark.parametrize("name", [name for name, row in SAMPLER.items() if row["error"]])
def test_sampler_refuses_what_the_original_refuses(name):
    with pytest.raises(InputError, match="Should not have zero length"):
        order_of(SAMPLER[name])


@pytest.mark.parametrize("row", read("sampler_chunks.jsonl"), ids=lambda row: str(row["num_chunks"]))
def test_even_chunks_equal_the_original(row):
    joined = even_chunks(np.array([row["indices"]]), np.array(row["lengths"]), row["num_chunks"])
    assert joined[0].tolist() == [index for chunk in row["chunks"] for index in chunk]


@pytest.mark.parametrize("row", RANKS, ids=lambda row: f"{row['sampler_id']}-{row['dataloader_drop_last']}")
def test_rank_batches_equal_the_original(row):
    order = order_of(SAMPLER[row["sampler_id"]])
    dealt = rank_batches(order, row["batch_size"], row["num_processes"], drop_last=row["dataloader_drop_last"])
    assert [[batch.tolist() for batch in batches] for batches in dealt] == row["ranks"]


@pytest.mark.parametrize("row", [row for row in RANKS if row["ranks"][0]], ids=lambda row: row["sampler_id"])
def test_plan_deals_the_original_batches_to_ranks(row):
    sampler = SAMPLER[row["sampler_id"]]
    lengths = np.array(sampler["lengths"])
    strategy = STRATEGY[sampler["fn"]]
    plan = make_plan(
        np.abs(lengths),
        (lengths > 0).astype(int),
        seed=sampler["global_seed"],
        generator_seed=sampler["generator_seed"],
        global_batch=row["batch_size"] * row["num_processes"],
        world_size=row["num_processes"],
        strategy=strategy,
        drop_last=row["dataloader_drop_last"],
    )
    for rank, batches in enumerate(row["ranks"]):
        assert [plan.micro_batches(step, rank)[0].tolist() for step in range(plan.steps)] == batches


def test_accumulation_groups_as_the_original_trainer_does():
    # LLaVA's trainer samples for ranks x accumulation; batch j then goes to rank j % ranks.
    lengths = np.arange(1, 41)
    plan = make_plan(
        lengths, np.ones(40, int), seed=3, global_batch=16, world_size=2, accumulation=4, strategy="modality_length"
    )
    order = original_order("modality_length", lengths, 2, 8, seed=3)
    ranks = rank_batches(order, 2, 2, drop_last=False)
    for rank in range(2):
        planned = [batch.tolist() for step in range(plan.steps) for batch in plan.micro_batches(step, rank)]
        assert planned == [batch.tolist() for batch in ranks[rank]]
    assert [plan.micro_steps(step) for step in range(plan.steps)] == [4, 4, 2]


def test_uneven_ranks_without_even_batches():
    dealt = rank_batches(np.arange(10), 2, 4, drop_last=False, even_batches=False)
    assert [[batch.tolist() for batch in batches] for batches in dealt] == [
        [[0, 1], [8, 9]],
        [[2, 3]],
        [[4, 5]],
        [[6, 7]],
    ]


def test_a_later_epoch_goes_on_with_the_random_state():
    # One row a megabatch: the order is the permutation itself.
    torch.manual_seed(11)
    permutations = [torch.randperm(9).tolist() for _ in range(3)]
    for epoch, permutation in enumerate(permutations):
        order = original_order("length_grouped", np.ones(9, int), 1, 1, seed=11, epoch=epoch)
        assert order.tolist() == permutation


@given(
    n=st.integers(0, 400),
    seed=st.one_of(st.integers(0, 2**64 - 1), st.integers(-(2**63), -1), st.sampled_from([0, 1, 42, 2**32 - 1, 2**32])),
)
@settings(max_examples=150, deadline=None)
def test_randperm_equals_torch_for_global_seeds(n, seed):
    torch.manual_seed(seed)
    ours = TorchRandom(seed)
    for length in (n, 3, n // 2):
        assert ours.randperm(length).tolist() == torch.randperm(length).tolist()


@pytest.mark.parametrize("n", [0, 1, 2, 623, 624, 625, 4096, 65537, 300_001])
@pytest.mark.parametrize("seed", [0, 42, 67280421310721])
def test_randperm_equals_torch_for_generators(n, seed):
    generator = torch.Generator().manual_seed(seed)
    assert np.array_equal(TorchRandom(seed).randperm(n), torch.randperm(n, generator=generator).numpy())


def test_randperm_refuses_lengths_torch_shuffles_otherwise():
    with pytest.raises(InputError, match="214748364"):
        TorchRandom(0).randperm(LONGEST)
