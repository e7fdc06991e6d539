"""LoRA: what learns, what is written, and a merge that is checked before it is written."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas.errors import InputError
from trainer import launch
from trainer.adapter import merge
from trainer.folder import ModelFolder


@pytest.fixture
def run(recipe_file, forked, tmp_path):
    path = recipe_file(stage="finetune_lora", lora={"rank": 2, "alpha": 4, "dropout": 0.0}, steps=2)
    launch.train(path, processes=1)
    return tmp_path / "run"


def test_adapters_and_the_projector_learn_and_merge_into_a_checkpoint(run, tiny, tmp_path):
    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 2 * 2 * 7
    assert any(tensor.abs().sum() > 0 for name, tensor in adapter.items() if "lora_B" in name)
    merge(run, tmp_path / "merged")
    before, after = (
        load_file(tiny / "model" / "model.safetensors"),
        load_file(tmp_path / "merged" / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name for name in changed if "projector" in name} == {name for name in before if "projector" in name}
    assert any("q_proj" in name for name in changed)
    assert not any(word in name for name in changed for word in ("embed", "lm_head", "norm", "vision"))
    assert ModelFolder.open(tmp_path / "merged").template == "mistral"


def test_a_merge_that_changes_the_logits_writes_nothing(run, tmp_path):
    file = run / "adapter" / "adapter_model.safetensors"
    tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(file).items()}
    save_file(tensors, file)
    with pytest.raises(InputError, match="nothing was written"):
        merge(run, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_adapter_is_no_checkpoint_and_a_checkpoint_no_adapter(run, tiny, tmp_path):
    with pytest.raises(InputError, match="Merge it first"):
        ModelFolder.open(run / "adapter")
    with pytest.raises(InputError, match="no LoRA adapter"):
        merge(tiny / "model", tmp_path / "merged")
