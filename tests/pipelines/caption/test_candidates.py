"""Several captions per picture, of which the best-scored stays: CapFilt, with tiny models made here."""

import io

import pytest
import torch
import transformers
from PIL import Image
from pydantic import ValidationError

from pipelines.caption.candidates import best_captions
from pipelines.caption.engine import Picture
from pipelines.caption.huggingface import TransformersConfig
from pipelines.caption.local import Opened
from pipelines.caption.matching import Matcher
from schemas.errors import InputError
from tests.pipelines.caption.test_huggingface import SIZE, WORDS, blip, engine, offline, picture, tokenizer

__all__ = ["blip", "offline"]  # fixtures


class ByTable:
    """A scorer that knows what every text is worth."""

    name = "table@1"

    def __init__(self, **worth):
        self.worth = worth

    def scores(self, images, pairs):
        assert all(image < len(images) for image, _ in pairs)
        return [self.worth[text] for _, text in pairs]


def chosen(written, alt=None, min_score=None, **worth):
    opened = Opened(Picture("p", b"", alt), Image.new("RGB", (2, 2)))
    (made,) = best_captions([opened], [written], ByTable(**worth), alt is not None, min_score)
    return made


def test_the_best_stays_with_its_score():
    made = chosen(["cat", "dog", "cat"], cat=0.2, dog=0.7)
    assert (made.text, made.score, made.scorer, made.writer) == ("dog", 0.7, "table@1", None)


def test_alt_text_wins_only_when_it_is_better():
    assert chosen(["cat"], alt=" my  dog ", cat=0.2, **{"my dog": 0.7}).writer == "alt_text"
    assert chosen(["cat"], alt="my dog", cat=0.7, **{"my dog": 0.7}).writer is None
    assert chosen(["cat"], alt="cat", cat=0.7).writer is None


def test_below_the_threshold_there_is_no_caption_and_the_best_is_told():
    made = chosen(["cat", "dog"], min_score=0.5, cat=0.2, dog=0.4)
    assert (made.status, made.text, made.score) == ("low_score", None, 0.4)
    assert made.detail == "the best of 2 scores 0.4, below 0.5: dog"
    assert chosen(["cat"], min_score=0.5, cat=0.5).status == "ok"


def test_a_model_that_says_nothing_leaves_the_alt_text_or_nothing():
    assert chosen(["", ""]).status == "empty"
    assert chosen([""], alt="dog", dog=0.1).text == "dog"


@pytest.fixture(scope="module")
def scorers(tmp_path_factory):
    """A BLIP with matching head, a CLIP and a SigLIP, each with its processor."""
    from transformers import BertTokenizerFast, BlipConfig, BlipForImageTextRetrieval, BlipImageProcessor

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("scorers")
    (root / "itm").mkdir()
    (root / "itm/vocab.txt").write_text("\n".join(WORDS))
    text = {
        **SIZE,
        "vocab_size": len(WORDS),
        "encoder_hidden_size": 16,
        "max_position_embeddings": 12,
        "pad_token_id": 0,
    }
    vision = {**SIZE, "image_size": 16, "patch_size": 8}
    both = {"text_config": text, "vision_config": vision}
    matching = BlipForImageTextRetrieval(BlipConfig(**both, image_text_hidden_size=8))
    for weights in matching.parameters():
        weights.data = torch.randn_like(weights) / 2  # as small as they begin, every score is the same
    matching.save_pretrained(root / "itm")
    square = {"height": 16, "width": 16}
    bert = BertTokenizerFast(str(root / "itm/vocab.txt"))
    transformers.BlipProcessor(BlipImageProcessor(size=square), bert).save_pretrained(root / "itm")
    text = {**SIZE, "vocab_size": len(WORDS), "max_position_embeddings": 12, "eos_token_id": 3}
    both = {"text_config": text, "vision_config": vision}
    transformers.CLIPModel(transformers.CLIPConfig(**both, projection_dim=8)).save_pretrained(root / "clip")
    pixels = transformers.CLIPImageProcessor(size=square, crop_size=square)
    transformers.CLIPProcessor(pixels, tokenizer()).save_pretrained(root / "clip")
    transformers.SiglipModel(transformers.SiglipConfig(**both)).save_pretrained(root / "siglip")
    pixels = transformers.SiglipImageProcessor(size=square)
    transformers.SiglipProcessor(pixels, tokenizer()).save_pretrained(root / "siglip")
    return root


