"""Vectors are the model's own: compared with what transformers gives when it is called by hand."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from pipelines.models.batches import Failed, in_batches
from pipelines.models.encoder import Encoder, unit
from pipelines.models.folder import embedding_model, needs_two_sides
from schemas.errors import InputError
from tests.pipelines.models import tiny

PICTURES = [tiny.noise(seed) for seed in range(3)]
TEXTS = ["a red cat", "dog", "a photo of a blue dog of a red cat of a blue dog"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for make in (tiny.clip, tiny.siglip, tiny.vit, tiny.dinov2, tiny.bert):
        make(root / make.__name__)
    return root


def by_hand(folder, side, pooling):
    """One row at a time, straight from the library."""
    model, rows = AutoModel.from_pretrained(folder).eval(), []
    for item in PICTURES if side == "pictures" else TEXTS:
        if side == "pictures":
            inputs = dict(AutoImageProcessor.from_pretrained(folder)(images=item, return_tensors="pt"))
        else:
            whole = "siglip" in model.config.model_type
            words = AutoTokenizer.from_pretrained(folder)
            made = words(
                item,
                return_tensors="pt",
                truncation=True,
                max_length=12,
                padding="max_length" if whole else False,
            )
            inputs = {"input_ids": made["input_ids"]}
        with torch.no_grad():
            if pooling == "projected":
                features = (model.get_image_features if side == "pictures" else model.get_text_features)(**inputs)
                vector = features.pooler_output[0]
            else:
                output = model(**inputs)
                last = output.last_hidden_state[0]
                vector = {"pooler": output.pooler_output, "cls": last[:1], "mean": last.mean(0, keepdim=True)}[pooling]
                vector = vector[0]
        rows.append((vector / vector.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize(
    ("name", "side", "pooling", "width"),
    [
        ("clip", "pictures", "projected", 8),
        ("clip", "texts", "projected", 8),
        ("siglip", "pictures", "projected", 16),
        ("siglip", "texts", "projected", 16),
        ("vit", "pictures", "cls", 16),
        ("dinov2", "pictures", "pooler", 16),
        ("bert", "texts", "mean", 16),
    ],
)
def test_vectors_are_the_models_own_in_any_batch(folders, name, side, pooling, width):
    described = embedding_model(str(folders / name), side)
    assert (described.pooling, described.width) == (pooling, width)
    items = PICTURES if side == "pictures" else TEXTS
    encoder = Encoder(described, "cpu")
    together = encoder.encode(items)
    assert together == pytest.approx(by_hand(folders / name, side, pooling), abs=1e-5)
    assert np.concatenate([encoder.encode([item]) for item in items]) == pytest.approx(together, abs=1e-5)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    assert np.abs(together[0] - together[1]).max() > 0.01


@pytest.mark.parametrize(("name", "side"), [("dinov2", "pictures"), ("bert", "texts")])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_pooling_may_be_chosen(folders, name, side, pooling):
    made = Encoder(embedding_model(str(folders / name), side, pooling), "cpu").encode(
        PICTURES if side == "pictures" else TEXTS
    )
    assert made == pytest.approx(by_hand(folders / name, side, pooling), abs=1e-5)


def test_sentence_transformers_files_are_followed(folders, tmp_path):
    folder = tiny.bert(tmp_path / "bert")
    (folder / "1_Pooling").mkdir()
    modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "word_embedding_dimension": 16}
    (folder / "1_Pooling/config.json").write_text(json.dumps(modes))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 2}')
    described = embedding_model(str(folder), "texts")
    assert (described.pooling, described.longest) == ("cls", 2)
    made = Encoder(described, "cpu").encode(["a red cat", "a red dog"])
    assert made[0] == pytest.approx(made[1])  # two tokens were read
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(InputError, match=r"asks for pooling_mode_max_tokens.*--pooling"):
        embedding_model(str(folder), "texts")


def test_folders_of_another_kind_are_one_error_before_weights_are_loaded(folders, tmp_path):
    with pytest.raises(InputError, match=r"model .*: no such folder"):
        embedding_model(str(tmp_path / "gone"), "pictures")
    with pytest.raises(InputError, match=r"a bert model embeds texts, expected one for pictures"):
        embedding_model(str(folders / "bert"), "pictures")
    with pytest.raises(InputError, match=r"a vit model embeds pictures, expected one for texts"):
        embedding_model(str(folders / "vit"), "texts")
    with pytest.raises(InputError, match=r"pooling mean.*takes projected"):
        embedding_model(str(folders / "clip"), "texts", "mean")
    with pytest.raises(InputError, match=r"pooling projected.*takes pooler, cls or mean"):
        embedding_model(str(folders / "vit"), "pictures", "projected")
    with pytest.raises(InputError, match=r"similarity.model .*a bert model does not compare"):
        needs_two_sides(str(folders / "bert"), "similarity.model")
    needs_two_sides(str(folders / "siglip"), "model")
    with pytest.raises(InputError, match=r"lack pooler.dense.*--pooling"):
        Encoder(embedding_model(str(folders / "vit"), "pictures", "pooler"), "cpu")


def test_vectors_without_a_direction_are_nan():
    made = unit(np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]]))
    assert made[0] == pytest.approx([0.6, 0.8])
    assert np.isnan(made[1:]).all()


def test_what_a_model_cannot_do_fails_alone():
    def model(items):
        if 3 in items:
            raise ValueError("<x at 0x7f12> is odd")
        return [item * 2 for item in items]

    assert in_batches([1, 2, 3, 4, 5], 4, model) == [2, 4, Failed("ValueError: the bytes is odd"), 8, 10]
    assert in_batches([], 4, model) == []
