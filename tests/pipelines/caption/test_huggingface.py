"""Tiny models of three kinds, made offline: BLIP, an encoder with a decoder, and a chat model."""

import io

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from pipelines.caption.engine import Picture
from pipelines.caption.huggingface import Transformers, TransformersConfig
from schemas.errors import InputError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "<image>", "a", "cat", "dog", "red", "blue", "photo"]
SIZE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
transformers.logging.set_verbosity_error()


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)


def tokenizer(**options):
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[DEC]", "eos_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **marks, **options)


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny-blip"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    ids = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 40, **ids}
    vision = {"image_size": 16, "patch_size": 8, "projection_dim": 8}
    config = BlipConfig(text_config={**SIZE, **text}, vision_config={**SIZE, **vision}, projection_dim=8)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    processor = BlipImageProcessor(size={"height": 16, "width": 16})
    words = BertTokenizerFast(str(folder / "vocab.txt"), bos_token="[DEC]")
    transformers.BlipProcessor(processor, words).save_pretrained(folder)
    return folder


def picture(seed=0, data=None):
    if data is None:
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)).save(buffer, "PNG")
        data = buffer.getvalue()
    return Picture(str(seed), data)


def engine(folder, **config):
    made = Transformers(TransformersConfig(model=str(folder), max_new_tokens=6, device="cpu", **config))
    made.setup(None)
    return made


def test_blip_describes_and_bad_pictures_fail_alone(blip):
    made = engine(blip, batch_pictures=2)
    found = list(made.captions(iter([picture(0), picture(1, b"junk"), picture(2), picture(3)])))
    assert [caption.status for caption in found] == ["ok", "undecodable", "ok", "ok"]
    assert all(set(caption.text.split()) <= set(WORDS) for caption in found if caption.text)
    assert made.identity.engine == "transformers"
    assert made.identity.model == "tiny-blip"
    assert made.identity.version == made.source_version


def test_greedy_words_do_not_depend_on_the_batch(blip):
    pictures = [picture(seed) for seed in range(3)]
    alone = [caption.text for caption in engine(blip, batch_pictures=1).captions(iter(pictures))]
    together = [caption.text for caption in engine(blip, batch_pictures=3).captions(iter(pictures))]
    assert alone == together


def test_a_prompt_begins_every_blip_caption(blip):
    found = list(engine(blip, prompt="a photo").captions(iter([picture(0), picture(1)])))
    assert all(caption.text.startswith("a photo") for caption in found)


def test_nucleus_repeats_itself_and_leaves_the_random_state_alone(blip):
    made = engine(blip, decoding="nucleus", temperature=5.0, seed=1)
    torch.manual_seed(7)
    first = [caption.text for caption in made.captions(iter([picture(0), picture(1)]))]
    drawn = torch.rand(1)
    again = [caption.text for caption in made.captions(iter([picture(0), picture(1)]))]
    other = [c.text for c in engine(blip, decoding="nucleus", temperature=5.0, seed=2).captions(iter([picture(0)]))]
    torch.manual_seed(7)
    assert first == again
    assert torch.rand(1) == drawn
    assert other[0] != first[0]


def test_an_encoder_with_a_decoder(tmp_path):
    torch.manual_seed(0)
    encoder = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    decoder = transformers.GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=32)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = transformers.VisionEncoderDecoderModel(config)
    model.generation_config.update(decoder_start_token_id=5, pad_token_id=0, bos_token_id=5, eos_token_id=3)
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    found = list(engine(tmp_path).captions(iter([picture(0), picture(1)])))
    assert all(set((caption.text or "a").split()) <= set(WORDS) for caption in found)
    assert len(found) == 2


def test_a_chat_model_answers_without_repeating_the_question(tmp_path):
    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_id=6)
    model = transformers.LlavaForConditionalGeneration(config)
    model.generation_config.update(eos_token_id=3, pad_token_id=0)
    model.save_pretrained(tmp_path)
    template = (
        "{% for part in messages[0]['content'] %}{{ '<image> ' if part.type == 'image' else part.text }}{% endfor %}"
    )
    square = {"height": 16, "width": 16}
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size=square, crop_size=square),
        tokenizer(additional_special_tokens=["<image>"]),
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    processor.save_pretrained(tmp_path)
    made = engine(tmp_path, prompt="photo photo photo photo photo photo photo")
    inputs, answers_only = made._inputs([Image.new("RGB", (16, 16))] * 2)
    assert answers_only
    assert (inputs["input_ids"][0] == 6).sum() == 4
    found = list(made.captions(iter([picture(0), picture(1)])))
    assert [caption.status for caption in found] == ["ok", "ok"]
    assert all(len(caption.text.split()) <= 6 for caption in found)


def test_folders_without_a_model_are_refused(tmp_path):
    with pytest.raises(InputError, match="not an image-to-text model of transformers"):
        engine(tmp_path)
    with pytest.raises(InputError, match=r"no such folder. Give a model folder, or set `revision`"):
        engine(tmp_path / "nothing")


def test_another_model_at_the_same_path_has_another_version(blip, tmp_path):
    before = engine(blip).source_version
    (blip / "added.json").write_text("{}")
    assert Transformers(TransformersConfig(model=str(blip))).source_version != before
    (blip / "added.json").unlink()
