"""What a plan reads of a mix: tokens, tiles, and for the original's samplers words."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from schemas.chat import ImageRule
from schemas.dataset import Dataset
from schemas.records import SAMPLES
from schemas.writing import write_dataset
from trainer.config import Recipe
from trainer.inputs.rows import Rows, original_lengths, tile_counts
from trainer.inputs.schedule import Schedule
from trainer.models.folder import ModelFolder
from trainer.plan import ModelSizes, estimate_memory

SAMPLERS = Path(__file__).parents[1] / "vectors" / "sampler.jsonl"
LLAMA = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008}
CLIP = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}


def mix_of(path, words, tokens, sizes):
    """A mix of rows of so many words; `sizes` of the pictures of each."""
    rows = []
    for number, (count, length, pictures) in enumerate(zip(words, tokens, sizes, strict=True)):
        content = [{"type": "image", "text": None}] * len(pictures)
        content += [{"type": "text", "text": "\n" + "word " * (count - len(pictures))}]
        rows.append(
            {
                "key": str(number),
                "images": [{"bytes": b"", "path": None}] * len(pictures),
                "widths": [width for width, _ in pictures],
                "heights": [height for _, height in pictures],
                "messages": [{"role": "user", "content": content}],
                "image_count": len(pictures),
                "tokens": length,
                **dict.fromkeys(("kind", "source"), "test"),
                **dict.fromkeys(("image_tokens", "supervised_tokens"), 1),
            }
        )
    half = len(rows) // 2
    tables = [pa.Table.from_pylist(part, schema=SAMPLES) for part in (rows[:half], rows[half:]) if part]
    write_dataset(path, "samples", tables, info={})
    return Dataset.open(path)


def schedule_of(mix, world_size, rule=None, packed=False, **plan):
    recipe = Recipe.model_validate(
        {
            "stage": "finetune",
            "model": {"checkpoint": "none"},
            "data": {"mix": "none", "max_length": 4096},
            "plan": plan,
            "optimizer": {"learning_rate": 1e-3},
            "output": "none",
        }
    )
    rule = rule or ImageRule()
    config = {"text_config": LLAMA, "vision_config": CLIP}
    folder = ModelFolder(Path("none"), config, rule, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Schedule(mix, recipe, folder, world_size, packed)


ORIGINALS = {
    "get_modality_length_grouped_indices": "modality_length",
    "get_length_grouped_indices": "length_grouped",
    "get_modality_length_grouped_indices_auto": "modality_length_auto",
    "get_length_grouped_indices_auto_single": "length_grouped_auto",
    "get_variable_length_grouped_indices": "variable_length",
}


def sampler_cases():
    """Vectors whose rows make a whole step and whose sampler draws from the seed alone."""
    cases = [json.loads(line) for line in SAMPLERS.read_text("utf-8").splitlines()]
    usable = [case for case in cases if not case["error"] and case["global_seed"] == 42]
    return [
        pytest.param(case, ORIGINALS[case["fn"]], id=f"{case['case']}-{ORIGINALS[case['fn']]}")
        for case in usable
        if len(case["indices"]) >= case["world_size"] * case["batch_size"]
    ]


@pytest.mark.parametrize(("case", "strategy"), sampler_cases())
def test_a_mix_trains_in_the_originals_order(case, strategy, tmp_path):
    """The rows' words are the lengths that the original was given; their tokens are in another order altogether."""
    lengths = np.array(case["lengths"])
    pictures = (lengths > 0) if "modality" in strategy else np.zeros(len(lengths), bool)
    tokens = np.random.default_rng(0).integers(20, 900, len(lengths))
    sizes = [[(640, 480)] if shown else [] for shown in pictures]
    mix = mix_of(tmp_path / "mix", np.abs(lengths).tolist(), tokens.tolist(), sizes)
    world, batch = case["world_size"], case["batch_size"]
    schedule = schedule_of(mix, world, strategy=strategy, global_batch=world * batch, seed=case["global_seed"])
    rounds = len(case["indices"]) // (world * batch)
    found = [[schedule.micro_batches(step, rank)[0].tolist() for rank in range(world)] for step in range(rounds)]
    order = [row for step in found for rank in step for row in rank]
    assert order == case["indices"][: rounds * world * batch]


ANYRES = ImageRule("anyres")
SIZES = [[(640, 480)], [], [(500, 333), (300, 700)], [(64, 64)], [(640, 480)]]


