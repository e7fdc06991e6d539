"""Every mismatch is reported before a process is started."""

import json
import shutil

import pytest

from schemas.chat import ImageRule
from schemas.errors import InputError
from tests.trainer.conftest import RULE, sample_row, write_mix
from trainer.config import load_recipe
from trainer.models.folder import known_positions
from trainer.preflight import check


def refusal(path, processes=2):
    with pytest.raises(InputError) as caught:
        check(load_recipe(path), processes)
    return str(caught.value)


def test_a_fitting_job_passes(recipe_file):
    job = check(load_recipe(recipe_file()), 2)
    assert job.template == "mistral"
    assert job.rule.tokens(16, 16) == 4


def test_a_tokenizer_other_than_the_mixs(recipe_file, tiny, tmp_path):
    shutil.copytree(tiny / "model", tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = content["model"]["merges"][:-1]
    file.write_text(json.dumps(content))
    message = refusal(recipe_file(model__checkpoint=str(tmp_path / "other")))
    assert "tokenizer" in message
    assert "mix again" in message


def test_a_missing_image_token(recipe_file, tiny, tmp_path):
    shutil.copytree(tiny / "model", tmp_path / "other")
    shutil.copyfile(tiny / "tokenizer" / "tokenizer.json", tmp_path / "other" / "tokenizer.json")
    assert "<image>" in refusal(recipe_file(model__checkpoint=str(tmp_path / "other")))


def test_a_row_longer_than_the_model(recipe_file, tiny, reader, tmp_path):
    rows = [sample_row(0, reader, "mistral"), sample_row(1, reader, "mistral", tokens=129)]
    write_mix(tmp_path / "long", rows, reader)
    path = recipe_file(data__mix=str(tmp_path / "long"), plan__global_batch=2)
    message = refusal(path)
    assert "row-1" in message
    assert "129" in message
    assert "128" in message


def test_a_dataset_of_another_schema(recipe_file, tmp_path):
    import pyarrow as pa

    from schemas.records import CONVERSATIONS
    from schemas.writing import write_dataset

    table = pa.Table.from_pylist([{"key": "a", "status": "ok"}], schema=CONVERSATIONS)
    write_dataset(tmp_path / "talks", "conversations", [table])
    message = refusal(recipe_file(data__mix=str(tmp_path / "talks")))
    assert "conversations" in message
    assert "samples" in message


def test_a_mix_for_another_tower(recipe_file, reader, tmp_path):
    from dataclasses import replace

    rows = [sample_row(number, reader, "mistral") for number in range(8)]
    write_mix(tmp_path / "bigger", rows, reader, rule=replace(RULE, image_size=32))
    assert "image_size" in refusal(recipe_file(data__mix=str(tmp_path / "bigger")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__checkpoint": "nowhere"}, ["nowhere", "no such folder"]),
        ({"data__mix": "nowhere"}, ["nowhere"]),
        ({"stage": "fintune"}, ["fintune", "finetune"]),
        ({"train": ["projektor"]}, ["projektor", "projector"]),
        ({"plan__strategy": "balansed"}, ["balansed"]),
    ],
)
def test_names_that_do_not_exist(recipe_file, changes, words):
    message = refusal(recipe_file(**changes))
    for word in words:
        assert word in message


def test_a_folder_that_is_no_llava_checkpoint(recipe_file, tiny):
    message = refusal(recipe_file(model__checkpoint=str(tiny / "llm")))
    assert "model_type" in message
    assert "llama" in message


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def swap_weights(folder):
    """The config.json of a model that is wider."""
    content = json.loads((folder / "config.json").read_text())
    content["text_config"]["hidden_size"] *= 2
    (folder / "config.json").write_text(json.dumps(content))


def lose_shard(folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def spoil(folder):
    (folder / "model.safetensors").write_bytes(b"<html>not found</html>")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "its header announces"),
        (swap_weights, "another model's"),
        (lose_shard, "model-00002-of-00002.safetensors: this part of the weights is missing"),
        (spoil, "not a safetensors file"),
    ],
)
def test_weights_that_are_not_the_checkpoints(recipe_file, tiny, tmp_path, damage, words):
    shutil.copytree(tiny / "model", tmp_path / "other")
    damage(tmp_path / "other")
    assert words in refusal(recipe_file(model__checkpoint=str(tmp_path / "other")))


def test_a_template_whose_control_tokens_the_tokenizer_lacks(recipe_file, reader, tmp_path):
    rows = [sample_row(number, reader, "mistral") for number in range(8)]
    write_mix(tmp_path / "llama3", rows, reader, template="llama_3")
    message = refusal(recipe_file(data__mix=str(tmp_path / "llama3")))
    assert "<|start_header_id|>" in message
    assert "llama_3" in message


