"""Compiled layers compute what plain ones do; what cannot be loaded is reported before anything starts."""

import json
import shutil
import sys

import pytest
import torch

from schemas.errors import InputError
from trainer import preflight
from trainer.config import load_recipe
from trainer.models import kernels, varlen
from trainer.models.folder import ModelFolder
from trainer.models.kernels import (
    Machine,
    attention,
    check_kernel,
    compile_layers,
    transformer_layers,
    use_liger,
)
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


def test_liger_is_given_the_model_itself_and_its_loss_is_used(model, monkeypatch):
    given = []

    def apply(model, fused_linear_cross_entropy):
        given.append((model, fused_linear_cross_entropy))

    def summed(hidden, weights, targets, *, ignore_index, reduction, accum_dtype):
        assert (ignore_index, reduction, accum_dtype) == (-100, "sum", torch.float32)
        return torch.nn.functional.cross_entropy(hidden @ weights.T, targets, reduction="sum")

    stand_in, functional = (type(sys)(f"liger_kernel.transformers{end}") for end in ("", ".functional"))
    stand_in.apply_liger_kernel_to_llava = apply
    functional.liger_fused_linear_cross_entropy = summed
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "liger_kernel", type(sys)("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", stand_in)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", functional)
    ids = torch.tensor([[7, 8, 9]])
    where = {"logits_to_keep": torch.tensor([0, 1]), "shift_labels": ids[:, 1:], "num_items_in_batch": torch.tensor(2)}
    expected = float(model(input_ids=ids, labels=ids, **where).loss)
    kernels.use_liger(model)
    assert given == [(model, False)]
    assert float(model(input_ids=ids, labels=ids, **where).loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Liger's kernels are Triton's: they need a GPU")
def test_ligers_loss_is_torchs():
    functional = pytest.importorskip("liger_kernel.transformers.functional")
    torch.manual_seed(0)
    hidden, weights = torch.randn(50, 32, device="cuda"), torch.randn(300, 32, device="cuda")
    targets = torch.randint(0, 300, (50,), device="cuda")
    targets[::3] = -100
    ours = functional.liger_fused_linear_cross_entropy(hidden, weights, targets, reduction="sum")
    expected = torch.nn.functional.cross_entropy(hidden @ weights.T, targets, reduction="sum")
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-3)


LLAMA = {"hidden_size": 4096, "num_attention_heads": 32}
GEMMA2 = {"hidden_size": 3584, "num_attention_heads": 16, "head_dim": 256, "attn_logit_softcapping": 50.0}


def choose(rows="auto", generation=9, precision="bf16", text=LLAMA, wanted="auto"):
    return attention(wanted, rows, Machine(generation, precision), text)


@pytest.mark.parametrize(
    ("flash", "expected"),
    [((4, 2), "flash_attention_4"), ((3,), "flash_attention_3"), ((2,), "flash_attention_2"), ((), "torch_varlen")],
)
def test_the_best_attention_that_is_there_makes_rows_packed(monkeypatch, flash, expected):
    _install_flash_attn(monkeypatch, flash)
    assert choose() == choose("packed") == (expected, True)
    assert choose("padded") == ((expected, False) if flash else (None, False))
    assert choose(generation=None, precision="fp32") == (None, False)
    assert choose("packed", generation=None, precision="fp32") == (None, True)


@pytest.mark.parametrize(
    ("generation", "precision", "text", "expected"),
    [
        (8, "bf16", LLAMA, "flash_attention_2"),  # A100, L4
        (8, "fp16", LLAMA, "flash_attention_2"),
        (8, "fp32", LLAMA, None),
        (9, "bf16", GEMMA2, "flash_attention_3"),
        (10, "bf16", LLAMA, "flash_attention_4"),
        (11, "bf16", LLAMA, "torch_varlen"),
        (12, "bf16", LLAMA, "flash_attention_2"),
        (7, "fp16", LLAMA, None),  # V100, T4
        (9, "bf16", {**LLAMA, "head_dim": 20}, None),
        (9, "bf16", {**LLAMA, "head_dim": 512}, None),
        (9, "bf16", {**LLAMA, "attention_dropout": 0.1}, "flash_attention_2"),
    ],
)
def test_what_cannot_run_here_is_passed_over(monkeypatch, generation, precision, text, expected):
    _install_flash_attn(monkeypatch, (4, 3, 2))
    assert choose("auto", generation, precision, text) == (expected, expected is not None)


