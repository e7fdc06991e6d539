"""Continuous batching: whoever comes and goes, each answer is the one that its question has alone."""

import io
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from schemas.chat import ImageRule
from schemas.errors import InputError
from tests.trainer.conftest import picture
from tests.trainer.inference.adapters import random_adapter
from trainer.inference.answer import Answerer
from trainer.inference.checkpoint import Checkpoint, Devices
from trainer.inference.engine import Asked, Engine
from trainer.inference.prompting import Prompting
from trainer.inference.prompts import question
from trainer.inference.sampling import Sampler, next_tokens
from trainer.inference.spelling import Spelling
from trainer.models.adapter import merge
from trainer.models.assemble import assemble

TEXTS = ("what color is it?", "is it red?", "red", "say something about the picture and then some more of it")


@pytest.fixture(scope="module")
def answerer(tiny):
    return Answerer(tiny / "model", device="cpu")


@pytest.fixture(scope="module")
def adapters(tiny, tmp_path_factory):
    """Two adapters of the tiny model, with projectors of their own."""
    outputs = [tmp_path_factory.mktemp(f"adapter{seed}") / "adapter" for seed in (1, 2)]
    return [random_adapter(tiny / "model", seed, output) for seed, output in enumerate(outputs)]


def asked(prompting, number, text, image=None, **given):
    prompt = question(text, () if image is None else (picture(image),))
    row = prompting.row(number, prompt, {})
    return Asked(number, replace(row, pictures=tuple(prompting.pictures(prompt))), **given)


def drained(engine, texts=None, finishes=None):
    texts = {} if texts is None else texts
    while engine.waiting or engine.running:
        for event in engine.step():
            assert event.failed is None
            texts[event.number] = texts.get(event.number, "") + event.text
            if finishes is not None and event.finish:
                finishes[event.number] = event.finish
    return texts


@pytest.mark.parametrize("seed", range(4))
def test_answers_do_not_depend_on_who_comes_and_goes(answerer, seed):
    draw = random.Random(seed)
    cases = [(draw.choice(TEXTS), draw.choice([None, 1, 2, 3]), draw.randrange(1, 24)) for _ in range(16)]
    engine = Engine(answerer.loaded, {"": answerer.prompting}, most=draw.choice([1, 3, 8]))
    texts: dict[int, str] = {}
    for number, (text, image, most) in enumerate(cases):
        engine.submit(asked(answerer.prompting, number, text, image, max_tokens=most, stream=draw.random() < 0.5))
        for _ in range(draw.randrange(4)):
            for event in engine.step():
                texts[event.number] = texts.get(event.number, "") + event.text
    drained(engine, texts)
    for number, (text, image, most) in enumerate(cases):
        prompt = question(text, () if image is None else (picture(image),))
        assert texts[number] == answerer.answer([prompt], most)[0].text, (number, text, image, most)


def test_a_question_that_is_taken_back_leaves_the_others_as_they_were(answerer):
    engine = Engine(answerer.loaded, {"": answerer.prompting}, most=2)
    for number, text in enumerate(TEXTS):
        engine.submit(asked(answerer.prompting, number, text, max_tokens=12))
    engine.step()
    engine.cancel([0, 3, 77])
    assert (engine.running, engine.waiting) == (1, 1)
    texts = drained(engine)
    assert texts == {n: answerer.answer([question(TEXTS[n])], 12)[0].text for n in (1, 2)}


def test_an_answer_ends_at_its_limit_or_at_the_models_last_position(answerer):
    engine = Engine(answerer.loaded, {"": answerer.prompting})
    engine.submit(asked(answerer.prompting, 0, "red", max_tokens=3))
    engine.submit(asked(answerer.prompting, 1, "is it red? " * 18, max_tokens=500))
    events = []
    while engine.running or engine.waiting:
        events += engine.step()
    last = {event.number: event for event in events if event.finish}
    assert [last[n].finish for n in (0, 1)] == ["length", "length"]
    assert last[0].answer_tokens == 3
    assert last[1].prompt_tokens + last[1].answer_tokens == answerer.prompting.folder.positions


