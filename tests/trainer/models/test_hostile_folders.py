"""Checkpoints from elsewhere: no code runs, nothing is unpickled, nothing is allocated that the weights do not hold."""

import json
import shutil
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas.errors import InputError
from trainer.inference.answer import Answerer
from trainer.inference.prompts import question
from trainer.models.adapterfolder import check_adapter
from trainer.models.assemble import configuration
from trainer.models.folder import ModelFolder
from trainer.models.original import read_projector
from trainer.models.partcheck import check_llm


class Evil:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def model(tiny, tmp_path):
    return shutil.copytree(tiny / "model", tmp_path / "model")


def configured(model, change):
    config = json.loads((model / "config.json").read_text())
    change(config)
    (model / "config.json").write_text(json.dumps(config))


def header(model, change):
    """The same weights with another header."""
    file = model / "model.safetensors"
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    described = json.loads(content[8 : 8 + length])
    change(described)
    text = json.dumps(described).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def without_weights(model):
    (model / "model.safetensors").unlink()
    torch.save({"a": Evil(model.parent / "RAN")}, model / "pytorch_model.bin")


def text(**values):
    return lambda model: configured(model, lambda config: config["text_config"].update(values))


HOSTILE = {
    "pytorch_model.bin only": without_weights,
    "text_config.auto_map names code": text(auto_map={"AutoModel": "evil.M"}),
    "_attn_implementation is 'evil/kernel'": text(_attn_implementation="evil/kernel"),
    "Unrecognized model type": text(model_type="evil_type"),
    "describes a model of [0-9]+ parameters, the weights hold": text(hidden_size=10**6, intermediate_size=10**6),
    "num_hidden_layers is 1000000000, but the weights": text(num_hidden_layers=10**9),
    "hidden_size is 1000000000000": text(hidden_size=10**30),
    "its configuration is not that of a LLaVA": lambda model: configured(model, lambda one: one.pop("text_config")),
    "text_config is nan": lambda model: configured(model, lambda one: one.update(text_config=float("nan"))),
    "of shape .* takes 4611686018427387904 bytes": lambda model: header(
        model, lambda one: one["language_model.lm_head.weight"].update(shape=[2**40, 2**20])
    ),
    r"the name 'a.x1b\[2J' is not plain text": lambda model: header(
        model, lambda one: one.update({"a\x1b[2J": one.pop("language_model.lm_head.weight")})
    ),
    "takes vision_feature_layer -100 of a tower with": lambda model: configured(
        model, lambda one: one.update(vision_feature_layer=-100)
    ),
    "config.json has image token -1, and the tokenizer's <image> is": lambda model: configured(
        model, lambda one: one.update(image_token_index=-1, image_token_id=-1)
    ),
    "header announces": lambda model: (model / "model.safetensors").write_bytes(
        (model / "model.safetensors").read_bytes()[:-100]
    ),
}


@pytest.mark.parametrize("words", HOSTILE)
def test_a_hostile_checkpoint_is_one_clear_error(model, words):
    HOSTILE[words](model)
    (model / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(InputError, match=f"{model}.*{words}"):
        Answerer(model, "mistral")
    assert not (model.parent / "RAN").exists()


def test_weights_of_other_sizes_are_refused_though_their_number_fits(model):
    tensors = load_file(model / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensors[name] = tensors[name].reshape(-1, 12).contiguous()
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"{model}: transformers cannot load it"):
        Answerer(model, "mistral")


def test_parts_of_a_new_model_are_checked_alike(tiny, tmp_path):
    llm = shutil.copytree(tiny / "llm", tmp_path / "llm")
    configured(llm, lambda config: config.update(auto_map={"AutoConfig": "evil.C"}))
    with pytest.raises(InputError, match="auto_map names code"):
        check_llm(str(llm))
    configured(llm, lambda config: (config.pop("auto_map"), config.update(model_type="evil")))
    with pytest.raises(InputError, match="transformers cannot read its config"):
        configuration(llm)


def test_a_folder_names_its_dtype_and_sizes_as_numbers(model):
    configured(model, lambda config: config["text_config"].update(max_position_embeddings="many"))
    with pytest.raises(InputError, match="its configuration is not that of a LLaVA"):
        ModelFolder.open(model)


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    weights = {"x.lora_A.weight": torch.zeros(2, 8), "x.lora_B.weight": torch.zeros(8, 2)}
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "bias": "none"}))
    return folder


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"r": 10**9}, "the rank r is 1000000000, the weights have"),
        ({"peft_type": "VERA"}, "peft_type is 'VERA', expected 'LORA'"),
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "megatron_config is"),
        ({"auto_mapping": {"parent_library": "evil"}}, "auto_mapping is"),
        ({"rank_pattern": {"q_proj": 10**9}}, "rank_pattern is"),
    ],
)
def test_an_adapter_that_is_not_ours_is_refused(adapter, values, words):
    check_adapter(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **values}))
    with pytest.raises(InputError, match=f"adapter_config.json: .*{words}"):
        check_adapter(adapter)


def test_an_adapter_as_a_pickle_is_refused(adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(InputError, match=r"no adapter_model\.safetensors.*pickle"):
        check_adapter(adapter)


def test_a_projector_that_would_run_code_or_fill_memory_is_refused(tmp_path):
    file = tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.0.weight": Evil(tmp_path / "RAN")}, file)
    with pytest.raises(InputError, match="cannot be read as weights"):
        list(read_projector(file, {}))
    torch.save({"model.mm_projector.0.weight": torch.zeros(2)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"not a file that torch\.save"):
        list(read_projector(file, {}))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data/0", bytes(1 << 20))
    with pytest.raises(InputError, match="bytes that announce 1048576"):
        list(read_projector(file, {}))
    assert not (tmp_path / "RAN").exists()


def test_a_checkpoint_does_not_say_how_answers_are_generated(model):
    before = Answerer(model, "mistral").answer([question("What is it?")], max_tokens=4)
    settings = {"num_beams": 3, "suppress_tokens": list(range(4, 250)), "repetition_penalty": 9.0, "do_sample": True}
    (model / "generation_config.json").write_text(json.dumps(settings))
    hostile = Answerer(model, "mistral")
    assert hostile.answer([question("What is it?")], max_tokens=4) == before
    assert hostile.loaded.model.generation_config.num_beams in (None, 1)
