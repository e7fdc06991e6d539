"""Compiled layers compute what plain ones do; what cannot be loaded is reported before anything starts."""

import json
import shutil
import sys

import pytest
import torch

from schemas.errors import InputError
from trainer import preflight
from trainer.config import load_recipe
from trainer.models import kernels
from trainer.models.folder import ModelFolder
from trainer.models.kernels import check_kernel, compile_layers, flash_kernel, transformer_layers, use_liger
from trainer.models.loading import attention
from trainer.models.opening import from_folder


@pytest.fixture
def model(tiny):
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(tiny / "model").train()


def loss_and_gradients(model, image, length):
    ids = torch.full((2, length), 7)
    ids[:, 1:5] = image
    labels = torch.where(ids == image, -100, ids)
    model.zero_grad()
    inputs = {"input_ids": ids, "labels": labels, "pixel_values": torch.ones(2, 3, 16, 16)}
    loss = model(**inputs, attention_mask=torch.ones_like(ids), use_cache=False).loss
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_compiled_layers_give_the_same_loss_and_gradients_under_the_same_names(model, tiny, monkeypatch):
    """Captured and differentiated by the compiler; its own code generation, which takes minutes here, left out."""
    image = ModelFolder.open(tiny / "model").image_id
    plain = [loss_and_gradients(model, image, length) for length in (9, 12)]
    names = list(model.state_dict())
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    torch._dynamo.utils.counters.clear()
    compile_layers(model, backend="aot_eager")
    compiled = [loss_and_gradients(model, image, length) for length in (9, 12)]
    # One graph for all layers of a kind and two lengths, not one for each layer.
    assert 2 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 5
    assert list(model.state_dict()) == names
    for (one, ours), (other, theirs) in zip(plain, compiled, strict=True):
        assert other == pytest.approx(one, abs=1e-6)
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


def test_decoder_and_tower_layers_are_found(model):
    kinds = [type(layer).__name__ for layer in transformer_layers(model)]
    assert kinds == ["LlamaDecoderLayer"] * 2 + ["CLIPEncoderLayer"] * 2


def test_liger_says_why_it_cannot_run(model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="need a GPU"):
        use_liger(model)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    with pytest.raises(InputError, match="lavabeam\\[liger\\]"):
        use_liger(model)


def test_liger_is_given_the_model_itself(model, monkeypatch):
    given = []

    def apply(model):
        given.append(model)

    stand_in = type(sys)("liger_kernel.transformers")
    stand_in.apply_liger_kernel_to_llava = apply
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "liger_kernel", type(sys)("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", stand_in)
    kernels.use_liger(model)
    assert given == [model]


@pytest.mark.parametrize(
    ("installed", "expected"),
    [((4, 2), "flash_attention_4"), ((3,), "flash_attention_3"), ((2,), "flash_attention_2"), ((), None)],
)
def test_the_newest_flash_attn_makes_rows_packed(monkeypatch, installed, expected):
    _install_flash_attn(monkeypatch, installed, generation=9)
    assert flash_kernel() == expected
    assert attention("auto", gpu=True) == (expected, expected is not None)
    assert attention("padded", gpu=True) == (expected, False)
    assert attention("auto", gpu=False) == (None, False)
    assert attention("packed", gpu=False) == (None, True)


@pytest.mark.parametrize(("generation", "expected"), [(8, "flash_attention_2"), (10, "flash_attention_4"), (7, None)])
def test_a_flash_attn_without_kernels_for_the_gpu_is_passed_over(monkeypatch, generation, expected):
    """An A100 (8) cannot run flash-attn 3 and 4, a V100 (7) none."""
    _install_flash_attn(monkeypatch, (4, 3, 2), generation)
    assert flash_kernel() == expected


def _install_flash_attn(monkeypatch, installed, generation):
    from transformers.utils import import_utils

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (generation, 0))
    for version in (2, 3, 4):
        found = version in installed
        monkeypatch.setattr(import_utils, f"is_flash_attn_{version}_available", lambda found=found: found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"liger": True}, "lavabeam\\[liger\\]"), ({"stage": "finetune_qlora"}, "lavabeam\\[qlora\\]")],
)
def test_a_package_that_is_missing_is_reported_with_its_extra(recipe_file, monkeypatch, changes, words):
    find = preflight.importlib.util.find_spec
    hidden = ("liger_kernel", "bitsandbytes")
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None if name in hidden else find(name))
    with pytest.raises(InputError, match=words):
        preflight.check(load_recipe(recipe_file(**changes)), 1)


def test_compiling_without_a_compiler_is_reported(recipe_file, monkeypatch):
    monkeypatch.setattr(preflight.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="compiler"):
        preflight.check(load_recipe(recipe_file(compile=True)), 1)


@pytest.mark.parametrize(
    ("kernel", "generation", "words"),
    [
        ("flash_attention_5", 9, "is unknown. Did you mean 'flash_attention_"),
        ("flash_attention_2", None, "needs a GPU, and torch sees none. Use sdpa."),
        ("flash_attention_3", 8, "cannot run on Some GPU: flash-attn 3 has no kernels for it. Use flash_attention_2."),
        ("flash_attention_4", 9, "flash-attn 4 is not installed. Use flash_attention_2."),
        ("flash_attention_2", 7, "has no kernels for it. Use sdpa."),
    ],
)
def test_an_attention_that_cannot_run_is_refused_with_one_that_can(monkeypatch, kernel, generation, words):
    from transformers.utils import import_utils

    for version in (2, 3, 4):
        monkeypatch.setattr(import_utils, f"is_flash_attn_{version}_available", lambda found=version == 2: found)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: generation is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (generation, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    with pytest.raises(InputError) as error:
        check_kernel(kernel, "a folder")
    assert str(error.value).startswith("a folder: attention ")
    assert words in str(error.value)
    for able in ("sdpa", "eager", "flex_attention", None):
        check_kernel(able, "a folder")


def test_a_checkpoint_that_asks_for_flash_attn_is_refused_before_its_weights_are_read(tiny, tmp_path):
    folder = shutil.copytree(tiny / "model", tmp_path / "model")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "attn_implementation": "flash_attention_2"}))
    opened = ModelFolder.open(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="attention flash_attention_2 needs a GPU"):
        from_folder(opened)
