"""A dry run reports everything and writes nothing; a model in parts is joined before training."""

import shutil
from dataclasses import replace

import pytest
import torch

from schemas.errors import InputError
from tests.trainer.conftest import RULE, save_llm
from trainer import launch
from trainer.config import load_recipe
from trainer.models import shards
from trainer.models.assemble import assemble
from trainer.models.folder import ModelFolder
from trainer.models.opening import empty_shell
from trainer.models.parts import assembled
from trainer.preflight import check
from trainer.room import model_sizes, total_parameters


@pytest.fixture
def parts(recipe_values, recipe_file, tiny):
    def write(**changes):
        recipe_values["model"] = {"tower": str(tiny / "tower"), "llm": str(tiny / "llm")}
        return recipe_file(**changes)

    return write


def test_a_dry_run_of_a_checkpoint(recipe_file, tmp_path):
    report = launch.train(recipe_file(stage="pretrain"), processes=2, dry_run=True)
    assert report["steps"] == 4
    assert report["trainable_parameters"] == 16 * 24 + 24 + 24 * 24 + 24
    assert {group["name"] for group in report["groups"]} == {"projector", "projector_no_decay"}
    assert "torchrun --nproc-per-node=2" in report["launch"]["torchrun"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["llama", "olmo2"])
def test_the_memory_estimate_counts_every_parameter(tiny, reader, tmp_path, kind):
    """Of a type of language model that is not in the table too."""
    llm = save_llm(tmp_path / "llm", tiny / "tokenizer", reader.vocab_size, kind)
    folder = ModelFolder.open(assemble(tiny / "tower", llm, tmp_path / "model", rule=RULE))
    sizes = model_sizes(folder)
    counted = sizes.language_parameters + sizes.vision_parameters + sizes.projector_parameters
    real = sum(parameter.numel() for parameter in empty_shell(folder).parameters())
    assert counted == total_parameters(folder) == real


def test_a_dry_run_of_parts_knows_rates_and_writes_nothing(parts, tmp_path):
    path = parts(stage="finetune_tower", optimizer={"learning_rate": 1e-3, "learning_rates": {"tower": 2e-6}})
    report = launch.train(path, processes=1, dry_run=True)
    assert {group["name"]: group["rate"] for group in report["groups"] if "no_decay" not in group["name"]} == {
        "tower": 2e-6,
        "projector": 1e-3,
        "llm": 1e-3,
    }
    assert report["trainable_parameters"] < report["parameters"]
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_lora_counts_adapters_and_projector(recipe_file):
    report = launch.train(recipe_file(stage="finetune_lora", lora={"rank": 2, "alpha": 4}), processes=1, dry_run=True)
    sizes = {group["name"]: group["parameters"] for group in report["groups"]}
    # Two layers; inputs plus outputs of q, k, v, o (width 24, one shared key and value head of 12) and of the three
    # feed-forward matrices (24 and 48), times the rank.
    assert sizes["llm"] == 2 * 2 * ((24 + 24) * 2 + (24 + 12) * 2 + (24 + 48) * 3)
    assert sizes["projector"] == 16 * 24 + 24 * 24


def test_parts_are_joined_once(parts, tmp_path):
    job = check(load_recipe(parts()), 1)
    recipe = assembled(job)
    assert recipe.model.checkpoint == str(tmp_path / "run" / "base")
    weights = tmp_path / "run" / "base" / "model.safetensors"
    made = weights.stat().st_mtime_ns
    assert assembled(job) == recipe
    assert weights.stat().st_mtime_ns == made
    assert check(recipe, 1).folder is not None


def test_a_projector_from_the_original_code_is_taken_over(parts, tmp_path):
    from safetensors.torch import load_file

    shapes = {"0.weight": (24, 16), "0.bias": (24,), "2.weight": (24, 24), "2.bias": (24,)}
    kept = {f"model.mm_projector.{name}": torch.randn(shape) for name, shape in shapes.items()}
    torch.save(kept, tmp_path / "mm_projector.bin")
    assembled(check(load_recipe(parts(model__projector=str(tmp_path / "mm_projector.bin"))), 1))
    weights = load_file(tmp_path / "run" / "base" / "model.safetensors")
    assert torch.equal(weights["multi_modal_projector.linear_2.weight"], kept["model.mm_projector.2.weight"])


def test_features_other_than_the_mixs_are_refused(parts):
    job = check(load_recipe(parts(model__select_feature="full")), 1)
    assert replace(job).rule.select == "patch"
    with pytest.raises(InputError, match="select_feature"):
        assembled(job)


def test_preparing_writes_the_run_folder_and_a_job_script(recipe_file, tmp_path):
    report = launch.train(recipe_file(), processes=4, nodes=2, prepare_only=True)
    script = (tmp_path / "run" / "job.slurm").read_text()
    assert "--nodes=2\n#SBATCH --ntasks-per-node=4" in script
    assert str(tmp_path / "run") in script
    assert report["launch"]["deepspeed"].startswith(
        "PYTHONSAFEPATH=1 deepspeed --hostfile=HOSTFILE --num_nodes=2 --num_gpus=4"
    )
    assert load_recipe(tmp_path / "run" / "recipe.yaml").steps == 4


def test_several_machines_get_lines_of_their_own(recipe_file):
    report = launch.train(recipe_file(), processes=2, nodes=2, dry_run=True)
    assert report["processes"] == 4
    assert "--nnodes=2" in report["launch"]["torchrun"]
    assert "--nproc-per-node=2" in report["launch"]["torchrun"]
    assert "--num_nodes=2 --num_gpus=2" in report["launch"]["deepspeed"]
    assert report["launch"]["prepare"].startswith("lavabeam train RECIPE --processes=2 --nodes=2 --prepare")
    assert "here" not in report["launch"]
    with pytest.raises(InputError, match="--prepare"):
        launch.train(recipe_file(), processes=2, nodes=2)


@pytest.mark.parametrize("engine", ["deepspeed", "fsdp2"])
def test_a_pretrained_model_shares_what_it_did_not_learn_with_its_base(parts, forked, tmp_path, monkeypatch, engine):
    monkeypatch.setattr(shards, "WORTH_SHARING", 0)
    launch.train(parts(stage="pretrain", steps=1, engine=engine), processes=1)
    run = tmp_path / "run"
    before, after = (dict(shards.read_tensors(run / name)) for name in ("base", "model"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("multi_modal_projector.")}
    assert sorted(file.stat().st_nlink for file in (run / "model").glob("*.safetensors")) == [1, 2, 2]


def test_a_refused_run_leaves_the_other_runs_parts_alone(parts, forked, tmp_path):
    launch.train(parts(stage="pretrain", steps=1), processes=1)
    base = (tmp_path / "run" / "base" / "model.safetensors").read_bytes()
    other = parts(stage="pretrain", steps=1, plan__seed=1)
    with pytest.raises(InputError, match="--replace"):
        launch.train(other, processes=1)
    assert (tmp_path / "run" / "base" / "model.safetensors").read_bytes() == base
    assert launch.train(other, processes=1, replace=True)["steps"] == 1
    again = parts(stage="pretrain", steps=2, plan__seed=1)
    assert launch.train(again, processes=1, replace=True)["steps"] == 2


def test_a_run_does_not_overwrite_what_it_starts_from(recipe_file, tmp_path, tiny):
    shutil.copytree(tiny / "model", tmp_path / "run" / "model")
    with pytest.raises(InputError, match="starts from"):
        launch.train(recipe_file(model={"checkpoint": str(tmp_path / "run")}), processes=1)
