"""Any tower joins any language model; what is written loads without a missing or surplus weight."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas.errors import InputError
from tests.trainer.conftest import RULE, picture, save_llm
from trainer.inputs.collate import stack_pictures
from trainer.inputs.pictures import prepare
from trainer.models.assemble import assemble
from trainer.models.export import export
from trainer.models.folder import ModelFolder
from trainer.models.kernels import Machine, attention
from trainer.models.shards import INDEX, ShardWriter, read_tensors, save_tensors
from trainer.stages import STAGES, freeze


@pytest.fixture(scope="module")
def towers(tmp_path_factory, tiny):
    """CLIP, a two-sided CLIP, SigLIP and DINOv2 without and with registers, each with its rule."""
    from transformers import (
        CLIPConfig,
        CLIPModel,
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
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
    Dinov2Model(Dinov2Config(**dinov2, **seen, mlp_ratio=2, use_swiglu_ffn=True)).save_pretrained(root / "giant")
    registers = Dinov2WithRegistersConfig(**dinov2, **seen, mlp_ratio=2, num_register_tokens=3)
    Dinov2WithRegistersModel(registers).save_pretrained(root / "registers")
    bare = replace(RULE, class_token=0)
    return {
        "clip": (tiny / "tower", RULE),
        "two_sided": (root / "two_sided", RULE),
        "siglip": (root / "siglip", bare),
        "dinov2": (root / "dinov2", RULE),
        "dinov2 giant": (root / "giant", RULE),
        "registers": (root / "registers", replace(RULE, class_token=4, select="full")),
    }


@pytest.fixture(scope="module")
def llms(tmp_path_factory, tiny, reader):
    root = tmp_path_factory.mktemp("llms")
    size = reader.vocab_size
    return {
        "llama": tiny / "llm",
        "mistral": save_llm(root / "mistral", tiny / "tokenizer", size, "mistral"),
        "qwen2 (tied)": save_llm(root / "qwen2", tiny / "tokenizer", size, "qwen2", tie_word_embeddings=True),
        "qwen3": save_llm(root / "qwen3", tiny / "tokenizer", size, "qwen3", head_dim=12),
        "gemma2": save_llm(root / "gemma2", tiny / "tokenizer", size, "gemma2", head_dim=12),
        "phi3": save_llm(root / "phi3", tiny / "tokenizer", size, "phi3"),
    }


@pytest.mark.parametrize(
    ("tower", "llm", "mode"),
    [
        ("clip", "llama", "square"),
        ("two_sided", "mistral", "anyres"),
        ("siglip", "qwen2 (tied)", "square"),
        ("siglip", "qwen3", "anyres"),
        ("dinov2", "gemma2", "anyres"),
        ("registers", "phi3", "square"),
        ("dinov2 giant", "llama", "square"),
    ],
)
def test_joined_models_load_whole_train_and_come_back_from_an_export(towers, llms, tower, llm, mode, tmp_path):
    import transformers

    path, rule = towers[tower]
    rule = replace(rule, mode=mode, pinpoints=((32, 16), (16, 32)) if mode == "anyres" else ())
    folder = ModelFolder.open(assemble(path, llms[llm], tmp_path / "parts", rule=rule, template="mistral"))
    kind = getattr(transformers, folder.model_class)
    kernel, _ = attention("auto", "auto", Machine(None, "fp32"), folder.text)
    model, loading = kind.from_pretrained(folder.path, output_loading_info=True, attn_implementation=kernel)
    assert not any(loading[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert folder.image_id == folder.tokenizer.token_id("<image>")
    seen = prepare(picture(1), rule, folder.mean, folder.std)
    ids = torch.tensor([[folder.image_id] * rule.tokens(*seen.size) + [5, 6, 7]])
    inputs = {"input_ids": ids, **stack_pictures([seen.pixels], [seen.size], [1], rule)}
    freeze(model, STAGES["finetune_tower"])
    model(**inputs, labels=torch.where(ids == folder.image_id, -100, ids)).loss.backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # A key's bias shifts all scores of a softmax alike.
    assert all(name.endswith("k_proj.bias") for name in idle), idle
    out = export(model.state_dict(), model.config, folder, tmp_path / "out", {})
    before, after = load_file(folder.path / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    again = kind.from_pretrained(out)
    with torch.no_grad():
        assert torch.equal(again.eval()(**inputs).logits, model.eval()(**inputs).logits)


def test_adapters_reach_every_matrix_of_the_decoder(llms, towers, tmp_path):
    """Phi-3 has one matrix for queries, keys and values, and one for gate and up."""
    from trainer.models.adapter import add_lora
    from trainer.sections import LoraConfig

    assemble(towers["clip"][0], llms["phi3"], tmp_path, rule=RULE)
    from transformers import LlavaForConditionalGeneration

    model = add_lora(LlavaForConditionalGeneration.from_pretrained(tmp_path), LoraConfig(rank=2, alpha=2))
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lora" not in n}
    reached = {name.removesuffix(".base_layer") for name in linear if name.endswith(".base_layer")}
    assert len(reached) == 2 * 4
    assert not {n for n in linear if "language_model" in n and not n.endswith(".base_layer")}


def test_new_embedding_rows_are_the_mean_of_the_old_ones(tiny):
    old = load_file(tiny / "llm" / "model.safetensors")["model.embed_tokens.weight"]
    new = load_file(tiny / "model" / "model.safetensors")["language_model.model.embed_tokens.weight"]
    assert len(new) == len(old) + 1
    assert torch.equal(new[:-1], old)
    assert torch.allclose(new[-1], old.mean(0), atol=1e-7)


def test_a_linear_projector_is_linear_and_its_second_layer_stays(towers, llms, tmp_path):
    from transformers import LlavaForConditionalGeneration

    from trainer.stages import Stage

    assemble(*[towers["clip"][0], llms["llama"], tmp_path], rule=RULE, projector_type="linear")
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    projector = model.model.multi_modal_projector
    seen = torch.randn(3, 16)
    expected = seen @ projector.linear_1.weight.T + projector.linear_1.bias
    assert torch.allclose(projector(seen), expected, atol=1e-6)
    freeze(model, Stage(("projector",)))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {f"model.multi_modal_projector.linear_1.{kind}" for kind in ("weight", "bias")}


@pytest.mark.parametrize(
    ("tower", "changes", "words"),
    [
        ("clip", {"image_size": 32}, "takes 16 pixels"),
        ("siglip", {"class_token": 1}, "0 tokens beside its patches.*class_token: 0"),
        ("registers", {"select": "patch"}, "drops only one"),
    ],
)
def test_a_rule_that_is_not_the_towers_is_refused(towers, tiny, tower, changes, words, tmp_path):
    path, rule = towers[tower]
    with pytest.raises(InputError, match=words):
        assemble(path, tiny / "llm", tmp_path, rule=replace(rule, **changes))


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


def test_weights_may_be_read_with_the_permissions_of_other_files(tmp_path):
    """safetensors makes files for their owner alone: a server under another account could not load the model."""
    (tmp_path / "other").touch()
    save_tensors({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_joined_weights_have_the_language_models_precision(tiny, tmp_path):
    """A tower in half precision must not cost the language model its own."""
    from transformers import CLIPVisionModel

    CLIPVisionModel.from_pretrained(tiny / "tower", dtype=torch.float16).save_pretrained(tmp_path / "half")
    assemble(tmp_path / "half", tiny / "llm", tmp_path / "model", rule=RULE)
    old = load_file(tiny / "llm" / "model.safetensors")["model.norm.weight"]
    new = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in new.values()} == {torch.float32}
    assert torch.equal(new["language_model.model.norm.weight"], old)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "float32"


def changed_llm(tiny, folder, tensors=None, **config):
    shutil.copytree(tiny / "llm", folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_embeddings_of_a_vocabulary_are_not_made_up(tiny, reader, tmp_path):
    weights = load_file(tiny / "llm" / "model.safetensors")
    rows = reader.own_size - 5
    short = {name: tensor[:rows].clone() if tensor.shape[0] > rows else tensor for name, tensor in weights.items()}
    llm = changed_llm(tiny, tmp_path / "llm", short, vocab_size=rows)
    with pytest.raises(InputError, match="5 would be made up"):
        assemble(tiny / "tower", llm, tmp_path / "model", rule=RULE)


def test_a_tied_model_with_another_output_table_is_refused(tiny, tmp_path):
    weights = load_file(tiny / "llm" / "model.safetensors")
    llm = changed_llm(tiny, tmp_path / "llm", tie_word_embeddings=True)
    with pytest.raises(InputError, match=r"lm_head\.weight differs from the embeddings"):
        assemble(tiny / "tower", llm, tmp_path / "model", rule=RULE)
    same = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    assemble(tiny / "tower", changed_llm(tiny, tmp_path / "tied", same, tie_word_embeddings=True), tmp_path, rule=RULE)


def test_a_dinov2_tower_reads_any_number_of_patches(towers, tiny, tmp_path):
    """Its positions are interpolated; a CLIP tower is refused."""
    from transformers import LlavaForConditionalGeneration

    larger = replace(RULE, image_size=32)
    folder = ModelFolder.open(assemble(towers["dinov2"][0], tiny / "llm", tmp_path / "model", rule=larger))
    model = LlavaForConditionalGeneration.from_pretrained(folder.path)
    features = model.get_image_features(pixel_values=torch.zeros(1, 3, 32, 32)).pooler_output
    assert [len(one) for one in features] == [16]
    with pytest.raises(InputError, match="takes 16 pixels in patches of 8"):
        assemble(tiny / "tower", tiny / "llm", tmp_path / "clip", rule=larger)


@pytest.mark.parametrize(("tower", "mean"), [("siglip", 0.5), ("dinov2", 0.485), ("clip", 0.48145466)])
def test_towers_without_a_preprocessor_get_their_own_colours(towers, tiny, tmp_path, tower, mean):
    path, rule = towers[tower]
    shutil.copytree(path, tmp_path / "tower")
    (tmp_path / "tower" / "preprocessor_config.json").unlink(missing_ok=True)
    made = ModelFolder.open(assemble(tmp_path / "tower", tiny / "llm", tmp_path / "model", rule=rule))
    assert made.mean[0] == mean