def test_without_a_torch_that_has_it_rows_are_padded(monkeypatch):
    _install_flash_attn(monkeypatch, ())
    monkeypatch.setattr(varlen, "available", lambda: False)
    assert choose() == (None, False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wanted": "flash_attention_4", "generation": 8}, "capability 8.x, only for 9.x, 10.x.*flash_attention_2"),
        ({"wanted": "flash_attention_3"}, "not installed.*torch_varlen, sdpa, eager"),
        ({"wanted": "flash_attention_2", "generation": 7, "precision": "fp16"}, "7.x, only .*one of sdpa, eager"),
        ({"wanted": "flash_attention_2", "generation": None, "precision": "fp32"}, "needs a GPU"),
        ({"wanted": "flash_attention_2", "precision": "fp32"}, "this run is in fp32"),
        ({"wanted": "torch_varlen", "text": GEMMA2}, "cannot cap scores.*flash_attention_2"),
        ({"wanted": "torch_varlen", "rows": "padded"}, "rows: padded"),
        ({"wanted": "torch_varlen", "rows": "padded", "generation": None, "precision": "fp32"}, "rows: padded"),
    ],
)
def test_a_kernel_that_cannot_run_is_refused_with_those_that_can(monkeypatch, changes, words):
    _install_flash_attn(monkeypatch, (2,))
    with pytest.raises(InputError, match=f"attention: {changes['wanted']} .*{words}"):
        choose(**changes)


@pytest.mark.parametrize(
    ("wanted", "rows", "expected"),
    [
        ("flash_attention_2", "auto", ("flash_attention_2", True)),
        ("flash_attention_2", "padded", ("flash_attention_2", False)),
        ("torch_varlen", "auto", ("torch_varlen", True)),
        ("sdpa", "auto", ("sdpa", False)),
        ("eager", "packed", ("eager", True)),
    ],
)
def test_the_recipes_own_choice_comes_first(monkeypatch, wanted, rows, expected):
    _install_flash_attn(monkeypatch, (4, 2))
    assert choose(rows, wanted=wanted) == expected


def test_torchs_attention_named_on_a_cpu_is_computed_row_by_row():
    assert choose(wanted="torch_varlen", generation=None, precision="fp32") == ("torch_varlen", True)


def _install_flash_attn(monkeypatch, installed):
    from transformers.utils import import_utils

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


def test_a_named_attention_that_cannot_run_stops_before_a_process_starts(recipe_file, forked):
    from trainer import launch

    with pytest.raises(InputError, match=r"flash_attention_2 needs a GPU.*sdpa"):
        launch.train(recipe_file(attention="flash_attention_2"), processes=1)
    assert forked["started"] == 0


def test_torchs_attention_trains_as_the_default_does(recipe_file, forked, tmp_path):
    from trainer import launch
    from trainer.metrics.recorder import read_metrics

    found = []
    for name in ("auto", "torch_varlen"):
        output = tmp_path / name
        launch.train(
            recipe_file(attention=name, steps=2, data__workers=1), processes=1, overrides={"output": str(output)}
        )
        found.append([line["loss"] for line in read_metrics(output / "metrics.jsonl")])
    assert found[1] == pytest.approx(found[0], abs=1e-5)


@pytest.mark.parametrize(
    ("gpu", "bf16", "wanted", "expected"),
    [
        (False, False, "auto", "fp32"),
        (True, True, "auto", "bf16"),
        (True, False, "auto", "fp16"),  # V100, T4
        (True, False, "fp32", "fp32"),
    ],
)
def test_precision_is_what_the_gpu_can_do(recipe_file, monkeypatch, gpu, bf16, wanted, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert kernels.precision_of(load_recipe(recipe_file(deepspeed={"precision": wanted}))) == expected


@pytest.mark.parametrize(
    ("kernel", "generation", "words"),
    [
        ("flash_attention_5", 9, "is unknown. Did you mean 'flash_attention_"),
        ("flash_attention_2", None, "needs a GPU, and torch sees none. Use sdpa."),
        ("flash_attention_3", 8, "capability 8.x, only for 9.x. Use flash_attention_2."),
        ("flash_attention_4", 9, "is not installed: it comes with 'lavabeam[flash]'. Use flash_attention_2."),
        ("flash_attention_2", 7, "only for 8.x, 9.x, 10.x, 12.x. Use sdpa."),
    ],
)
def test_an_attention_that_a_checkpoint_asks_for_and_that_cannot_run_is_refused(monkeypatch, kernel, generation, words):
    _install_flash_attn(monkeypatch, (2,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: generation is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (generation, 0))
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