def test_the_same_seed_draws_the_same_answer_alone_and_in_company(answerer):
    def one(seed):
        return asked(answerer.prompting, seed, "is it red?", 1, max_tokens=12, sampler=Sampler(1.5, 0.9, seed))

    alone = {}
    for seed in range(6):
        engine = Engine(answerer.loaded, {"": answerer.prompting})
        engine.submit(one(seed))
        alone |= drained(engine)
    engine = Engine(answerer.loaded, {"": answerer.prompting}, most=4)
    for seed in range(6):
        engine.submit(one(seed))
    engine.submit(asked(answerer.prompting, 9, "red", max_tokens=12))
    together = drained(engine)
    assert together.pop(9) == answerer.answer([question("red")], 12)[0].text
    assert together == alone
    assert len(set(alone.values())) > 1


def test_where_memory_does_not_suffice_fewer_are_answered_and_nothing_is_lost(answerer, monkeypatch):
    engine = Engine(answerer.loaded, {"": answerer.prompting}, most=8)
    whole = engine._logits

    def small(models, rows, inputs):
        if len(models) > 2:
            raise torch.OutOfMemoryError
        return whole(models, rows, inputs)

    monkeypatch.setattr(engine, "_logits", small)
    for number, text in enumerate(TEXTS):
        engine.submit(asked(answerer.prompting, number, text, max_tokens=12, stream=True))
    assert drained(engine) == {n: one.text for n, one in enumerate(answerer.answer([*map(question, TEXTS)], 12))}
    monkeypatch.setattr(engine, "_logits", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    engine.submit(asked(answerer.prompting, 0, "red"))
    assert "memory" in engine.step()[0].failed


def test_adapters_of_one_base_answer_in_one_batch_as_if_they_were_merged(tiny, answerer, adapters, tmp_path):
    base = Answerer(tiny / "model", device="cpu")
    promptings = {"base": base.prompting}
    for name, folder in zip("ab", adapters, strict=True):
        found = Checkpoint.open(folder)
        base.loaded.attach(name, found.adapter)
        promptings[name] = Prompting(found.folder)
        merge(folder, tmp_path / name)
    cases = [(name, text, image) for image in (1, 2) for text in TEXTS for name in ("a", "base", "b")]
    engine = Engine(base.loaded, promptings, most=5)
    for number, (name, text, image) in enumerate(cases):
        engine.submit(asked(promptings[name], number, text, image, model=name, max_tokens=10))
    texts = drained(engine)
    alone = {name: Answerer(tmp_path / name, device="cpu") for name in "ab"} | {"base": answerer}
    wanted = [alone[name].answer([question(text, (picture(image),))], 10)[0].text for name, text, image in cases]
    assert [texts[number] for number in range(len(cases))] == wanted
    assert len({tuple(wanted[start::3]) for start in range(3)}) == 3
    base.loaded.detach("a")
    base.loaded.detach("b")
    assert base.answer([question("red", (picture(1),))], 10) == answerer.answer([question("red", (picture(1),))], 10)


def test_an_adapter_is_asked_without_merging(adapters, tmp_path):
    merge(adapters[0], tmp_path / "merged")
    prompts = [question(text, (picture(1),)) for text in TEXTS]
    wanted = Answerer(tmp_path / "merged", device="cpu").answer(prompts, 8)
    assert Answerer(adapters[0], device="cpu").answer(prompts, 8) == wanted


@pytest.mark.parametrize(("load", "kind"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")])
def test_the_language_model_is_loaded_in_fewer_bits(tiny, load, kind):
    quantised = Answerer(tiny / "model", device="cpu", load=load)
    kinds = {name: type(module).__name__ for name, module in quantised.loaded.model.named_modules()}
    assert kinds["model.language_model.layers.0.self_attn.q_proj"] == kind
    assert kinds["model.multi_modal_projector.linear_1"] == kinds["lm_head"] == "Linear"
    assert quantised.loaded.precision == load
    assert quantised.answer([question("is it red?", (picture(1),))], 4)[0].status == "ok"


def test_bits_without_bitsandbytes_and_devices_that_are_none_are_one_line(tiny, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="4bit needs bitsandbytes, which is not installed"):
        Answerer(tiny / "model", load="4bit")
    for text in ("cuda:", "gpu", "cuda:0,0", "cpu:1"):
        with pytest.raises(InputError, match="device"):
            Devices.parse(text)
    assert Devices.parse("cuda:0,2") == Devices("cuda", (0, 2))


def test_an_adapter_of_another_base_is_refused(tiny, adapters, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    other = shutil.copytree(tiny / "model", tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="its weights are not those"):
        Checkpoint.open(adapters[0], other)


@pytest.mark.parametrize("text", ["red", "é 🙂 日本語", " a  b ", "is it red?\nno", ""])
@pytest.mark.parametrize("stops", [(), ("d",), ("語",), ("red?\n", "xyz"), ("🙂 日",)])
def test_pieces_are_whole_characters_and_together_the_text(answerer, text, stops):
    ids = answerer.prompting.tokenizer.encode(text, first=False).ids
    spelling = Spelling(answerer.prompting, stops)
    pieces = []
    for token in ids:
        pieces.append(spelling.add(token))
        if spelling.stopped:
            break
    pieces.append(spelling.end(ids))
    wanted = text
    for stop in stops:
        wanted = wanted.partition(stop)[0]
    assert "".join(pieces) == spelling.text == wanted.strip()
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_nucleus_of_nothing_is_the_likeliest_token():
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.9]])
    assert next_tokens(logits, [Sampler(1.0, 0.0, 1), Sampler(0.0)]) == [1, 0]
    drawn = [next_tokens(logits[:1], [Sampler(1.0, 1.0, seed)])[0] for seed in range(2000)]
    shares = torch.softmax(logits[0], -1).tolist()
    for token in range(3):
        assert abs(drawn.count(token) / 2000 - shares[token]) < 0.04
    assert {next_tokens(logits[1:], [Sampler(1.0, 0.6, seed)])[0] for seed in range(50)} == {0, 2}


def test_pictures_in_tiles_of_any_number_join_a_running_batch(tiny, tmp_path):
    rule = ImageRule(mode="anyres", image_size=16, patch_size=8, pinpoints=((16, 32), (32, 16), (32, 32)))
    tower, llm = tiny / "tower", tiny / "llm"
    assemble(tower, llm, tmp_path / "next", rule=rule, template="mistral")
    tiled = Answerer(tmp_path / "next", device="cpu")
    prompts = [question("red", (wide(*size),)) for size in ((16, 16), (40, 16), (16, 48), (32, 32))]
    engine = Engine(tiled.loaded, {"": tiled.prompting}, most=3)
    texts: dict[int, str] = {}
    for number, prompt in enumerate(prompts):
        row = tiled.prompting.row(number, prompt, {})
        engine.submit(Asked(number, replace(row, pictures=tuple(tiled.prompting.pictures(prompt))), max_tokens=10))
        for event in engine.step():
            texts[event.number] = event.text
    assert [drained(engine, texts)[n] for n in range(4)] == [tiled.answer([prompt], 10)[0].text for prompt in prompts]


def wide(width, height):
    file = io.BytesIO()
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_question_that_cannot_be_computed_takes_no_other_along(answerer):
    engine = Engine(answerer.loaded, {"": answerer.prompting})
    good = [asked(answerer.prompting, number, text, max_tokens=6) for number, text in enumerate(TEXTS)]
    bad = replace(good[0], number=9, row=replace(good[0].row, ids=good[0].row.ids + 1_000_000))
    for one in (good[0], bad, *good[1:]):
        engine.submit(one)
    texts, failed = {}, {}
    while engine.waiting or engine.running:
        for event in engine.step():
            texts[event.number] = texts.get(event.number, "") + event.text
            if event.failed:
                failed[event.number] = (event.failed, event.memory)
    assert failed.keys() == {9} and "cannot be computed" in failed[9][0] and not failed[9][1]
    alone = {}
    for one in good:
        engine.submit(one)
        alone |= drained(engine)
    assert {number: texts[number] for number in alone} == alone


def test_a_prompt_of_which_the_template_leaves_nothing_is_refused(answerer):
    plain = Prompting(answerer.prompting.folder, "plain")
    refused = plain.row(0, question("what is this?"), {})
    assert (refused.status, "leaves nothing of it" in refused.detail) == ("bad_question", True)
    assert len(plain.row(0, question("what is this?", (picture(0),)), {}).ids) > 0
