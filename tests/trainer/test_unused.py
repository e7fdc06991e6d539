"""Keys that have no effect in a recipe are refused or said; every other key is read by somebody."""

import re
from pathlib import Path

import pytest
import yaml

from schemas.config import StrictModel
from schemas.errors import InputError
from trainer import launch
from trainer.config import Recipe, load_recipe, save_recipe
from trainer.models.kernels import check_attention

TRAINER = Path(launch.__file__).parent
LLAMA = {"hidden_size": 4096, "num_attention_heads": 32}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"lora.rank": 128}, r"`lora` has no effect: stage finetune adds no adapter.*finetune_lora or finetune_qlora"),
        ({"lora": {}}, "`lora` has no effect"),
        ({"optimizer.learning_rates": {"tower": 1e-6}}, r"learning_rates.tower` has no effect.*the llm and projector"),
        ({"stage": "pretrain", "optimizer.learning_rates": {"llm": 1e-6}}, r"learning_rates.llm` has no effect"),
        ({"model.projector_type": "mlp2x_gelu"}, "`model.projector_type` has no effect: `checkpoint` is a complete"),
        ({"output": ""}, "`output` is empty"),
        ({"output": " "}, "`output` is empty"),
    ],
)
def test_a_key_without_effect_is_refused_though_it_has_its_default(recipe_file, overrides, words):
    path = recipe_file()
    with pytest.raises(InputError, match=words) as caught:
        load_recipe(path, overrides)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_an_adapter_reads_its_keys_and_the_rate_of_the_llm(recipe_file):
    path = recipe_file(stage="finetune_lora", lora={"rank": 2}, optimizer__learning_rates={"llm": 1e-6})
    assert load_recipe(path).lora.rank == 2


def test_a_saved_recipe_is_a_recipe(recipe_file, tmp_path):
    """With all defaults but those of keys that have no effect."""
    recipe = load_recipe(recipe_file())
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == recipe
    saved = yaml.safe_load((tmp_path / "saved.yaml").read_text())
    assert "lora" not in saved and list(saved["model"]) == ["checkpoint"]
    assert saved["deepspeed"] == {"zero": 2, "offload": "none", "precision": "auto"}


def test_a_dry_run_says_what_an_engine_does_not_read(recipe_file):
    path = recipe_file(engine="fsdp2", deepspeed={"zero": 2}, checkpoints={"keep": 3})
    notes = launch.train(path, processes=1, dry_run=True)["notes"]
    assert notes == [
        "engine fsdp2 divides the model as ZeRO-3 does: deepspeed.zero 2 has no effect",
        "checkpoints.every is 0, so that no checkpoint is written for checkpoints.keep to keep",
    ]
    path = recipe_file(engine="deepspeed", checkpoints={"keep": 3, "every": 4})
    assert "notes" not in launch.train(path, processes=1, dry_run=True)


def test_a_dry_run_says_what_this_machine_lacks_and_a_run_refuses_it(recipe_file, monkeypatch):
    """A dry run may be for another machine: it is not refused."""
    monkeypatch.setattr("trainer.models.kernels.why_never", lambda kernel, text: None)  # the tiny model has odd heads
    path = recipe_file(attention="flash_attention_2")
    (note,) = launch.train(path, processes=1, dry_run=True)["notes"]
    assert note.startswith("this machine would refuse the run: attention: flash_attention_2 needs a GPU")
    with pytest.raises(InputError, match="attention: flash_attention_2 needs a GPU"):
        launch.train(path, processes=1)


def test_an_attention_that_no_gpu_runs_with_this_model_is_refused_in_a_dry_run_too(recipe_file):
    with pytest.raises(InputError, match=r"flash_attention_2 takes heads of at most 256 values.*this .* has 12"):
        launch.train(recipe_file(attention="flash_attention_2"), processes=1, dry_run=True)
    with pytest.raises(InputError, match=r"torch_varlen computes packed rows only.*one of flash_attention_4, "):
        check_attention("torch_varlen", "padded", LLAMA)
    with pytest.raises(InputError, match=r"flash_attention_4 cannot cap scores.*flash_attention_3, flash_attention_2"):
        check_attention("flash_attention_4", "auto", {**LLAMA, "attn_logit_softcapping": 50.0})
    check_attention("flash_attention_2", "auto", LLAMA)


def _leaves(model: type[StrictModel]) -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        kinds = [kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ())) if kind is not None]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, StrictModel)]
        found |= _leaves(inner[0]) if inner else {name}
    return found


def test_every_key_is_read_somewhere():
    code = "\n".join(
        path.read_text() for path in TRAINER.rglob("*.py") if path.name not in ("sections.py", "config.py", "unused.py")
    )
    accessors = {"gradient_checkpointing": "again", "epsilon": "epsilon", "split": "held_out", "warmup": "warmup_steps"}
    leaves = _leaves(Recipe)
    assert {"rank", "keep_best", "peak_tflops"} <= leaves
    assert [name for name in leaves if not re.search(rf"\.{accessors.get(name, name)}\b", code)] == []
