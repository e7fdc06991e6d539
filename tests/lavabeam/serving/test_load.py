"""`lavabeam.load`: a checkpoint asked from Python."""

import io
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from lavabeam import load
from schemas.errors import InputError
from tests.trainer.conftest import picture
from tests.trainer.inference.adapters import random_adapter
from trainer.inference.answer import Answerer
from trainer.inference.prompts import question

TEXTS = ("what color is it?", "is it red?", "say something about the picture")


@pytest.fixture(scope="module")
def model(tiny):
    return load(tiny / "model", device="cpu")


@pytest.fixture(scope="module")
def wanted(tiny):
    answerer = Answerer(tiny / "model", device="cpu")
    return [answerer.answer([question(text, (picture(1),))], 12)[0].text for text in TEXTS]


def test_a_checkpoint_is_asked_streamed_and_asked_in_batches(model, wanted, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    assert [model.ask(text, tmp_path / "a.png", max_tokens=12) for text in TEXTS] == wanted
    assert model.answers([(text, picture(1)) for text in TEXTS], max_tokens=12) == wanted
    assert "".join(model.stream(TEXTS[2], str(tmp_path / "a.png"), max_tokens=12)) == wanted[2]
    once, again = (model.ask("red", temperature=1.5, seed=4, max_tokens=12) for _ in range(2))
    assert once == again


def test_a_picture_is_given_in_any_form(model, wanted):
    opened = Image.open(io.BytesIO(picture(1)))
    for image in (opened, opened.convert("RGBA"), bytearray(picture(1)), [picture(1)], (opened,)):
        assert model.ask(TEXTS[0], image, max_tokens=12) == wanted[0]


def test_a_stop_is_one_text_and_not_its_letters(model, wanted):
    end = wanted[2][3:6]
    assert model.ask(TEXTS[2], picture(1), max_tokens=12, stop=end) == wanted[2].partition(end)[0]


def test_a_blank_that_ends_an_answer_is_not_the_one_in_front_of_it(model, wanted):
    assert " " in wanted[2]
    assert model.ask(TEXTS[2], picture(1), max_tokens=12, stop=" ") == wanted[2].partition(" ")[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_tokens": 0}, "max_tokens: found 0; expected a whole number from 1"),
        ({"temperature": float("nan")}, "temperature: found nan"),
        ({"temperature": -1}, "temperature: found -1"),
        ({"top_p": 5}, "top_p: found 5"),
        ({"seed": "x"}, "seed: found 'x'"),
        ({"stop": [""]}, "stop: found list"),
        ({"image": b"x"}, "decoded"),
        ({"image": "none.png"}, "no such image"),
        ({"image": "http://127.0.0.1/x"}, "private"),
        ({"image": 7}, "image: found int; expected a path"),
        ({"image": [[7]]}, "image: found list; expected a path"),
        ({"question": "is it red? " * 100}, "Shorten it"),
        ({"question": None}, "question: found NoneType; expected text"),
    ],
)
def test_what_cannot_be_asked_is_said(model, given, words):
    with pytest.raises(InputError, match=words):
        model.ask(**{"question": "red", **given})


@pytest.mark.parametrize("given", [{"max_tokens": 0}, {"batch": 0}, {"batch": -1}, {"batch": "2"}, {"batch": 1.5}])
def test_a_batch_and_an_answer_have_at_least_one(model, given):
    with pytest.raises(InputError, match="expected"):
        model.answers([("red", None)], **given)


def test_threads_may_ask_an_adapter_at_once(tiny, tmp_path):
    model = load(random_adapter(tiny / "model", 1, tmp_path / "adapter"), device="cpu")
    asked = [(text, picture(number)) for number in range(3) for text in TEXTS]
    alone = [model.ask(*one, max_tokens=12) for one in asked]
    with ThreadPoolExecutor(6) as threads:
        streamed = threads.map(lambda one: model.ask(*one, max_tokens=12), asked * 3)
        batched = [threads.submit(model.answers, asked, max_tokens=12) for _ in range(2)]
        assert list(streamed) == alone * 3
        assert [one.result() for one in batched] == [alone] * 2


def test_a_temperature_of_nearly_nothing_is_none(model, wanted):
    for temperature in (1e-40, 5e-324, 1e-10):
        assert model.ask(TEXTS[0], picture(1), max_tokens=12, temperature=temperature, seed=1) == wanted[0]


@pytest.mark.parametrize("device", [0, "gpu", "cuda:x", ""])
def test_a_device_that_there_is_not_is_said(tiny, device):
    with pytest.raises(InputError, match="expected cpu, mps, cuda"):
        load(tiny / "model", device=device)
