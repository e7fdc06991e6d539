"""The fused AdamW of GPUs, on CPU ranks: the plain one's weights, and where a resumed run's counter has to be."""

import numpy as np
import pytest
import torch

from schemas.errors import LavaBeamError
from tests.trainer.engines.test_resume_world import assert_close, state_of
from trainer import launch
from trainer.engines import optimizer

ENGINES = [
    {"deepspeed.zero": 2, "deepspeed.offload": "optimizer"},
    {"engine": "fsdp2"},
]


def train(path, output, setting):
    launch.train(path, processes=2, overrides={"output": str(output), **setting})
    return state_of(output / "checkpoint-3")


@pytest.mark.parametrize("setting", ENGINES, ids=lambda one: "-".join(str(value) for value in one.values()))
def test_it_updates_and_resumes_like_the_plain_one(recipe_file, forked, tmp_path, monkeypatch, setting):
    path = recipe_file(steps=3, checkpoints={"every": 1, "keep": 9}, optimizer__weight_decay=0.1)
    plain = train(path, tmp_path / "plain", setting)
    monkeypatch.setattr(optimizer, "fuses", lambda device: True)
    fused = train(path, tmp_path / "fused", setting)
    assert_close(plain, fused, 1e-5)
    forked["kill_at"] = 2
    with pytest.raises(LavaBeamError):
        train(path, tmp_path / "killed", setting)
    forked["kill_at"] = None
    resumed = train(path, tmp_path / "killed", setting)
    assert all(np.array_equal(fused[name], resumed[name]) for name in fused | resumed)


def test_the_counter_of_the_fused_one_is_where_the_parameter_is():
    parameter = torch.nn.Parameter(torch.ones(2, device="meta"))
    plain = torch.optim.AdamW([parameter])
    assert optimizer.counter(plain, parameter, 3).item() == 3.0
    plain.defaults["fused"] = True
    assert optimizer.counter(plain, parameter, 3).device.type == "meta"
