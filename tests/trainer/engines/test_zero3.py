"""ZeRO-3's sizes from those of published models, and when the dry run says that ZeRO-2 would do."""

import pytest

from trainer.config import load_recipe
from trainer.dryrun import describe
from trainer.engines.deepspeed import deepspeed_config
from trainer.engines.zero3 import zero3_settings
from trainer.preflight import check

LLAMA_2_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 32000}
QWEN2_7B = {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4}


def test_the_sizes_of_llama_2_7b():
    """Its checkpoint has 6,738,415,616 elements: 32 layers of 202,383,360 with two norms, two tables and a norm."""
    layer = 202_383_360 - 2 * 4096
    assert zero3_settings(LLAMA_2_7B) == {
        "stage3_prefetch_bucket_size": layer,
        "stage3_max_live_parameters": 3 * layer + 2 * 32000 * 4096,
        "stage3_max_reuse_distance": layer,
        "stage3_param_persistence_threshold": 40960,
        "reduce_bucket_size": 4096 * 11008,
    }


@pytest.mark.parametrize(
    "text", [LLAMA_2_7B, QWEN2_7B, {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2}]
)
def test_one_layer_is_fetched_ahead_and_only_norms_stay(text):
    made = zero3_settings(text)
    width, inner = text["hidden_size"], text["intermediate_size"]
    assert made["stage3_prefetch_bucket_size"] > width * inner
    assert made["stage3_max_live_parameters"] >= 2 * made["stage3_prefetch_bucket_size"]
    heads = text.get("num_key_value_heads", text["num_attention_heads"])
    smallest = width * heads * (width // text["num_attention_heads"])
    assert width < made["stage3_param_persistence_threshold"] < smallest


def test_only_zero_3_gets_them(recipe_file):
    recipe = load_recipe(recipe_file())
    names = set(zero3_settings(LLAMA_2_7B))
    for zero in (2, 3):
        changed = recipe.model_copy(update={"deepspeed": recipe.deepspeed.model_copy(update={"zero": zero})})
        assert names.issubset(deepspeed_config(changed, "bf16", LLAMA_2_7B)["zero_optimization"]) == (zero == 3)


@pytest.mark.parametrize(
    ("changes", "ranks", "said"),
    [
        ({"zero": 3}, 2, True),
        ({"zero": 3}, 1, False),
        ({"zero": 2}, 2, False),
        ({"zero": 3, "offload": "all"}, 2, False),
    ],
)
def test_a_dry_run_says_that_zero_2_fits(recipe_file, changes, ranks, said):
    notes = describe(check(load_recipe(recipe_file(deepspeed=changes)), ranks), ranks).get("notes", [])
    assert any("deepspeed.zero=2 is faster" in note for note in notes) == said
