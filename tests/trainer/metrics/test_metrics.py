"""Metrics of a run: operations against torch's own count, MFU, memory, TensorBoard and Weights & Biases."""

import importlib.machinery
import json
import sys
import types

import numpy as np
import pytest
import torch

from schemas.errors import InputError
from trainer import launch
from trainer.config import load_recipe
from trainer.inputs.collate import Collator
from trainer.inputs.data import Samples
from trainer.metrics import trackers
from trainer.metrics.flops import ModelFlops, model_flops, peak_flops
from trainer.metrics.recorder import describe, read_metrics, summary
from trainer.models.loading import load_model
from trainer.preflight import check

STAGES = ("pretrain", "finetune", "finetune_tower", "finetune_lora")


@pytest.mark.parametrize("stage", STAGES)
def test_operations_of_a_row_are_those_that_torch_counts(recipe_file, stage):
    """Within 2 %: the tower's last layer runs but gets no gradient, and gradients stop at the first patch."""
    from torch.utils.flop_counter import FlopCounterMode

    adapter = {"lora": {"rank": 2, "alpha": 4, "dropout": 0.0}} if stage == "finetune_lora" else {}
    job = check(load_recipe(recipe_file(stage=stage, **adapter)), 1)
    model = load_model(job, "eager")
    folder = job.folder
    items = Samples(job.mix, folder, max_length=128, cut=False).items([0])
    batch = Collator(folder.rule, folder.image_id, folder.tokenizer.pad_id, packed=False)(items)
    whole = {name: value for name, value in batch.items() if name not in ("logits_to_keep", "shift_labels")}
    with FlopCounterMode(display=False) as counter:
        model(**whole, use_cache=False).loss.backward()
    length = batch["input_ids"].shape[1]
    counted = model_flops(folder, job.stage, 2).of(np.array([length]), np.array([1]))
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02 if stage != "finetune_tower" else 0.06)


def test_operations_grow_with_the_square_of_a_row_and_not_with_padding():
    flops = ModelFlops(token=10.0, token_squared=2.0, tile=100.0)
    assert flops.of(np.array([3, 1]), np.array([1, 0])) == 10 * 4 + 2 * 10 + 100


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_peaks_are_found_by_the_name_of_the_device(device, peak):
    assert peak_flops(None, "bf16", device) == peak * 1e12


def test_no_mfu_without_a_known_peak_but_with_the_recipes():
    assert peak_flops(None, "fp32", None) is None
    assert peak_flops(None, "bf16", "NVIDIA RTX A4000") is None
    assert peak_flops(None, "fp32", "NVIDIA H100 PCIe") is None
    assert peak_flops(0.5, "fp32", None) == 5e11


def test_the_summary_leaves_out_the_first_step_and_the_bar_says_what_is_known():
    line = {"loss": 1.5, "padding": 0.25, "rank_balance": 0.98, "mfu": None, "peak_memory_gib": 1.26}
    lines = [{**line, "useful_tokens_per_second": speed} for speed in (1.0, 1000.0, 3000.0)]
    assert summary(lines) == {"useful_tokens_per_second": 2000.0, "mfu": None, "peak_memory_gib": 1.26}
    assert describe(lines[2]) == "loss 1.5000, 3,000 useful tokens/s, padding 25%, balance 0.98, 1.3 GiB"
    assert ", MFU 41.2%, " in describe({**lines[2], "mfu": 0.412})


class FakeRun:
    """A stand-in for wandb's run that writes its calls to a file, since ranks are processes of their own."""

    def __init__(self, file, settings):
        self.file = file
        self.record({"init": {key: settings[key] for key in ("project", "name", "id", "resume")}})

    def record(self, what):
        with self.file.open("a") as out:
            out.write(json.dumps(what) + "\n")

    def log(self, values, step):
        self.record({"step": step, **values})

    def finish(self):
        self.record({"finished": True})


def fake_wandb(monkeypatch, init):
    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.Error = type("Error", (Exception,), {})
    module.init = lambda **settings: init(module, settings)
    monkeypatch.setitem(sys.modules, "wandb", module)


def test_figures_reach_the_metrics_tensorboard_and_wandb(recipe_file, forked, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sent_file = tmp_path / "wandb.jsonl"
    fake_wandb(monkeypatch, lambda _, settings: FakeRun(sent_file, settings))
    path = recipe_file(stage="pretrain", peak_tflops=0.001, trackers=["tensorboard"], wandb={"project": "lava"})
    forked["stop_at"] = 1
    launch.train(path, processes=2)
    forked["stop_at"] = None
    result = launch.train(path, processes=2)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(0 < line["mfu"] < 1000 and line["peak_memory_gib"] > 0.05 for line in lines)
    assert result["peak_memory_gib"] == max(line["peak_memory_gib"] for line in lines)
    shown = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {"loss", "mfu", "padding", "rate/projector", "useful_tokens_per_second"} <= set(shown.Tags()["scalars"])
    assert [event.step for event in shown.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.value for event in shown.Scalars("loss")] == pytest.approx([line["loss"] for line in lines])
    sent = [json.loads(line) for line in sent_file.read_text().splitlines()]
    begun = [entry["init"] for entry in sent if "init" in entry]
    assert begun[0] == begun[1]
    assert (begun[0]["project"], begun[0]["name"], begun[0]["resume"]) == ("lava", "run", "allow")
    assert [entry["step"] for entry in sent if "step" in entry] == [1, 2, 3, 4]
    assert sum("finished" in entry for entry in sent) == 2


def test_without_tensorboard_one_line_says_so_and_nothing_stops(recipe_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    recipe = load_recipe(recipe_file(trackers=["tensorboard"]))
    assert trackers.open_trackers(recipe, tmp_path, 0, "mark") == []
    assert capsys.readouterr().err.count("\n") == 1


def test_tensorboard_is_on_by_default_and_an_empty_list_turns_it_off(recipe_file, recipe_values, tmp_path):
    assert trackers.open_trackers(load_recipe(recipe_file(trackers=[])), tmp_path, 0, "mark") == []
    del recipe_values["trackers"]
    assert load_recipe(recipe_file()).trackers == ("tensorboard",)


def test_wandb_that_does_not_start_is_a_clear_error(recipe_file, tmp_path, monkeypatch):
    def refuse(module, settings):
        raise module.Error("no API key configured")

    fake_wandb(monkeypatch, refuse)
    recipe = load_recipe(recipe_file(trackers=[], wandb={"project": "lava"}))
    with pytest.raises(InputError, match=r"no API key configured.*`wandb login`"):
        trackers.open_trackers(recipe, tmp_path, 0, "mark")


def test_wandb_has_to_be_installed_before_anything_starts(recipe_file, monkeypatch):
    monkeypatch.setattr("trainer.preflight.importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install wandb"):
        check(load_recipe(recipe_file(wandb={"project": "lava"})), 1)


def test_memory_is_that_of_the_process():
    from trainer.metrics.recorder import peak_memory

    held = np.ones(50_000_000, np.uint8)
    assert peak_memory(torch.device("cpu")) > held.nbytes


def test_the_gradient_norm_is_logged_with_and_without_zero(recipe_file, forked, tmp_path):
    path = recipe_file(steps=2)
    norms = []
    for stage in (0, 2):
        changes = {"deepspeed.zero": stage, "output": str(tmp_path / f"zero-{stage}")}
        launch.train(path, processes=1, overrides=changes)
        norms.append([line["grad_norm"] for line in read_metrics(tmp_path / f"zero-{stage}" / "metrics.jsonl")])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert min(norms[0]) > 0
