"""Counted from a configuration: exactly what the model has."""

import json
from math import prod

import pytest
import torch

from schemas.chat import ImageRule
from tests.trainer.conftest import save_llm
from tests.trainer.models.test_towers import SHAPE, SIZES, configured, rule_of, saved
from trainer.models.assemble import assemble
from trainer.models.folder import ModelFolder, completed
from trainer.models.opening import empty_shell
from trainer.models.sizes import DECODERS, adapter_count, language_count, model_count, tower_count
from trainer.models.towers import TOWERS

SMALL = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 90}
CHANGES = {
    "llama": ({}, {"attention_bias": True, "mlp_bias": True}, {"tie_word_embeddings": True}),
    "mistral": ({}, {"num_key_value_heads": 4}),
    "phi3": ({"pad_token_id": 0},),
    "qwen2": ({}, {"tie_word_embeddings": True}),
    "qwen3": ({"head_dim": 16}, {"attention_bias": True}),
    "gemma": ({"head_dim": 16},),
    "gemma2": ({"head_dim": 16},),
    "starcoder2": ({}, {"use_bias": False}),
}


def counted(model):
    return sum(parameter.numel() for parameter in model.parameters())


def decoder(kind, **changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, **{**SMALL, "num_key_value_heads": 2, **changes})
        )
    return model, model.config.to_dict()


@pytest.mark.parametrize(("kind", "changes"), [(kind, one) for kind, some in CHANGES.items() for one in some], ids=str)
def test_a_language_model_has_as_many_parameters_as_its_configuration_says(kind, changes):
    model, config = decoder(kind, **changes)
    found = language_count(config)
    assert found.total == counted(model)
    matrices = [m.weight for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "layers." in name]
    assert found.products == sum(one.numel() for one in matrices) + SMALL["hidden_size"] * SMALL["vocab_size"]


def test_every_decoder_of_the_table_is_tested():
    assert CHANGES.keys() == DECODERS.keys()


def test_adapters_have_two_small_matrices_for_each_large_one():
    from peft import LoraConfig, get_peft_model

    for kind in ("qwen2", "starcoder2"):
        model, config = decoder(kind)
        names = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|c_fc|c_proj)"
        tuned = get_peft_model(model, LoraConfig(r=5, target_modules=names))
        found = sum(prod(parameter.shape) for name, parameter in tuned.named_parameters() if "lora_" in name)
        assert adapter_count(config, 5) == found


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *((kind, {}) for kind in SIZES),
        ("clip_vision_model", {"hidden_size": 32, "patch_size": 4}),
        ("siglip_vision_model", {"vision_use_head": False}),
        ("dinov2", {"use_swiglu_ffn": True, "mlp_ratio": 4, "num_hidden_layers": 1}),
        ("dinov2", {"qkv_bias": False, "use_mask_token": False}),
    ],
    ids=str,
)
def test_a_tower_has_as_many_parameters_as_its_configuration_says(kind, changes):
    from transformers import AutoModel

    config = configured(kind, **changes)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    found = tower_count(TOWERS[kind], config.to_dict())
    assert found.total == counted(model)
    path = TOWERS[kind].layers
    matrices = [m.weight for m in model.get_submodule(path).modules() if isinstance(m, torch.nn.Linear)]
    assert found.products == sum(one.numel() for one in matrices)


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_whole_model_is_the_sum_of_its_parts(kind, tied, tiny, reader, tmp_path):
    llm = save_llm(tmp_path / "llm", tiny / "tokenizer", reader.vocab_size, "qwen2", tie_word_embeddings=tied)
    tower = saved(kind, tmp_path / "tower")
    rules = [rule_of(kind)]
    if rules[0].select == "patch":
        rules += [
            ImageRule("anyres", 16, 8, class_token=rules[0].class_token, pinpoints=((16, 32),), max_tiles=most)
            for most in (None, 9)
        ]
    for number, rule in enumerate(rules):
        folder = ModelFolder.open(assemble(tower, llm, tmp_path / f"model-{number}", rule=rule))
        assert model_count(folder).total == counted(empty_shell(folder))


def test_a_linear_projectors_identity_costs_no_operations(tiny, tmp_path):
    rule = rule_of("clip_vision_model")
    both = [
        ModelFolder.open(assemble(tiny / "tower", tiny / "llm", tmp_path / kind, rule=rule, projector_type=kind))
        for kind in ("linear", "mlp2x_gelu")
    ]
    linear, gelu = (model_count(folder) for folder in both)
    assert linear.total == gelu.total == counted(empty_shell(both[0]))
    assert gelu.products - linear.products == 24 * 24


def test_what_a_published_configuration_leaves_out_is_its_classs_default(tmp_path):
    """llava-hf's files leave out what equals a default, and Qwen2's are not Llama's."""
    text = {"model_type": "qwen2", "hidden_size": 3584, "num_attention_heads": 28, "num_hidden_layers": 28}
    vision = {**SHAPE, "model_type": "siglip_vision_model"}
    found = completed({"text_config": text, "vision_config": vision}, tmp_path)
    assert found["vision_config"] == vision
    assert found["text_config"]["max_position_embeddings"] == 32768
    assert found["text_config"]["intermediate_size"] == 22016
    assert found["text_config"]["num_key_value_heads"] == 32
    llama = completed({"text_config": {"num_attention_heads": 16}, "vision_config": vision}, tmp_path)["text_config"]
    assert (llama["num_key_value_heads"], llama["hidden_size"], llama["vocab_size"]) == (16, 4096, 32000)
    json.dumps(found)