IMAGES = [Image.open(io.BytesIO(picture(seed).data)) for seed in range(3)]
LONG = "a blue photo of the dog and the red cat in a blue photo dog"
PAIRS = [(0, "a red cat"), (0, "dog"), (2, LONG), (1, "a red cat")]


@pytest.mark.parametrize("name", ["itm", "clip", "siglip"])
def test_scores_are_the_models_own_and_do_not_depend_on_the_batch(scorers, name):
    matcher = Matcher(str(scorers / name), None, "cpu", 2)
    assert matcher.name.startswith(f"{name}@")
    together = matcher.scores(IMAGES, PAIRS)
    alone = [Matcher(str(scorers / name), None, "cpu", 1).scores([IMAGES[n]], [(0, text)])[0] for n, text in PAIRS]
    assert together == pytest.approx(alone, abs=2e-4)
    assert len(set(together)) == 4
    processor, model = matcher._processor, matcher._model
    padding = {"padding": "max_length", "max_length": 12} if name == "siglip" else {}
    inputs = processor(images=IMAGES[0], text="a red cat", return_tensors="pt", **padding)
    if name == "itm":
        expected = model(**inputs).itm_score.softmax(dim=-1)[0, 1].item()
        assert 0 < expected < 1
    else:
        reported = model(**{key: value for key, value in inputs.items() if name == "clip" or key != "attention_mask"})
        expected = (reported.image_embeds @ reported.text_embeds.T).item()
    assert together[0] == pytest.approx(expected, abs=2e-4)


def test_candidates_are_drawn_scored_and_repeat_themselves_in_any_batch(blip, scorers):
    pictures = [Picture(name, picture(seed).data, "a red photo") for seed, name in enumerate("abcde")]
    asked = {"decoding": "nucleus", "temperature": 5.0, "candidates": 3, "score_model": str(scorers / "itm")}
    made = engine(blip, batch_pictures=2, score_alt_text=True, **asked)
    first = list(made.captions(iter(pictures)))
    assert all(caption.status == "ok" and 0 < caption.score < 1 for caption in first)
    assert {caption.scorer for caption in first} == {Matcher(str(scorers / "itm"), None, "cpu", 1).name}
    assert made.source_version.split()[0] == made.identity.version
    again = engine(blip, batch_pictures=4, score_alt_text=True, **asked)
    backwards = list(again.captions(iter(pictures[::-1])))[::-1]
    assert [(one.text, one.writer) for one in backwards] == [(one.text, one.writer) for one in first]
    assert [one.score for one in backwards] == pytest.approx([one.score for one in first], abs=2e-4)
    # More candidates never make the best one worse.
    single = list(engine(blip, **{**asked, "candidates": 1}).captions(iter(pictures)))
    assert all(best.score >= (one.score or 0) - 2e-4 for best, one in zip(first, single, strict=True))


def test_a_bad_picture_fails_alone_among_candidates(blip, scorers):
    asked = {"decoding": "nucleus", "candidates": 2, "score_model": str(scorers / "clip"), "min_score": 1.1}
    found = list(engine(blip, **asked).captions(iter([picture(0), picture(1, b"junk")])))
    assert [caption.status for caption in found] == ["low_score", "undecodable"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"candidates": 3, "decoding": "nucleus"}, "candidates needs score_model"),
        ({"score_alt_text": True}, "score_alt_text needs score_model"),
        ({"min_score": 0.0}, "min_score needs score_model"),
        ({"candidates": 3, "score_model": "x"}, "need `decoding: nucleus`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, message):
    with pytest.raises(ValidationError, match=message):
        TransformersConfig(model="m", **config)


def test_a_model_that_scores_nothing_is_refused(blip, tmp_path):
    with pytest.raises(InputError, match="not a model that scores text"):
        engine(blip, score_model=str(blip))
    with pytest.raises(InputError, match=r"score_model none: no such folder.*score_revision"):
        engine(blip, score_model="none")
