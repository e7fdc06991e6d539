"""fp16 with loss scaling on CPU ranks: near float32, steps that overflow are taken again, and resuming is exact."""

import json

import numpy as np
import pytest

from schemas.errors import LavaBeamError
from tests.trainer.engines.test_resume_world import state_of
from trainer import launch
from trainer.engines.scaling import CLEAN_STEPS, FIRST, LossScale
from trainer.metrics.recorder import read_metrics

ENGINES = [
    {"deepspeed.zero": 0},
    {"deepspeed.zero": 3},
    {"deepspeed.zero": 2, "deepspeed.offload": "optimizer"},
    {"engine": "fsdp2"},
]


def names(setting):
    return "-".join(str(value) for value in setting.values())


def train(path, output, **overrides):
    result = launch.train(path, processes=2, overrides={"output": str(output), **overrides})
    return result, read_metrics(output / "metrics.jsonl")


def overflowing_above(limit):
    """From step 1 on, rank 0's gradient is infinite at scales above `limit`."""

    def observe(loop, step):
        if step.number > 0 and loop.engine.rank == 0 and not hasattr(loop, "spoiled"):
            loop.spoiled = True

            def spoil(module, given, made):
                if loop.engine.scale.value > limit:
                    made.register_hook(lambda gradient: gradient * float("inf"))

            loop.engine.model.model.multi_modal_projector.register_forward_hook(spoil)

    return observe


@pytest.mark.parametrize("setting", ENGINES, ids=names)
def test_a_step_that_overflows_is_taken_again_with_a_smaller_scale(recipe_file, forked, tmp_path, capfd, setting):
    path = recipe_file(steps=3, stage="pretrain")
    _, exact = train(path, tmp_path / "fp32", **{"deepspeed.precision": "fp32"})
    forked["observe"] = overflowing_above(FIRST / 4)
    result, lines = train(path, tmp_path / "fp16", **{"deepspeed.precision": "fp16"}, **setting)
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in exact], abs=2e-3)
    assert [line["grad_norm"] for line in lines] == pytest.approx([line["grad_norm"] for line in exact], rel=2e-2)
    assert [line["overflows"] for line in lines] == [0, 2, 0]
    assert [line["loss_scale"] for line in lines] == [FIRST, FIRST / 4, FIRST / 4]
    assert result["overflows"] == 2
    assert "step 1: gradient overflow in fp16 at loss scale 32768; taken again with 16384." in capfd.readouterr().err


def test_it_resumes_to_the_very_same_state(recipe_file, forked, tmp_path):
    path = recipe_file(steps=3, checkpoints={"every": 1, "keep": 9})
    setting = {"deepspeed.zero": 3, "deepspeed.precision": "fp16"}
    forked["observe"] = overflowing_above(FIRST / 4)
    _, whole = train(path, tmp_path / "whole", **setting)
    forked["kill_at"] = 2
    with pytest.raises(LavaBeamError):
        train(path, tmp_path / "killed", **setting)
    forked["kill_at"] = None
    _, killed = train(path, tmp_path / "killed", **setting)
    assert [(line["loss"], line["loss_scale"]) for line in whole] == [
        (line["loss"], line["loss_scale"]) for line in killed
    ]
    saved = json.loads((tmp_path / "killed" / "checkpoint-3" / "checkpoint.json").read_text())
    assert saved["loss_scale"] == {"value": FIRST / 4, "clean": 2}
    one, other = state_of(tmp_path / "whole" / "checkpoint-3"), state_of(tmp_path / "killed" / "checkpoint-3")
    assert all(np.array_equal(one[name], other[name]) for name in one | other)


def test_a_gradient_that_no_scale_helps_stops_the_run(recipe_file, forked, tmp_path):
    forked["observe"] = overflowing_above(0)
    message = r"step 1: the norm of the gradient is inf in 20 tries with ever smaller loss scales.*samples: row-"
    with pytest.raises(LavaBeamError, match=message):
        train(recipe_file(stage="pretrain"), tmp_path / "run", **{"deepspeed.precision": "fp16"})
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 1


def test_the_scale_grows_again_and_continues_where_it_was():
    scale = LossScale()
    scale.update(finite=False)
    for _ in range(CLEAN_STEPS - 1):
        scale.update(finite=True)
    assert scale.value == FIRST / 2
    resumed = LossScale()
    resumed.load(scale.state())
    resumed.update(finite=True)
    assert (resumed.value, resumed.clean) == (FIRST, 0)
