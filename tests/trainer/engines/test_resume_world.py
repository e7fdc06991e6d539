"""A run that resumes with another number of ranks, or another ZeRO stage: the same rows, moments and learning rates."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from schemas.errors import InputError, LavaBeamError
from trainer import checkpoint, launch
from trainer.config import load_recipe
from trainer.engines.deepspeed import DeepSpeed
from trainer.inputs.schedule import Schedule
from trainer.metrics.recorder import read_metrics
from trainer.preflight import check

LORA = {"rank": 2, "alpha": 4, "dropout": 0.0}
FSDP2 = "fsdp2"
RATES = {"projector": 4e-3, "llm": 1e-3}


def state_of(folder):
    """Every tensor of a checkpoint, put together from all ranks' files."""
    found = {}
    sizes = json.loads((folder / "checkpoint.json").read_text())["parameters"]
    for path in folder.glob("rank-*.safetensors"):
        with safe_open(path, "numpy") as file:
            starts = json.loads(file.metadata()["starts"])
            for name in file.keys():  # noqa: SIM118
                kind, _, parameter = name.partition("/")
                whole = found.setdefault((kind, parameter), np.full(sizes[parameter], np.nan, np.float32))
                piece = file.get_tensor(name)
                whole[starts[parameter] : starts[parameter] + len(piece)] = piece
    return found


def assert_close(one, other, tolerance):
    assert one.keys() == other.keys()
    for name, values in one.items():
        largest = np.abs(values).max()
        np.testing.assert_allclose(values, other[name], rtol=0, atol=tolerance * largest, err_msg=str(name))


def record_rows(loop, step):
    """The keys that a rank trains on, and at the first step of a start what it has loaded."""
    folder = loop.folder
    with (folder / f"rows-{loop.engine.rank}.jsonl").open("a") as file:
        file.write(json.dumps([step.number, step.keys]) + "\n")
    loaded = folder / f"loaded-{step.number}"
    resumed = folder / f"checkpoint-{step.number}" / "checkpoint.json"
    if not hasattr(loop, "recorded") and step.number > 0:
        loaded.mkdir(exist_ok=True)
        checkpoint.write_share(loaded, loop.engine)
        (loaded / "checkpoint.json").write_text(resumed.read_text())
    loop.recorded = True


def rows_of_steps(folder):
    """Step -> the keys of all ranks, sorted."""
    steps = {}
    for path in folder.glob("rows-*.jsonl"):
        for line in path.read_text().splitlines():
            number, keys = json.loads(line)
            steps.setdefault(number, []).extend(key for batch in keys for key in batch)
    return {number: sorted(keys) for number, keys in steps.items()}


def run_in_pieces(path, forked, output, pieces):
    """Train with `pieces` of (processes, step at which all are killed, ZeRO stage or FSDP2)."""
    for processes, end, zero in pieces:
        forked["kill_at"] = end
        engine = {"engine": zero} if zero == FSDP2 else {"deepspeed.zero": zero}
        arguments = {"processes": processes, "overrides": {"output": str(output), **engine}}
        if end is None:
            return launch.train(path, **arguments)
        with pytest.raises(LavaBeamError):
            launch.train(path, **arguments)


TEXT_AND_PICTURE = {"global_batch": 2, "seed": 14}
"""With this seed each of the first three steps has one row with a picture and one without: on two ranks, one of them
has no picture (see the last test)."""

CASES = {
    "finetune zero 2": ("finetune", {"global_batch": 8}, [(1, 1, 2), (2, 2, 2), (1, None, 2)]),
    "finetune zero 3": ("finetune", {"global_batch": 8}, [(1, 1, 3), (2, 2, 3), (1, None, 3)]),
    "lora zero 2": ("finetune_lora", TEXT_AND_PICTURE, [(1, 1, 2), (2, 2, 2), (2, None, 2)]),
    "lora zero 3": ("finetune_lora", TEXT_AND_PICTURE, [(2, 1, 3), (1, 2, 3), (2, None, 3)]),
    "another zero stage each time": ("pretrain", {"global_batch": 8}, [(2, 1, 1), (4, 2, 3), (1, None, 0)]),
    "deepspeed, fsdp2, deepspeed": ("finetune", {"global_batch": 8}, [(2, 1, 2), (1, 2, FSDP2), (2, None, 3)]),
    "fsdp2, deepspeed, fsdp2": ("pretrain", {"global_batch": 8}, [(4, 1, FSDP2), (1, 2, 0), (2, None, FSDP2)]),
    "lora fsdp2": ("finetune_lora", TEXT_AND_PICTURE, [(2, 1, FSDP2), (1, 2, 2), (2, None, FSDP2)]),
}
"""Stage, plan, and pieces of (processes, step at which they are killed, ZeRO stage or FSDP2)."""