def test_tiles_are_counted_by_the_rule_that_cuts_pictures(tmp_path):
    mix = mix_of(tmp_path / "mix", [9] * 5, [50] * 5, SIZES)
    expected = [sum(ANYRES.tiles(*size) for size in sizes) for sizes in SIZES]
    assert expected == [5, 0, 3 + 4, 3, 5]
    assert tile_counts(mix, ANYRES).tolist() == expected
    whole = ImageRule("anyres", max_tiles=9)  # does not cut the pictures of a row with two
    assert tile_counts(mix, whole).tolist() == [5, 0, 2, 3, 5]
    assert tile_counts(mix, ImageRule("pad")).tolist() == [1, 0, 2, 1, 1]
    rows = Rows.of(mix, ANYRES, max_length=40)
    assert (rows.images.tolist(), rows.tiles.tolist(), rows.lengths.tolist()) == ([1, 0, 2, 1, 1], expected, [40] * 5)


def test_a_schedule_weighs_tiles_not_pictures(tmp_path):
    """Equal tokens, a picture each: only tiles distinguish expensive rows (5 tiles) from cheap ones (3)."""
    sizes = [[(640, 480)]] * 4 + [[(64, 64)]] * 4
    mix = mix_of(tmp_path / "mix", [9] * 8, [300] * 8, sizes)
    schedule = schedule_of(mix, 2, ANYRES, packed=True, global_batch=8)
    ranks = [schedule.micro_batches(0, rank)[0] for rank in (0, 1)]
    assert [int(schedule.tiles[rows].sum()) for rows in ranks] == [16, 16]
    cost = schedule.cost
    assert cost.cost(np.array([0]), np.array([5])) == 5 * cost.vision
    assert schedule.plan(0).summary()["peak_images"] == 16


def test_a_schedule_goes_to_processes_that_are_not_forked(tmp_path):
    """Workers of data under spawn and forkserver, which Python 3.14 takes by default, get it by value."""
    mix = mix_of(tmp_path / "mix", [9] * 8, [300] * 8, [[(64, 64)]] * 8)
    schedule = schedule_of(mix, 2, ANYRES, packed=True, global_batch=4)
    again = pickle.loads(pickle.dumps(schedule))
    for step in range(schedule.steps_per_epoch):
        one, other = (which.micro_batches(step, 1)[0].tolist() for which in (schedule, again))
        assert one == other


@pytest.mark.parametrize("strategy", ["balanced", "length_window", "random", "modality_length"])
def test_any_number_of_ranks_goes_on_with_the_same_rows(strategy, tmp_path):
    """From every step on, over the end of an epoch, in bins of another shape; packed or padded."""
    words = np.random.default_rng(1).integers(2, 60, 24)
    tokens = np.random.default_rng(2).integers(20, 900, 24).tolist()
    mix = mix_of(tmp_path / "mix", words.tolist(), tokens, [SIZES[number % 5] for number in range(24)])
    lists = []
    for world, accumulation, packed in ((1, 1, True), (2, 1, False), (4, 1, True), (2, 2, True)):
        plan = {"strategy": strategy, "global_batch": 4, "accumulation": accumulation, "seed": 3}
        schedule = schedule_of(mix, world, ANYRES, packed=packed, **plan)
        steps = range(2 * schedule.steps_per_epoch)
        batches = [[schedule.micro_batches(step, rank) for rank in range(world)] for step in steps]
        lists.append([sorted(int(row) for rank in step for rows in rank for row in rows) for step in batches])
    assert lists[0] == lists[1] == lists[2] == lists[3]
    epochs = [sorted(row for step in part for row in step) for part in (lists[0][:6], lists[0][6:])]
    assert epochs == [list(range(24))] * 2
    assert lists[0][:6] != lists[0][6:]


def test_memory_of_the_tower_grows_with_tiles():
    sizes = {"gpus": 8, "zero_stage": 3, "peak_tokens": 4096}
    few, many = (estimate_memory(ModelSizes(), **sizes, peak_images=tiles) for tiles in (4, 20))
    trained = estimate_memory(ModelSizes(), **sizes, peak_images=20, train_vision=True, checkpointing=0.0)
    frozen = estimate_memory(ModelSizes(), **sizes, peak_images=20, checkpointing=0.0)
    # Per tile of 577 features: 34 bytes x 1024 in one layer of a frozen tower (24 where it trains), the output of all
    # 24 layers, and the projector's input, both sides of its bend and its output in bf16.
    tile = 577 * (34 * 1024 + 24 * 2 * 1024 + 2 * (1024 + 3 * 4096))
    assert many.activations - few.activations == pytest.approx(16 * tile)
    assert trained.activations - frozen.activations == pytest.approx(20 * 577 * 34 * 1024 * 23)


def test_lengths_without_modality_count_a_picture_as_128_words_more(tmp_path):
    mix = mix_of(tmp_path / "mix", [7, 9], [50, 60], [[(64, 64)], []])
    assert original_lengths(mix, "modality_length").tolist() == [7, 9]
    assert original_lengths(mix, "length_grouped").tolist() == [7 + 128, 9]
