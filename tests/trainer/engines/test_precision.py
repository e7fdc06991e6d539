"""bf16 and offload on CPU ranks, and numbers that are not finite."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from schemas.errors import LavaBeamError
from tests.trainer.engines.test_resume_world import assert_close, state_of
from trainer import launch
from trainer.config import load_recipe
from trainer.engines.deepspeed import deepspeed_config
from trainer.metrics.recorder import read_metrics


def losses(folder):
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]


def run(path, output, processes, **deepspeed):
    overrides = {"output": str(output), **{f"deepspeed.{key}": value for key, value in deepspeed.items()}}
    launch.train(path, processes=processes, overrides=overrides)
    return output


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_bf16_on_two_ranks_resumes_to_the_very_same_state(recipe_file, forked, tmp_path, zero):
    path = recipe_file(steps=3, checkpoints={"every": 1, "keep": 9})
    setting = {"zero": zero, "precision": "bf16"}
    whole = run(path, tmp_path / "whole", 2, **setting)
    forked["kill_at"] = 2
    with pytest.raises(LavaBeamError):
        run(path, tmp_path / "killed", 2, **setting)
    forked["kill_at"] = None
    killed = run(path, tmp_path / "killed", 2, **setting)
    assert losses(whole) == losses(killed)
    one, other = state_of(whole / "checkpoint-3"), state_of(killed / "checkpoint-3")
    assert all(np.array_equal(one[name], other[name]) for name in one | other)


def test_bf16_stays_near_float32_without_zero_too(recipe_file, forked, tmp_path):
    """Computed as stage 1; one bias correction of AdamW too many would show in the third loss."""
    path = recipe_file(steps=3)
    exact = run(path, tmp_path / "fp32", 1, zero=0, precision="fp32")
    rounded = run(path, tmp_path / "bf16", 1, zero=0, precision="bf16")
    assert losses(rounded) == pytest.approx(losses(exact), abs=2e-3)


def test_offload_changes_nothing_and_may_come_while_a_run_goes_on(recipe_file, forked, tmp_path):
    path = recipe_file(steps=3, checkpoints={"every": 1, "keep": 9})
    whole = run(path, tmp_path / "whole", 1, zero=2)
    forked["kill_at"] = 1
    with pytest.raises(LavaBeamError):
        run(path, tmp_path / "moved", 1, zero=2, offload="optimizer")
    forked["kill_at"] = None
    moved = run(path, tmp_path / "moved", 1, zero=3, offload="all")
    assert losses(moved) == pytest.approx(losses(whole), abs=1e-5)
    assert_close(state_of(whole / "checkpoint-3"), state_of(moved / "checkpoint-3"), 1e-4)


def test_the_configuration_of_bf16_with_offload_on_a_gpu(recipe_file):
    """Pinned memory and overlap are for a GPU; no optimizer block, which would replace the rates per module."""
    recipe = load_recipe(recipe_file(deepspeed={"zero": 3, "offload": "all"}))
    made = deepspeed_config(recipe, "bf16", {"hidden_size": 64})
    assert made["bf16"] == {"enabled": True}
    assert made["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert made["zero_optimization"]["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert made["zero_optimization"]["overlap_comm"] is True
    assert "optimizer" not in made
    assert (
        deepspeed_config(recipe, "fp32", {"hidden_size": 64})["zero_optimization"]["offload_optimizer"]["pin_memory"]
        is False
    )


def test_a_loss_in_bf16_that_is_not_finite_stops_before_the_update(recipe_file, forked, tiny, tmp_path):
    shutil.copytree(tiny / "model", tmp_path / "broken")
    tensors = load_file(tmp_path / "broken" / "model.safetensors")
    tensors["language_model.lm_head.weight"][7] = np.inf
    save_file(tensors, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        LavaBeamError, match=r"step 0, rank 0, micro-batch 0: the loss is nan. Nothing was updated. Its samples: row-"
    ):
        run(recipe_file(model__checkpoint=str(tmp_path / "broken")), tmp_path / "run", 2, precision="bf16")
    assert losses(tmp_path / "run") == []


def spoil(module, given, made):
    """What comes back through the module's output is infinite."""
    made.register_hook(lambda gradient: gradient * float("inf"))


def poison_the_gradient(loop, step):
    """At step 1 rank 0 gets a gradient of infinity behind a finite loss."""
    if step.number == 1 and loop.engine.rank == 0:
        loop.engine.model.model.multi_modal_projector.register_forward_hook(spoil)


@pytest.mark.parametrize(
    ("engine", "zero", "precision"),
    [("deepspeed", 0, "fp32"), ("deepspeed", 0, "bf16"), ("deepspeed", 2, "bf16"), ("fsdp2", 2, "fp32")],
)
def test_a_gradient_that_is_not_finite_stops_before_the_update(recipe_file, forked, tmp_path, engine, zero, precision):
    """DeepSpeed would skip the update in silence, or without ZeRO spoil the weights."""
    forked["observe"] = poison_the_gradient
    path = recipe_file(stage="pretrain", checkpoints={"every": 1}, engine=engine)
    with pytest.raises(LavaBeamError, match=r"step 1.*norm of the gradient is (inf|nan). Nothing was updated.*row-"):
        run(path, tmp_path / "run", 2, zero=zero, precision=precision)
    assert len(losses(tmp_path / "run")) == 1
