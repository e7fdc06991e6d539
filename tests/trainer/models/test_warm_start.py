"""Starting from checkpoints that transformers wrote, or that are on the hub, without any file of ours."""

import json

from safetensors.torch import load_file

from trainer import launch
from trainer.models.folder import ModelFolder

# config.json of llava-hf/llava-1.5-7b-hf, which leaves out what are its classes' defaults.
PUBLISHED = {
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "projector_hidden_act": "gelu",
    "text_config": {"max_position_embeddings": 4096, "model_type": "llama", "vocab_size": 32064},
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}


def test_a_checkpoint_that_transformers_saved_trains_and_is_exported(recipe_file, forked, tiny, tmp_path):
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    LlavaForConditionalGeneration.from_pretrained(tiny / "model").save_pretrained(tmp_path / "hub")
    AutoProcessor.from_pretrained(tiny / "model").save_pretrained(tmp_path / "hub")
    assert not (tmp_path / "hub" / "lavabeam.json").exists()
    path = recipe_file(model__checkpoint=str(tmp_path / "hub"), steps=1)
    assert launch.train(path, processes=1)["steps"] == 1
    before, after = (load_file(f / "model.safetensors") for f in (tiny / "model", tmp_path / "run" / "model"))
    assert before.keys() == after.keys()
    assert ModelFolder.open(tmp_path / "run" / "model").template == "mistral"


def test_a_published_configuration_says_all_that_a_mix_is_compared_with(tiny, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    (tmp_path / "tokenizer.json").write_text((tiny / "model" / "tokenizer.json").read_text())
    (tmp_path / "model.safetensors").touch()
    folder = ModelFolder.open(tmp_path)
    assert (folder.image_id, folder.positions, folder.model_class) == (32000, 4096, "LlavaForConditionalGeneration")
    assert [folder.rule.tokens(640, 480), folder.rule.mode, folder.rule.class_token] == [576, "square", 1]
    assert folder.template is None


def test_pinpoints_are_turned_on_the_way_in(tiny, tmp_path):
    published = {
        **PUBLISHED,
        "model_type": "llava_next",
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [336, 1344]],
    }
    (tmp_path / "config.json").write_text(json.dumps(published))
    (tmp_path / "model.safetensors").touch()
    folder = ModelFolder.open(tmp_path)
    assert folder.rule.mode == "anyres"
    assert folder.rule.pinpoints == ((672, 336), (336, 672), (672, 672), (1344, 336))
