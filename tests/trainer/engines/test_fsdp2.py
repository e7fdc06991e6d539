"""FSDP2 beside DeepSpeed and one process: the same losses; and what it refuses before weights are loaded."""

import numpy as np
import pytest

from schemas.errors import InputError, LavaBeamError
from tests.trainer.engines.test_resume_world import state_of
from trainer import launch
from trainer.config import load_recipe
from trainer.metrics.recorder import read_metrics
from trainer.preflight import check

FSDP2 = {"engine": "fsdp2"}


def train(path, output, processes, **overrides):
    launch.train(path, processes=processes, overrides={"output": str(output), **overrides})
    lines = read_metrics(output / "metrics.jsonl")
    return [line["loss"] for line in lines], [line["grad_norm"] for line in lines]


@pytest.mark.parametrize("stage", ["finetune_tower", "finetune_lora"])
def test_losses_are_those_of_deepspeed_and_of_one_process(recipe_file, forked, tmp_path, stage):
    """With clipping, decay, rates per module, micro-batches, checkpointed layers, and rows without a picture."""
    settings = {"clip": 0.1, "weight_decay": 0.1, "learning_rates": {"projector": 4e-3}}
    path = recipe_file(
        stage=stage,
        steps=3,
        gradient_checkpointing=True,
        plan={"global_batch": 8, "accumulation": 2},
        **({"lora": {"rank": 2, "alpha": 4, "dropout": 0.0}} if stage == "finetune_lora" else {}),
        **{f"optimizer__{name}": value for name, value in settings.items()},
    )
    losses, norms = train(path, tmp_path / "fsdp2", 2, **FSDP2)
    for name, processes, engine in (("deepspeed", 2, {}), ("one", 1, {"deepspeed.zero": 0})):
        others, their_norms = train(path, tmp_path / name, processes, **engine)
        assert losses == pytest.approx(others, abs=1e-6)
        assert norms == pytest.approx(their_norms, rel=1e-4)
    assert min(norms) > 0.1
    assert len(set(losses)) == 3


def test_bf16_resumes_to_the_very_same_state(recipe_file, forked, tmp_path):
    path = recipe_file(steps=3, checkpoints={"every": 1, "keep": 9}, engine="fsdp2", deepspeed={"precision": "bf16"})
    exact, _ = train(path, tmp_path / "exact", 2, **{"deepspeed.precision": "fp32"})
    whole, _ = train(path, tmp_path / "whole", 2)
    assert whole == pytest.approx(exact, abs=2e-3)
    forked["kill_at"] = 2
    with pytest.raises(LavaBeamError):
        train(path, tmp_path / "killed", 2)
    forked["kill_at"] = None
    killed, _ = train(path, tmp_path / "killed", 2)
    assert killed == whole
    one, other = state_of(tmp_path / "whole" / "checkpoint-3"), state_of(tmp_path / "killed" / "checkpoint-3")
    assert all(np.array_equal(one[name], other[name]) for name in one | other)


def cut_off_the_projector(loop, step):
    if step.number == 0:
        loop.engine.model.model.multi_modal_projector.register_forward_hook(lambda module, given, made: made * 0)


def test_a_module_without_a_gradient_ends_the_run(recipe_file, forked, tmp_path):
    forked["observe"] = cut_off_the_projector
    with pytest.raises(LavaBeamError, match="the gradient of the projector was 0 in the last 2 steps"):
        launch.train(recipe_file(steps=2, engine="fsdp2"), processes=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "fsdp3"}, "engine"),
        ({"engine": "fsdp2", "deepspeed": {"offload": "optimizer"}}, "fsdp2 does not offload.*engine: deepspeed"),
        ({"engine": "fsdp2", "stage": "finetune_qlora"}, "fsdp2 cannot divide 4-bit weights.*engine: deepspeed"),
    ],
)
def test_what_no_engine_does_is_refused(recipe_file, changes, message):
    with pytest.raises(InputError, match=message):
        check(load_recipe(recipe_file(**changes)), 1)
