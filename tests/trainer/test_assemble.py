"""Any tower joins any language model; what is written loads without a missing or surplus weight."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from schemas.errors import InputError
from tests.trainer.conftest import RULE, save_llm
from trainer.assemble import assemble
from trainer.export import export
from trainer.folder import ModelFolder
from trainer.shards import INDEX, ShardWriter, read_tensors


@pytest.fixture(scope="module")
def towers(tmp_path_factory, tiny):
    """CLIP, a two-sided CLIP, SigLIP and DINOv2, each with its rule."""
    from transformers import (
        CLIPConfig,
        CLIPModel,
        Dinov2Config,
        Dinov2Model,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    root = tmp_path_factory.mktemp("towers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    seen = {"image_size": 16, "patch_size": 8}
    SiglipVisionModel(SiglipVisionConfig(**sizes, **seen)).save_pretrained(root / "siglip")
    dinov2 = {name: value for name, value in sizes.items() if name != "intermediate_size"}
    Dinov2Model(Dinov2Config(**dinov2, **seen, mlp_ratio=2)).save_pretrained(root / "dinov2")
    both = CLIPConfig(text_config={**sizes, "vocab_size": 50}, vision_config={**sizes, **seen}, projection_dim=8)
    CLIPModel(both).save_pretrained(root / "two_sided")
    bare = replace(RULE, class_token=0)
    return {
        "clip": (tiny / "tower", RULE),
        "two_sided": (root / "two_sided", RULE),
        "siglip": (root / "siglip", bare),
        "dinov2": (root / "dinov2", RULE),
    }


@pytest.fixture(scope="module")
def llms(tmp_path_factory, tiny, reader):
    root = tmp_path_factory.mktemp("llms")
    size = reader.vocab_size
    return {
        "llama": tiny / "llm",
        "mistral": save_llm(root / "mistral", tiny / "tokenizer", size, "mistral"),
        "qwen2 (tied)": save_llm(root / "qwen2", tiny / "tokenizer", size, "qwen2", tie_word_embeddings=True),
    }


@pytest.mark.parametrize(
    ("tower", "llm"),
    [("clip", "llama"), ("two_sided", "mistral"), ("siglip", "qwen2 (tied)"), ("dinov2", "llama")],
)
def test_joined_models_load_whole_and_run(towers, llms, tower, llm, tmp_path):
    from transformers import LlavaForConditionalGeneration

    path, rule = towers[tower]
    assemble(path, llms[llm], tmp_path, rule=rule, template="mistral")
    model, told = LlavaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    folder = ModelFolder.open(tmp_path)
    assert folder.image_id == folder.tokenizer.token_id("<image>")
    tokens = folder.rule.tokens(16, 16)
    ids = torch.tensor([[folder.image_id] * tokens + [5, 6]])
    logits = model(input_ids=ids, pixel_values=torch.zeros(1, 3, 16, 16)).logits
    assert torch.isfinite(logits).all()


def test_new_embedding_rows_are_the_mean_of_the_old_ones(tiny):
    old = load_file(tiny / "llm" / "model.safetensors")["model.embed_tokens.weight"]
    new = load_file(tiny / "model" / "model.safetensors")["language_model.model.embed_tokens.weight"]
    assert len(new) == len(old) + 1
    assert torch.equal(new[:-1], old)
    assert torch.allclose(new[-1], old.mean(0), atol=1e-7)


def test_a_linear_projector_is_linear_and_its_second_layer_stays(towers, llms, tmp_path):
    from transformers import LlavaForConditionalGeneration

    from trainer.stages import Stage, freeze

    assemble(*[towers["clip"][0], llms["llama"], tmp_path], rule=RULE, projector_type="linear")
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    projector = model.model.multi_modal_projector
    seen = torch.randn(3, 16)
    expected = seen @ projector.linear_1.weight.T + projector.linear_1.bias
    assert torch.allclose(projector(seen), expected, atol=1e-6)
    freeze(model, Stage(("projector",)))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {f"model.multi_modal_projector.linear_1.{kind}" for kind in ("weight", "bias")}


def test_a_rule_that_is_not_the_towers_is_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="16 pixels"):
        assemble(tiny / "tower", tiny / "llm", tmp_path, rule=replace(RULE, image_size=32))


def test_an_exported_model_has_the_names_and_weights_it_was_loaded_with(tiny, tmp_path):
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    origin = ModelFolder.open(tiny / "model")
    model = LlavaForConditionalGeneration.from_pretrained(origin.path)
    export(model.state_dict(), model.config, origin, tmp_path / "out", {"steps": 1})
    before, after = load_file(origin.path / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    prompt = AutoProcessor.from_pretrained(tmp_path / "out").apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hi"}]}], add_generation_prompt=True
    )
    assert prompt.startswith("[INST] <image>\nhi")


def test_shards_are_cut_at_their_size_and_indexed(tmp_path):
    with ShardWriter(tmp_path, shard_bytes=40) as writer:
        for number in range(3):
            writer.put(f"t{number}", torch.full((8,), float(number)))
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == 96
    assert index["weight_map"]["t2"] == "model-00003-of-00003.safetensors"
    assert {name: tensor[0].item() for name, tensor in read_tensors(tmp_path)} == {"t0": 0.0, "t1": 1.0, "t2": 2.0}
