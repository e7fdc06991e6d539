"""Every shipped training recipe says where its values come from, and passes a dry run on small stand-ins."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from schemas.chat import ImageRule
from trainer import launch, preflight
from trainer.config import load_recipe
from trainer.plan import STRATEGIES
from trainer.stages import get_stage

from .conftest import sample_row, write_mix

RECIPES = sorted((Path(__file__).parents[2] / "lavabeam" / "recipes" / "training").glob("*.yaml"))
OPTIONAL = ("bitsandbytes", "tensorboard")
A_FILE_AT_A_COMMIT = re.compile(r"[\w/.-]+\.(sh|py|md)@[0-9a-f]{7}\b")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_cites_its_source(path):
    recipe = load_recipe(path)
    get_stage(recipe.stage, recipe.train)
    assert recipe.plan.strategy in STRATEGIES
    head = path.read_text(encoding="utf-8").partition("stage:")[0]
    assert A_FILE_AT_A_COMMIT.search(head) or (path.stem.startswith("demo-") and "docs/training.md" in head)


@pytest.fixture(scope="module")
def mixes(tiny, reader):
    """A mix for pictures of one tile, and one for anyres."""
    rules = {"square": ImageRule("square", 16, 8), "anyres": ImageRule("anyres", 16, 8, pinpoints=((16, 32), (32, 16)))}
    for name, rule in rules.items():
        rows = [sample_row(number, reader, "mistral", images=int(number % 3 != 2)) for number in range(6)]
        write_mix(tiny / f"recipes-{name}", rows, reader, rule=rule)
    return {name: str(tiny / f"recipes-{name}") for name in rules}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_passes_a_dry_run(path, tiny, mixes, tmp_path, monkeypatch):
    """Its own stage, learning rates, LoRA, ZeRO and bounds, on a tiny tower, language model and mix."""
    found = importlib.util.find_spec
    seen = SimpleNamespace(find_spec=lambda name: name in OPTIONAL or found(name))
    monkeypatch.setattr(preflight, "importlib", SimpleNamespace(util=seen))
    recipe = load_recipe(path)
    anyres = "mode: anyres" in path.read_text(encoding="utf-8")
    changes = {"data.mix": mixes["anyres" if anyres else "square"], "output": str(tmp_path / "run")}
    if recipe.model.checkpoint:
        changes["model.checkpoint"] = str(tiny / "model")
    else:
        changes |= {"model.tower": str(tiny / "tower"), "model.llm": str(tiny / "llm")}
    if recipe.model.projector:
        changes["model.projector"] = str(tmp_path / "mm_projector.bin")
        shapes = {"0.weight": (24, 16), "0.bias": (24,), "2.weight": (24, 24), "2.bias": (24,)}
        torch.save(
            {f"mm_projector.{name}": torch.zeros(shape) for name, shape in shapes.items()}, changes["model.projector"]
        )
    report = launch.train(path, processes=1, overrides=changes, dry_run=True)
    rates = {group["name"].removesuffix("_no_decay"): group["rate"] for group in report["groups"]}
    stage = get_stage(recipe.stage, recipe.train)
    assert set(rates) == {*stage.trains, *(["llm"] if stage.adapter else [])}
    assert rates == {name: recipe.optimizer.learning_rates.get(name, recipe.optimizer.learning_rate) for name in rates}
    assert report["steps"] == recipe.steps or report["steps"] == recipe.epochs
    assert report["trainable_parameters"] > 0
    assert not (tmp_path / "run").exists()


def test_the_published_values_are_those_of_the_scripts():
    values = {path.stem: load_recipe(path) for path in RECIPES}
    steps = {
        name: (recipe.optimizer.learning_rate, recipe.plan.global_batch, recipe.epochs)
        for name, recipe in values.items()
    }
    assert steps["v1.5-7b-pretrain"] == steps["v1.5-13b-pretrain"] == (1e-3, 256, 1)
    assert steps["v1.5-7b-finetune"] == steps["v1.5-13b-finetune"] == (2e-5, 128, 1)
    assert steps["v1.5-7b-lora"] == steps["v1.5-13b-lora"] == (2e-4, 128, 1)
    assert steps["llama-2-pretrain"] == (2e-3, 128, 1)
    assert steps["llama-2-finetune"] == (2e-5, 128, 1)
    assert steps["scienceqa"] == (2e-5, 128, 12)
    assert steps["qlora-24gb"] == (2e-4, 16, 1)
    for name in ("llama-3-8b-next", "qwen2-7b-next"):
        assert steps[name][0] == 1e-5
        assert values[name].optimizer.learning_rates == {"tower": 2e-6}
        assert values[f"{name}-pretrain"].optimizer.learning_rate == 1e-3
        assert values[name].model.projector == f"{values[f'{name}-pretrain'].output}/mm_projector.bin"
        assert values[f"{name}-pretrain"].original_projector
    for recipe in (value for name, value in values.items() if not name.startswith("demo-")):
        assert recipe.optimizer.weight_decay == 0
        assert recipe.optimizer.warmup == (0 if recipe.stage == "finetune_qlora" else 0.03)
        assert recipe.optimizer.schedule == ("constant_with_warmup" if recipe.stage == "finetune_qlora" else "cosine")
