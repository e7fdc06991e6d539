"""An exported folder, read by transformers in a process of its own: same ids, same pixels, same logits as ours."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from schemas.chat import ImageRule, encode, get_template, load_tokenizer
from tests.trainer.conftest import save_llm, save_tower
from trainer.inputs.collate import stack_pictures
from trainer.inputs.pictures import prepare
from trainer.models import shards
from trainer.models.assemble import assemble
from trainer.models.export import export
from trainer.models.folder import ModelFolder
from trainer.models.opening import from_folder

LLAMA = Path(__file__).parents[2] / "schemas" / "chat" / "vectors" / "tokenizers" / "llama2.json"
PINPOINTS = ((16, 32), (32, 16), (48, 16))
RULES = {
    "square": ImageRule(mode="square", image_size=16, patch_size=8),
    "pad": ImageRule(mode="pad", image_size=16, patch_size=8),
    "anyres": ImageRule(mode="anyres", image_size=16, patch_size=8, pinpoints=PINPOINTS),
}
MESSAGES = [
    {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Two dogs?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
    {"role": "user", "content": [{"type": "text", "text": " Two  dogs"}]},
]
READER = """
import json, sys
import numpy as np, torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

found = {}
for folder in sys.argv[2:]:
    processor = AutoProcessor.from_pretrained(folder)
    messages = json.load(open(folder + "/messages.json"))
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    picture = Image.open(folder + "/picture.png")
    inputs = processor(images=[picture], text=[text], add_special_tokens=False, return_tensors="pt")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(**inputs).logits
    name = folder.rpartition("/")[2]
    found[name + ".ids"] = inputs["input_ids"][0].numpy()
    found[name + ".pixels"] = inputs["pixel_values"].numpy()
    found[name + ".logits"] = logits[0].numpy()
    found[name + ".plain"] = np.array(AutoTokenizer.from_pretrained(folder)("Two dogs</s>Two").input_ids)
    found[name + ".classes"] = np.array([type(processor).__name__, type(model).__name__])
np.savez(sys.argv[1], **found)
"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A Llama with the tokenizer of LLaVA-1.3: a blank before every stretch of text, in a class that has its own."""
    root = tmp_path_factory.mktemp("llama")
    content = json.loads(LLAMA.read_text(encoding="utf-8"))
    content["pre_tokenizer"]["prepend_scheme"] = "always"
    pieces = sorted(content["model"]["vocab"].items(), key=lambda item: item[1])
    content["model"]["vocab"] = {piece: number for number, (piece, _) in enumerate(pieces)}
    (root / "tokenizer.json").write_text(json.dumps(content))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": False}
    (root / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **names}))
    save_tower(root / "tower")
    save_llm(root / "llm", root, len(pieces), max_position_embeddings=256)
    return root


def trained(llama, rule, folder):
    """A checkpoint as a run writes it: loaded, and exported."""
    import transformers

    origin = ModelFolder.open(assemble(llama / "tower", llama / "llm", folder / "parts", rule=rule, template="v1"))
    model = getattr(transformers, origin.model_class).from_pretrained(origin.path)
    return export(model.state_dict(), model.config, origin, folder / rule.mode, {"steps": 1})


def picture():
    pixels = np.random.default_rng(3).integers(0, 256, (23, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((80, 46), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def read(llama, tmp_path_factory):
    """The folders, and what transformers made of them in one fresh process."""
    root = tmp_path_factory.mktemp("exported")
    folders = {mode: trained(llama, rule, root) for mode, rule in RULES.items()}
    for folder in folders.values():
        (folder / "messages.json").write_text(json.dumps(MESSAGES))
        (folder / "picture.png").write_bytes(picture())
    command = [sys.executable, "-c", READER, str(root / "found.npz"), *map(str, folders.values())]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    return folders, np.load(root / "found.npz")


@pytest.mark.parametrize("mode", RULES)
def test_transformers_reads_the_same_ids_pixels_and_logits(read, mode):
    folders, found = read
    folder = ModelFolder.open(folders[mode])
    seen = prepare(picture(), folder.rule, folder.mean, folder.std, fast=False)
    ids = encode(MESSAGES, [seen.size], get_template("v1"), folder.tokenizer, folder.rule, generate=True).ids
    assert found[f"{mode}.ids"].tolist() == ids.tolist()
    inputs = stack_pictures([seen.pixels], [seen.size], [1], folder.rule)
    ours = inputs["pixel_values"].numpy()
    np.testing.assert_allclose(found[f"{mode}.pixels"].reshape(ours.shape), ours, atol=1e-5)
    import transformers

    model = getattr(transformers, folder.model_class).from_pretrained(folder.path).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids[None].astype(np.int64)), **inputs).logits[0].numpy()
    np.testing.assert_allclose(found[f"{mode}.logits"], logits, atol=1e-4)
    next_one = "Next" if mode == "anyres" else ""
    assert found[f"{mode}.classes"].tolist() == [
        f"Llava{next_one}Processor",
        f"Llava{next_one}ForConditionalGeneration",
    ]


def test_a_reloaded_tokenizer_keeps_the_rule_of_its_file(read, llama):
    folders, found = read
    expected = load_tokenizer(llama / "llm").encode_parsed("Two dogs</s>Two")
    assert found["square.plain"].tolist() == expected
    dogs = load_tokenizer(llama / "llm").token_id("▁Two")
    assert expected[-1] == dogs
    assert load_tokenizer(folders["square"]).hash == load_tokenizer(llama / "llm").hash


def test_the_files_are_those_that_transformers_4_reads_too(read):
    folders, _ = read

    def file(mode, name):
        return json.loads((folders[mode] / name).read_text())

    assert file("square", "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert file("square", "preprocessor_config.json")["image_processor_type"] == "CLIPImageProcessor"
    assert file("pad", "preprocessor_config.json")["do_pad"]
    turned = [[32, 16], [16, 32], [16, 48]]
    assert file("anyres", "preprocessor_config.json")["image_grid_pinpoints"] == turned
    assert file("anyres", "config.json")["image_grid_pinpoints"] == turned
    assert file("anyres", "config.json")["architectures"] == ["LlavaNextForConditionalGeneration"]
    assert file("square", "generation_config.json")["eos_token_id"] == [2]
    assert "{% generation %}" in (folders["square"] / "chat_template.jinja").read_text()  # TRL looks for this text


def test_files_without_learnt_weights_are_shared(llama, tmp_path, monkeypatch):
    """A pretrained projector takes the disk of a projector: the other files are the run's own base."""
    monkeypatch.setattr(shards, "WORTH_SHARING", 0)
    base = ModelFolder.open(assemble(llama / "tower", llama / "llm", tmp_path / "base", rule=RULES["pad"]))
    model = from_folder(base, dtype=torch.float32)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learnt = [name for name in weights if "multi_modal_projector" in name]
    for name in learnt:
        weights[name] += 1
    made = export(weights, model.config, base, tmp_path / "model", {}, learnt)
    assert sorted(path.stat().st_nlink for path in made.glob("*.safetensors")) == [1, 2, 2]
    before, after = dict(shards.read_tensors(base.path)), dict(shards.read_tensors(made))
    assert before.keys() == after.keys()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {name.removeprefix("model.") for name in learnt}
    index = json.loads((made / shards.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in after.values())
    again = from_folder(ModelFolder.open(made), dtype=torch.float32).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