@pytest.mark.parametrize(
    ("tower", "llm", "words"),
    [
        ("llm", "llm", "'llama' model is not a vision tower"),
        ("model", "llm", "'llava' model is not a vision tower"),
        ("tower", "model", "'llava' model is not a language model"),
        ("nowhere", "llm", "no config.json"),
    ],
)
def test_parts_that_are_something_else(recipe_file, tiny, tower, llm, words):
    model = {"tower": str(tiny / tower), "llm": str(tiny / llm)}
    assert words in refusal(recipe_file(model=model))


def test_a_row_longer_than_the_model_whatever_the_recipe_allows(recipe_file, tiny, reader, tmp_path):
    """Positions beyond those of the language model would be trained on silently."""
    write_mix(tmp_path / "long", [sample_row(n, reader, "mistral", tokens=129) for n in range(2)], reader)
    changes = {"data__mix": str(tmp_path / "long"), "plan__global_batch": 2, "data__max_length": 4096}
    assert "limit of 128 tokens" in refusal(recipe_file(**changes))
    parts = {"tower": str(tiny / "tower"), "llm": str(tiny / "llm")}
    assert "limit of 128 tokens" in refusal(recipe_file(model=parts, **changes))


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        (None, 4096),
        ({"rope_type": "default"}, 4096),
        ({"type": "linear", "factor": 4.0}, 16384),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 1024}, 4096),
    ],
)
def test_positions_of_a_language_model(rope, positions):
    assert known_positions({"max_position_embeddings": 4096, "rope_scaling": rope}) == positions


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"merge": "flat"}, "image merge 'flat'"),
        ({"unpad_digits": None}, "image unpad_digits None"),
        ({"select": "full"}, "image select 'full'; tiles have no class token: set it to 'patch'"),
    ],
)
def test_tiles_joined_in_a_way_that_the_model_does_not_know(recipe_file, reader, tiny, tmp_path, changes, words):
    rule = ImageRule("anyres", 16, 8, pinpoints=((16, 32), (32, 16)), **changes)
    write_mix(tmp_path / "tiles", [sample_row(number, reader, "mistral") for number in range(8)], reader, rule=rule)
    model = {"tower": str(tiny / "tower"), "llm": str(tiny / "llm"), "select_feature": rule.select}
    assert words in refusal(recipe_file(model=model, data__mix=str(tmp_path / "tiles")))


def test_a_mix_for_another_family_than_the_checkpoints(recipe_file, reader, tmp_path):
    """Before any weight is read, with both ways out."""
    rule = ImageRule("anyres", 16, 8, pinpoints=((16, 32), (32, 16)), max_tiles=9)
    write_mix(tmp_path / "tiles", [sample_row(number, reader, "mistral") for number in range(8)], reader, rule=rule)
    message = refusal(recipe_file(data__mix=str(tmp_path / "tiles")))
    assert "made with image mode 'anyres'; a llava model has square or pad" in message
    assert "Make the mix with `mode: pad` or `mode: square`, or train a llava_onevision checkpoint." in message


def test_a_tokenizer_with_more_tokens_than_the_embeddings_have_rows(recipe_file, tiny, reader, tmp_path):
    shutil.copytree(tiny / "model", tmp_path / "other")
    content = json.loads((tmp_path / "other" / "config.json").read_text())
    content["text_config"]["vocab_size"] -= 1
    (tmp_path / "other" / "config.json").write_text(json.dumps(content))
    message = refusal(recipe_file(model__checkpoint=str(tmp_path / "other")))
    assert f"tokenizer has {reader.vocab_size + 1} tokens" in message
    assert f"only {reader.vocab_size} rows" in message


def test_a_projector_that_is_not_there(recipe_file, tiny):
    parts = {"tower": str(tiny / "tower"), "llm": str(tiny / "llm"), "projector": "nowhere.bin"}
    assert "nowhere.bin: no such file" in refusal(recipe_file(model=parts))


def test_what_is_possible_and_perhaps_not_meant_is_a_note(recipe_file, tiny, tmp_path):
    """Another template than the checkpoint's, unless one of them is stage 1's; another way of making pictures fit."""

    def notes(**sidecar):
        folder = tmp_path / "-".join(sidecar)
        shutil.copytree(tiny / "model", folder)
        path = folder / "lavabeam.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **sidecar}))
        return check(load_recipe(recipe_file(model__checkpoint=str(folder))), 2).notes

    assert notes(template="mistral") == ()
    (note,) = notes(template="v1", image={**RULE.to_dict(), "mode": "pad"})[:1]
    assert note == "the checkpoint was trained with template v1, the mix is made for mistral"
    assert notes(image={**RULE.to_dict(), "mode": "pad"}) == (
        "the checkpoint was trained with image mode pad, the mix is made for square",
    )
    shutil.rmtree(tmp_path / "template")
    assert notes(template="plain") == ()
