"""Scorers with a model, against what the library says when it is called by hand."""

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from pipelines.score.aesthetic import read_head
from pipelines.score.registry import scorer, settings_of
from pipelines.score.scorer import Encoders, Sample
from schemas.errors import InputError
from tests.pipelines.models import tiny

PICTURES = [tiny.noise(seed) for seed in range(3)]
TEXTS = ["a red cat", "dog", "a photo of a blue dog"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for make in (tiny.clip, tiny.siglip, tiny.bert, tiny.vit, tiny.classifier):
        make(root / make.__name__)
    return root


def made(name, encoders=None, **options):
    (settings,) = settings_of([{"name": name, **options}])
    one = scorer(name)(settings)
    one.check()
    one.setup(encoders or Encoders("cpu"))
    return one


def samples():
    return [Sample({"alt_text": text}, pixels=pixels) for text, pixels in zip(TEXTS, PICTURES, strict=True)]


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_similarity_is_the_models_cosine(models, name):
    model = transformers.AutoModel.from_pretrained(models / name).eval()
    processor = transformers.AutoProcessor.from_pretrained(models / name)
    padding = {"padding": "max_length", "max_length": 12} if name == "siglip" else {"padding": True}
    inputs = processor(images=PICTURES, text=TEXTS, return_tensors="pt", **padding)
    if name == "siglip":
        inputs.pop("attention_mask", None)
    with torch.no_grad():
        output = model(**inputs)
    expected = (output.image_embeds * output.text_embeds).sum(-1).tolist()
    assert made("similarity", model=str(models / name)).scores(samples()) == pytest.approx(expected, abs=1e-5)


def test_similarity_of_columns_needs_no_model():
    one = made("similarity", image_embedding="a", text_embedding="b")
    assert (one.sees, one.models, one.others) == ("", (), ("a", "b"))
    rows = [Sample({"a": [3.0, 4.0], "b": [4.0, 3.0]}), Sample({"a": [1.0, 0.0], "b": [0.0, 0.0]})]
    first, second = one.scores(rows)
    assert first == pytest.approx(0.96)
    assert np.isnan(second)
    with pytest.raises(InputError, match=r"'a' holds embeddings of several widths"):
        one.scores([Sample({"a": [1.0], "b": [1.0]}), Sample({"a": [1.0, 2.0], "b": [1.0]})])


@pytest.mark.parametrize(("problem", "share"), [(None, "softmax"), ("multi_label_classification", "sigmoid")])
def test_nsfw_is_the_probability_of_the_label(models, tmp_path, problem, share):
    model = transformers.ViTForImageClassification.from_pretrained(models / "classifier").eval()
    model.config.problem_type = problem
    folder = tiny.saved(model, tmp_path / "c", transformers.ViTImageProcessor(size=tiny.SQUARE))
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**processor(images=PICTURES, return_tensors="pt")).logits
    expected = (logits.softmax(-1) if share == "softmax" else logits.sigmoid())[:, 1].tolist()
    assert made("nsfw", model=str(folder)).scores(samples()) == pytest.approx(expected, abs=1e-5)
    assert made("nsfw", model=str(folder), label="normal").scores(samples()) != pytest.approx(expected, abs=1e-3)


def mlp(width=8):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(width, 6), torch.nn.Dropout(0.2), torch.nn.Linear(6, 4), torch.nn.Linear(4, 1)]
    head = torch.nn.Module()
    head.layers = torch.nn.Sequential(*layers)
    return head.eval()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_aesthetic_is_the_head_on_unit_embeddings(models, tmp_path, suffix, activation):
    head, path = mlp(), tmp_path / f"head.{suffix}"
    save_file(head.state_dict(), path) if suffix == "safetensors" else torch.save(head.state_dict(), path)
    model = transformers.CLIPModel.from_pretrained(models / "clip").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(models / "clip")
    with torch.no_grad():
        vectors = model.get_image_features(**processor(images=PICTURES, return_tensors="pt")).pooler_output
        vectors = vectors / vectors.norm(dim=-1, keepdim=True)
        layers = list(head.layers)
        if activation == "relu":
            layers = [layers[0], torch.nn.ReLU(), layers[2], torch.nn.ReLU(), layers[3]]
        expected = torch.nn.Sequential(*layers)(vectors)[:, 0].tolist()
    found = made("aesthetic", model=str(models / "clip"), head=str(path), activation=activation).scores(samples())
    assert found == pytest.approx(expected, abs=1e-5)