@pytest.mark.parametrize(("stage", "plan", "pieces"), CASES.values(), ids=CASES)
def test_a_run_goes_on_with_another_number_of_ranks(recipe_file, forked, tmp_path, stage, plan, pieces):
    forked["observe"] = record_rows
    rates = RATES if stage != "pretrain" else {"projector": RATES["projector"]}
    settings = {"optimizer__learning_rates": rates, "optimizer__weight_decay": 0.1, "steps": 3}
    settings |= {"lora": LORA} if stage == "finetune_lora" else {}
    path = recipe_file(stage=stage, plan=plan, checkpoints={"every": 1, "keep": 9}, **settings)
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    run_in_pieces(path, forked, whole, [(1, None, pieces[0][2])])
    run_in_pieces(path, forked, moved, pieces)
    assert rows_of_steps(whole) == rows_of_steps(moved)
    metrics = [read_metrics(folder / "metrics.jsonl") for folder in (whole, moved)]
    assert [line["rates"] for line in metrics[0]] == [line["rates"] for line in metrics[1]]
    assert [line["loss"] for line in metrics[0]] == pytest.approx([line["loss"] for line in metrics[1]], abs=1e-5)
    for number in (1, 2):
        saved, loaded = state_of(moved / f"checkpoint-{number}"), state_of(moved / f"loaded-{number}")
        assert all(np.array_equal(saved[name], loaded[name]) for name in saved | loaded)
    finished = "adapter/adapter_model.safetensors" if stage == "finetune_lora" else "model/model.safetensors"
    assert_close(load_file(whole / finished), load_file(moved / finished), 1e-4)
    for number in (2, 3):
        assert_close(state_of(whole / f"checkpoint-{number}"), state_of(moved / f"checkpoint-{number}"), 1e-4)


def schedule_of(recipe_file, world, **plan):
    job = check(load_recipe(recipe_file(plan=plan)), world)
    return Schedule(job.mix, job.recipe, job.folder, world, packed=False)


def checkpoint_of(folder, schedule):
    """What `check_order` reads of a checkpoint in the middle of the first epoch."""
    content = {"ranks": schedule.world_size, "order": checkpoint.order_digest(schedule.plan(0))}
    (folder / "checkpoint-1").mkdir(parents=True)
    (folder / "checkpoint-1" / "checkpoint.json").write_text(json.dumps(content))
    return folder / "checkpoint-1"


def test_a_grouping_that_depends_on_the_ranks_is_refused_and_says_what_to_do(recipe_file, tmp_path):
    plan = {"global_batch": 16, "strategy": "modality_length"}
    written = checkpoint_of(tmp_path / "run", schedule_of(recipe_file, 2, **plan))
    with pytest.raises(InputError, match=r"with 1 ranks.*Resume with 2 ranks"):
        checkpoint.check_order(written, schedule_of(recipe_file, 1, **plan))
    checkpoint.check_order(written, schedule_of(recipe_file, 2, **plan))


@pytest.mark.parametrize("strategy", ["balanced", "length_window", "random"])
def test_our_strategies_go_on_with_any_number_of_ranks(recipe_file, tmp_path, strategy):
    plan = {"global_batch": 4, "strategy": strategy}
    written = checkpoint_of(tmp_path / "run", schedule_of(recipe_file, 4, **plan))
    for world in (1, 2, 4):
        checkpoint.check_order(written, schedule_of(recipe_file, world, **plan))


def test_dropout_after_a_break_is_what_it_would_have_been(recipe_file, forked, tmp_path):
    path = recipe_file(stage="finetune_lora", lora={**LORA, "dropout": 0.5}, checkpoints={"every": 1}, steps=3)
    run_in_pieces(path, forked, tmp_path / "whole", [(1, None, 2)])
    run_in_pieces(path, forked, tmp_path / "killed", [(1, 2, 2), (1, None, 2)])
    losses = [[line["loss"] for line in read_metrics(tmp_path / n / "metrics.jsonl")] for n in ("whole", "killed")]
    assert losses[0] == losses[1]


def alone(width):
    """A small model in DeepSpeed's place without ZeRO, after one update."""
    module = torch.nn.Linear(width, 2)
    engine = DeepSpeed.__new__(DeepSpeed)
    engine.model, engine.rank, engine.world, engine.writers, engine.scale = module, 0, 1, 1, None
    engine.optimizer = torch.optim.AdamW(module.parameters())
    names = {parameter: name for name, parameter in module.named_parameters()}
    engine.inner = SimpleNamespace(
        optimizer=engine.optimizer,
        basic_optimizer=engine.optimizer,
        param_names=names,
        zero_optimization_stage=lambda: 0,
    )
    module(torch.ones(1, width)).sum().backward()
    engine.optimizer.step()
    return engine


def test_other_parameters_and_missing_pieces_are_named(tmp_path):
    folder = tmp_path / "checkpoint-1"
    checkpoint.begin(folder)
    checkpoint.write_share(folder, alone(3))
    checkpoint.commit(folder, alone(3), "order", keep=1)
    with pytest.raises(InputError, match="weight: 6 elements in the checkpoint, 8 in the model"):
        checkpoint.load(folder, alone(4))
    two = alone(3)
    two.writers = 2
    with pytest.raises(LavaBeamError, match="found files of 1 of 2 ranks"):
        checkpoint.commit(folder, two, "order", keep=1)
    file = folder / "rank-0-of-1.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"rank-0-of-1.safetensors: cannot be read"):
        checkpoint.load(folder, alone(3))


def test_in_the_lora_cases_one_of_two_ranks_has_no_picture(recipe_file):
    schedule = schedule_of(recipe_file, 2, **TEXT_AND_PICTURE)
    pictures = [[schedule.images[schedule.micro_batches(step, rank)[0]].sum() for rank in (0, 1)] for step in range(3)]
    assert [sorted(counts) for counts in pictures] == [[0, 1]] * 3
