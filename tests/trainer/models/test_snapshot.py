"""A checkpoint of a run becomes the model or the adapter that the run itself writes at its end."""

import pytest
import torch
from safetensors.torch import load_file

from schemas.errors import InputError
from trainer import launch
from trainer.models.adapter import merge
from trainer.models.folder import ModelFolder
from trainer.models.snapshot import export_checkpoint

LORA = {"stage": "finetune_lora", "lora": {"rank": 2, "alpha": 4, "dropout": 0.0}}


@pytest.mark.parametrize("settings, zero", [({}, 2), ({"stage": "pretrain"}, 3), (LORA, 2)])
def test_the_last_checkpoint_is_the_finished_model(recipe_file, forked, tmp_path, settings, zero):
    path = recipe_file(**settings, steps=2, checkpoints={"every": 1, "keep": 2}, deepspeed={"zero": zero})
    launch.train(path, processes=2)
    run = tmp_path / "run"
    name, file = ("adapter", "adapter_model") if "lora" in settings else ("model", "model")
    made = export_checkpoint(run / "checkpoint-2", tmp_path / "made")
    wanted, found, before = (
        load_file(folder / f"{file}.safetensors")
        for folder in (run / name, made, export_checkpoint(run / "checkpoint-1", tmp_path / "before"))
    )
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    assert any(not torch.equal(wanted[key], before[key]) for key in wanted)
    assert sorted(path.name for path in made.iterdir()) == sorted(path.name for path in (run / name).iterdir())
    if name == "adapter":
        merge(made, tmp_path / "merged")
    assert ModelFolder.open(tmp_path / "merged" if name == "adapter" else made).template == "mistral"


def test_what_is_not_a_whole_checkpoint_is_refused(recipe_file, forked, tmp_path):
    launch.train(recipe_file(steps=2, checkpoints={"every": 1, "keep": 2}), processes=1)
    run = tmp_path / "run"
    with pytest.raises(InputError, match=r"Give RUN/checkpoint-N"):
        export_checkpoint(tmp_path / "checkpoint-2", tmp_path / "made")
    with pytest.raises(InputError, match="Complete ones of this run: checkpoint-1, checkpoint-2"):
        export_checkpoint(run / "checkpoint-7", tmp_path / "made")
    next((run / "checkpoint-2").glob("rank-*.safetensors")).write_bytes(b"")
    with pytest.raises(InputError, match=r"Complete ones of this run: checkpoint-1\."):
        export_checkpoint(run / "checkpoint-2", tmp_path / "made")
    with pytest.raises(InputError, match="already exists"):
        export_checkpoint(run / "checkpoint-1", run)


def test_damage_is_one_line_or_an_older_checkpoint(recipe_file, forked, tmp_path):
    launch.train(recipe_file(steps=2, checkpoints={"every": 1, "keep": 2}), processes=1)
    run = tmp_path / "run"
    (run / "checkpoint-2" / "checkpoint.json").write_text("{")
    export_checkpoint(run / "checkpoint-1", tmp_path / "made")
    part = next((run / "checkpoint-1").glob("rank-*.safetensors"))
    part.write_bytes(part.read_bytes()[:20] + b"x" * 32 + part.read_bytes()[52:])
    with pytest.raises(InputError, match=r"rank-0.*cannot be read"):
        export_checkpoint(run / "checkpoint-1", tmp_path / "other")
    (run / "inputs.json").write_text("{")
    with pytest.raises(InputError, match=r"inputs\.json: cannot be read"):
        export_checkpoint(run / "checkpoint-1", tmp_path / "other")