def test_one_linear_layer_is_a_head_too(models, tmp_path):
    layer = torch.nn.Linear(8, 1)
    torch.save(layer.state_dict(), tmp_path / "linear.pth")
    head = read_head(tmp_path / "linear.pth")
    vectors = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    assert head(vectors) == pytest.approx(layer(torch.from_numpy(vectors))[:, 0].tolist(), abs=1e-6)


def test_layers_beyond_ten_are_in_the_order_of_their_numbers(tmp_path):
    weights = {f"layers.{n}.weight": torch.full((1, 1), float(n)) for n in (2, 10, 9)}
    weights |= {f"layers.{n}.bias": torch.full((1,), float(n)) for n in (2, 10, 9)}
    torch.save(weights, tmp_path / "head.pth")
    assert read_head(tmp_path / "head.pth")(np.ones((1, 1), np.float32)) == [((1 * 2 + 2) * 9 + 9) * 10 + 10]


def test_two_scorers_with_one_model_ask_it_once(models, tmp_path):
    torch.save(mlp().state_dict(), tmp_path / "head.pth")
    encoders, rows = Encoders("cpu"), samples()
    clip = str(models / "clip")
    first = made("similarity", encoders, model=clip)
    second = made("aesthetic", encoders, model=clip, head=str(tmp_path / "head.pth"))
    first.scores(rows)
    second._encoder.encode = None  # would raise
    assert len(second.scores(rows)) == 3
    assert len(encoders._loaded) == 2  # pictures, and texts


class Trap:
    def __reduce__(self):
        return (open, ("trap", "w"))


def test_wrong_folders_and_heads_are_one_error_before_any_work(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip, bert, vit = (str(models / name) for name in ("clip", "bert", "vit"))
    torch.save(mlp(16).state_dict(), tmp_path / "wide.pth")
    torch.save({"layers.0.weight": torch.zeros(2, 8)}, tmp_path / "two.pth")
    torch.save([1], tmp_path / "list.pth")
    torch.save({"a": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    for options, words in [
        ({"name": "similarity", "model": bert}, "does not compare pictures with texts"),
        ({"name": "similarity", "model": str(tmp_path / "gone")}, "no such folder"),
        ({"name": "nsfw", "model": bert}, "a bert model classifies no pictures"),
        ({"name": "nsfw", "model": str(models / "classifier"), "label": "porn"}, "label 'porn'.*normal, nsfw"),
        ({"name": "aesthetic", "model": bert, "head": "wide.pth"}, "a bert model embeds texts"),
        ({"name": "aesthetic", "model": clip, "head": "wide.pth"}, "of 16 numbers, and the model .* makes 8"),
        ({"name": "aesthetic", "model": clip, "head": "two.pth"}, "the last with one output"),
        ({"name": "aesthetic", "model": clip, "head": "list.pth"}, "holds a list, expected a state dict"),
        ({"name": "aesthetic", "model": clip, "head": "trap.pth"}, "no state dict"),
        ({"name": "aesthetic", "model": clip, "head": "junk.safetensors"}, "no state dict"),
        ({"name": "aesthetic", "model": clip, "head": "gone.pth"}, "no such file"),
    ]:
        (settings,) = settings_of([options])
        with pytest.raises(InputError, match=words):
            scorer(settings.name)(settings).check()
    assert not (tmp_path / "trap").exists()
    with pytest.raises(InputError, match=r"label 'LABEL_1'|the weights lack classifier"):
        made("nsfw", model=vit, label="LABEL_1")


def test_settings_are_checked():
    with pytest.raises(InputError, match=r"no scorer 'blurr'. Did you mean 'blur'"):
        settings_of("blurr")
    with pytest.raises(InputError, match=r"unknown key 'labl'. Did you mean 'label'"):
        settings_of([{"name": "nsfw", "model": "m", "labl": "x"}])
    with pytest.raises(InputError, match=r"the key 'model' is missing"):
        settings_of("nsfw")
    with pytest.raises(InputError, match=r"give `model`, or both"):
        settings_of([{"name": "similarity", "image_embedding": "a"}])
    with pytest.raises(InputError, match=r"expected a scorer's name"):
        settings_of([3])
    assert [one.name for one in settings_of("blur, aspect")] == ["blur", "aspect"]
