"""LLaVA-OneVision: what we count, cut, train and answer is what transformers' own processor and model make of it."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from schemas.chat import ImageRule, encode, get_template
from schemas.chat.images import image_tokens, parse_pinpoints
from schemas.errors import InputError
from tests.trainer.conftest import save_llm
from trainer.inference.answer import Answerer
from trainer.inference.prompts import question
from trainer.inputs.collate import Collator
from trainer.inputs.data import Item
from trainer.inputs.pictures import prepare
from trainer.models.assemble import assemble
from trainer.models.export import export
from trainer.models.folder import ModelFolder
from trainer.models.importing import import_checkpoint

PINPOINTS = parse_pinpoints("(1x1),...,(3x3)", 16)
RULE = ImageRule("anyres", 16, 8, select="full", class_token=0, pinpoints=PINPOINTS, max_tiles=2)
ROWS = ([(23, 40)], [(90, 31)], [], [(16, 16), (40, 12), (12, 30)], [(47, 47)], [(9, 14)])
"""(width, height) of each row's pictures: of two rows the feature map is shrunk, and one has three pictures."""


@pytest.fixture(scope="module")
def folder(tiny, reader, tmp_path_factory):
    """An exported checkpoint of a SigLIP tower, read at its last layer as lmms-lab's are."""
    from transformers import LlavaOnevisionForConditionalGeneration, SiglipVisionConfig, SiglipVisionModel

    root = tmp_path_factory.mktemp("onevision")
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = SiglipVisionConfig(**sizes, image_size=16, patch_size=8, vision_use_head=False)
    SiglipVisionModel(tower).save_pretrained(root / "tower")
    llm = save_llm(root / "llm", tiny / "tokenizer", reader.vocab_size, "qwen2", max_position_embeddings=512)
    origin = ModelFolder.open(
        assemble(root / "tower", llm, root / "parts", rule=RULE, template="mistral", select_layer=-1)
    )
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(origin.path)
    out = export(model.state_dict(), model.config, origin, root / "out", {"steps": 1})
    before, after = load_file(origin.path / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert "image_newline" in after
    return ModelFolder.open(out)


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForImageTextToText

    made = AutoModelForImageTextToText.from_pretrained(folder.path).eval()
    assert type(made).__name__ == "LlavaOnevisionForConditionalGeneration"
    return made


@pytest.fixture(scope="module")
def processor(folder):
    """transformers' own, from the folder's files; its video part needs torchvision, which is not installed here."""
    from transformers import AutoTokenizer, LlavaOnevisionImageProcessorPil, LlavaOnevisionProcessor

    class Processor(LlavaOnevisionProcessor):
        def check_argument_for_proper_class(self, argument_name, argument):
            return type(argument)

    given = json.loads((folder.path / "processor_config.json").read_text())
    pictures = LlavaOnevisionImageProcessorPil.from_pretrained(folder.path)
    names = ("num_image_tokens", "vision_feature_select_strategy", "vision_aspect_ratio")
    tokenizer = AutoTokenizer.from_pretrained(folder.path)
    chat = (folder.path / "chat_template.jinja").read_text()
    return Processor(pictures, tokenizer, None, chat_template=chat, **{name: given[name] for name in names})


def picture(size):
    width, height = size
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def messages(sizes, answer="red"):
    shown = [{"type": "image", "text": None}] * len(sizes)
    return [
        {"role": "user", "content": [*shown, {"type": "text", "text": "what color is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


def item(sizes, folder, fast=False):
    encoded = encode(messages(sizes), sizes, get_template("mistral"), folder.tokenizer, folder.rule)
    seen = [
        prepare(picture(size), folder.rule, folder.mean, folder.std, fast=fast, pictures=len(sizes)) for size in sizes
    ]
    return Item(str(sizes), encoded.ids, encoded.labels, [one.pixels for one in seen], [one.size for one in seen])


def theirs(processor, rows):
    """Inputs that transformers makes of rows with pictures, prompted through the folder's own chat template."""
    texts = [processor.apply_chat_template(messages(sizes), tokenize=False) for sizes in rows]
    shown = [[Image.open(io.BytesIO(picture(size))) for size in sizes] for sizes in rows]
    return processor(
        images=shown, text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
    )


@pytest.mark.parametrize("sizes", [row for row in ROWS if row], ids=str)
def test_one_row_gives_their_ids_pixels_and_logits(folder, model, processor, sizes):
    expected = theirs(processor, [sizes])
    row = item(sizes, folder)
    ours = Collator(folder.rule, folder.image_id, folder.tokenizer.pad_id)([row])
    assert ours["input_ids"].tolist() == expected["input_ids"].tolist()
    # Theirs pads every picture to the most tiles of any.
    tiles = [whole[: len(own)] for whole, own in zip(expected["pixel_values"], row.pictures, strict=True)]
    torch.testing.assert_close(ours["pixel_values"], torch.cat(tiles), atol=1e-5, rtol=0)
    assert ours["image_sizes"].tolist() == expected["image_sizes"].tolist()
    assert ours["batch_num_images"].tolist() == expected["batch_num_images"].tolist()
    kept = ("input_ids", "attention_mask", "pixel_values", "image_sizes", "batch_num_images")
    with torch.no_grad():
        found = model(**{name: ours[name] for name in kept}).logits
        torch.testing.assert_close(found, model(**expected).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_rows_in_a_batch_learn_what_they_learn_alone(folder, model, packed):
    items = [item(sizes, folder) for sizes in ROWS]
    batch = Collator(folder.rule, folder.image_id, folder.tokenizer.pad_id, packed=packed)
    alone = Collator(folder.rule, folder.image_id, folder.tokenizer.pad_id)
    one = torch.tensor(1.0)

    def loss(inputs):
        return model(**inputs, use_cache=False, num_items_in_batch=one).loss

    expected = sum(loss(alone([single])) for single in items)
    together = loss(batch(items))
    torch.testing.assert_close(together, expected, atol=1e-4, rtol=0)
    parameters = [parameter for name, parameter in model.named_parameters() if "k_proj.bias" not in name]
    for found, wanted in zip(
        torch.autograd.grad(together, parameters, allow_unused=True),
        torch.autograd.grad(expected, parameters, allow_unused=True),
        strict=True,
    ):
        assert (found is None) == (wanted is None)
        if found is not None:
            torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-3)


def test_an_answer_is_theirs(folder, model, processor):
    """Rows with one picture, with several and with none, asked in one batch."""
    asked = [question("what color is it?", tuple(picture(size) for size in sizes)) for sizes in ROWS]
    answers = Answerer(folder.path).answer(asked, max_tokens=6, batch=len(asked))
    for sizes, answer in zip(ROWS, answers, strict=True):
        text = processor.apply_chat_template(messages(sizes)[:1], add_generation_prompt=True, tokenize=False)
        shown = {"images": [[Image.open(io.BytesIO(picture(size))) for size in sizes]]} if sizes else {}
        inputs = processor(text=[text], **shown, return_tensors="pt", add_special_tokens=False)
        made = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert answer.text == folder.tokenizer.decode(made.tolist(), skip_special=True).strip()


FULL = ImageRule("anyres", 384, 14, "full", parse_pinpoints("(1x1),...,(6x6)", 384), max_tiles=9, class_token=0)
sides = st.integers(1, 4000)


@pytest.fixture(scope="module")
def published():
    """transformers' processor as lmms-lab's OneVision checkpoints have it, for counting alone."""
    from transformers import LlavaOnevisionImageProcessorPil, LlavaOnevisionProcessor

    made = object.__new__(LlavaOnevisionProcessor)
    made.image_processor = LlavaOnevisionImageProcessorPil()
    made.num_image_tokens, made.vision_aspect_ratio = 729, "anyres_max_9"
    return made


@settings(max_examples=300, deadline=None)
@given(width=sides, height=sides)
def test_a_picture_alone_takes_as_many_tokens_as_their_processor_counts(published, width, height):
    assert FULL.tokens(width, height) == published._get_number_of_features(height, width, 384, 384)


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.tuples(sides, sides), min_size=2, max_size=5))
def test_pictures_of_a_row_with_several_take_a_square_and_a_line_end(sizes):
    assert image_tokens(FULL, sizes) == [730] * len(sizes)
    assert [FULL.tiles(*size, len(sizes)) for size in sizes] == [1] * len(sizes)


def test_a_published_configuration_means_this_rule(folder, tmp_path):
    """What llava-hf's checkpoints say, without any file of ours: pinpoints are (height, width) there."""
    content = json.loads((folder.path / "config.json").read_text())
    for left_out in ("vision_feature_layer", "vision_feature_select_strategy"):
        del content[left_out]
    assert content["image_grid_pinpoints"] == [[height, width] for width, height in PINPOINTS]
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "model.safetensors").touch()
    assert ModelFolder.open(tmp_path).rule == RULE


def test_a_row_cut_to_one_of_its_pictures_is_refused_not_cut_into_tiles(folder, reader, tmp_path):
    from schemas.dataset import Dataset
    from tests.trainer.conftest import sample_row, write_mix
    from trainer.inputs.data import Refused, Samples

    sizes = [(16, 16), (40, 12)]
    encoded = encode(messages(sizes), sizes, get_template("mistral"), reader, RULE)
    assert encoded.image_tokens == 2 * 5
    counts = {"tokens": encoded.tokens, "image_tokens": encoded.image_tokens, "messages": messages(sizes)}
    images = [{"bytes": picture(size), "path": None} for size in sizes]
    row = sample_row(0, reader, "mistral", 2)
    row |= {**counts, "images": images, "widths": [16, 40], "heights": [16, 12]}
    write_mix(tmp_path / "mix", [row], reader, rule=RULE)
    start = int((encoded.ids == reader.image_id).nonzero()[0][0])
    used = folder.with_training(RULE, "mistral")
    mix = Dataset.open(tmp_path / "mix")
    (whole,) = Samples(mix, used, max_length=512, cut=True).items([0])
    assert [len(one) for one in whole.pictures] == [1, 1]
    (refused,) = Samples(mix, used, max_length=start + 7, cut=True).items([0])
    assert isinstance(refused, Refused)
    assert "one of 2 pictures stands alone" in refused.reason


@pytest.mark.parametrize("tower", [True, False], ids=["with its tower", "without"])
def test_an_original_checkpoint_becomes_the_same_model(folder, model, tiny, reader, tmp_path, tower):
    """As lmms-lab publishes them: the tower's folder has a layer and a head more than the code reads."""
    from transformers import AutoModelForImageTextToText, SiglipVisionConfig, SiglipVisionModel

    whole = SiglipVisionModel(SiglipVisionConfig(**{**folder.vision, "num_hidden_layers": 3, "vision_use_head": True}))
    whole.load_state_dict(model.model.vision_tower.state_dict(), strict=False)
    whole.save_pretrained(tmp_path / "tower")
    source = tmp_path / "original"
    source.mkdir()
    settings = {
        "mm_vision_tower": "google/siglip",
        "mm_projector_type": "mlp2x_gelu",
        "image_aspect_ratio": "anyres_max_2",
    }
    settings |= {
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "spatial_unpad",
    }
    config = {**folder.text, **settings, "model_type": "llava_qwen", "image_grid_pinpoints": "(1x1),...,(3x3)"}
    config["vocab_size"] = reader.vocab_size
    (source / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).write_bytes((tiny / "tokenizer" / name).read_bytes())
    names = (
        ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
        ("model.multi_modal_projector.linear_1", "model.mm_projector.0"),
        ("model.multi_modal_projector.linear_2", "model.mm_projector.2"),
        ("model.language_model.", "model."),
    )
    weights = {}
    for name, tensor in model.state_dict().items():
        old, new = next((pair for pair in names if name.startswith(pair[0])), ("", ""))
        if tower or "vision_tower" not in name:
            table = tensor.shape[0] == reader.vocab_size + 1
            weights[name.replace(old, new, 1)] = tensor[: reader.vocab_size].clone() if table else tensor
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    out = ModelFolder.open(import_checkpoint(source, tmp_path / "tower", tmp_path / "out", "mistral"))
    assert (out.family, out.rule) == (folder.family, replace(RULE, select="patch"))
    made = AutoModelForImageTextToText.from_pretrained(out.path).eval()
    for sizes in ROWS[1], ROWS[3]:
        batch = Collator(out.rule, out.image_id, out.tokenizer.pad_id)([item(sizes, out)])
        inputs = {name: tensor for name, tensor in batch.items() if "label" not in name and "logits" not in name}
        with torch.no_grad():
            torch.testing.assert_close(made(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=0)


def test_a_rule_without_max_tiles_is_llava_nexts(folder):
    from trainer.models.families import family_of

    assert family_of(RULE) is folder.family
    assert family_of(replace(RULE, max_tiles=None)).model_type == "llava_next"
    with pytest.raises(InputError, match="image merge 'flat'; a llava_onevision model has spatial_unpad"):
        family_of(replace(RULE, merge="flat"))
