"""LoRA: what trains, what is written, and a merge that is checked before it is written."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas.errors import InputError, LavaBeamError
from trainer import launch
from trainer.models.adapter import merge
from trainer.models.folder import ModelFolder


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


def test_a_tower_that_is_trained_beside_adapters_is_kept_and_merged(recipe_file, forked, tiny, tmp_path):
    path = recipe_file(stage="finetune_lora", train=["tower", "projector"], lora={"rank": 2, "alpha": 4}, steps=3)
    launch.train(path, processes=1)
    merge(tmp_path / "run", tmp_path / "merged")
    before, after = (load_file(f / "model.safetensors") for f in (tiny / "model", tmp_path / "merged"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("vision_model.encoder.layers.0" in name for name in moved)
    assert any("multi_modal_projector" in name for name in moved)
    assert before.keys() == after.keys()


def test_a_4_bit_language_model_learns_through_adapters_and_keeps_the_rest_in_full(recipe_file, forked, tiny, tmp_path):
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0}
    path = recipe_file(stage="finetune_qlora", lora=lora, steps=8, optimizer__learning_rate=1e-2)
    result = launch.train(path, processes=1)
    assert result["last_loss"] < result["first_loss"] - 0.05
    before = load_file(tiny / "model" / "model.safetensors")
    projector = load_file(tmp_path / "run" / "adapter" / "projector.safetensors")
    assert len(projector) == 4
    for name, tensor in projector.items():
        assert (tensor.dtype, tensor.shape) == (torch.float32, before[name.removeprefix("model.")].shape)
        assert not torch.equal(tensor, before[name.removeprefix("model.")])
    # 7 layers a block and 2 blocks, of rank 4, and the whole projector
    adapters = 2 * 4 * (2 * (24 + 24) + 2 * (24 + 12) + 3 * (24 + 48))
    assert result["trainable_parameters"] == adapters + sum(tensor.numel() for tensor in projector.values())
    merge(tmp_path / "run", tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert merged.keys() == before.keys()
    assert all(torch.equal(merged[name.removeprefix("model.")], tensor) for name, tensor in projector.items())


def test_a_quantised_module_that_should_train_is_reported(tiny):
    from transformers import LlavaForConditionalGeneration

    from trainer.models.loading import check_learning
    from trainer.stages import STAGES, freeze

    model = LlavaForConditionalGeneration.from_pretrained(tiny / "model")
    layer = model.model.multi_modal_projector.linear_1
    layer.weight = torch.nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    freeze(model, STAGES["finetune_qlora"])
    with pytest.raises(LavaBeamError, match=r"linear_1\.weight was loaded as torch\.uint8"):
        check_learning(model, STAGES["finetune_qlora"])


def test_4_bits_and_zero_3_exclude_each_other(recipe_file):
    path = recipe_file(stage="finetune_qlora", deepspeed={"zero": 3})
    with pytest.raises(InputError, match="zero: 2"):
        launch.train(path, processes=1)


def test_a_merge_that_changes_the_logits_writes_nothing(run, tmp_path):
    file = run / "adapter" / "adapter_model.safetensors"
    tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(file).items()}
    save_file(tensors, file)
    with pytest.raises(InputError, match="nothing was written"):
        merge(run, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_another_model_of_the_same_shape_is_refused_and_a_moved_one_is_not(run, tiny, tmp_path):
    moved = shutil.copytree(tiny / "model", tmp_path / "moved")
    other = shutil.copytree(tiny / "model", tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"other: its weights are not those .* Put that checkpoint back"):
        merge(run, tmp_path / "merged", other)
    assert not (tmp_path / "merged").exists()
    assert merge(run, tmp_path / "merged", moved) == tmp_path / "merged"


def test_an_adapter_is_no_checkpoint_and_a_checkpoint_no_adapter(run, tiny, tmp_path):
    with pytest.raises(InputError, match="Merge it first"):
        ModelFolder.open(run / "adapter")
    with pytest.raises(InputError, match="not a LoRA adapter"):
        merge(tiny / "model", tmp_path / "merged")
