"""What the model is given: padded or packed, and a blank picture that changes nothing."""

import struct

import numpy as np
import pytest
import torch

from schemas.dataset import Dataset
from tests.trainer.conftest import RULE
from trainer.inputs.collate import Collator
from trainer.inputs.data import Item, Refused, Samples
from trainer.models.folder import ModelFolder


def item(*ids, supervised=1, pictures=0):
    ids = np.array(ids, np.int32)
    labels = np.where(np.arange(len(ids)) >= len(ids) - supervised, ids, -100).astype(np.int32)
    tiles = [np.ones((1, 3, 16, 16), np.float32)] * pictures
    return Item("key", ids, labels, tiles, [(16, 16)] * pictures)


def test_rows_are_padded_to_the_longest():
    batch = Collator(RULE, image_id=9, pad_id=0)([item(5, 6, 7, pictures=1), item(8)])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7], [8, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["pixel_values"].shape == (1, 3, 16, 16)


def test_text_only_rows_get_a_blank_picture_that_nobody_attends_to():
    batch = Collator(RULE, image_id=9, pad_id=0)([item(5, 6)])
    assert batch["input_ids"].tolist() == [[5, 6, 9, 9, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, -100, -100, -100, -100]]
    assert batch["pixel_values"].abs().sum() == 0


def test_an_empty_micro_batch_is_a_blank_picture():
    batch = Collator(RULE, image_id=9, pad_id=0)([])
    assert batch["input_ids"].tolist() == [[9, 9, 9, 9]]
    assert (batch["labels"] == -100).all()


def test_packed_rows_restart_their_positions_and_drop_first_labels():
    batch = Collator(RULE, image_id=9, pad_id=0, packed=True)([item(5, 6, 7, pictures=1), item(8, 3, supervised=2)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 3]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["labels"].tolist() == [[-100, -100, 7, -100, 3]]
    assert "attention_mask" not in batch


@pytest.fixture(scope="module")
def model(tiny):
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(tiny / "model").eval()


@pytest.fixture(scope="module")
def samples(tiny, mix):
    folder = ModelFolder.open(tiny / "model")
    return Samples(Dataset.open(mix), folder.with_training(RULE, "mistral"), max_length=128)


def summed_loss(model, batch):
    with torch.no_grad():
        return model(**batch, use_cache=False, num_items_in_batch=torch.tensor(1.0)).loss.item()


def test_packed_loss_equals_padded_loss_equals_separate_losses(model, samples):
    folder = samples.folder
    padded = Collator(RULE, folder.image_id, 0)
    packed = Collator(RULE, folder.image_id, 0, packed=True)
    items = samples.items([0, 1, 2, 3])
    separate = sum(summed_loss(model, padded([one])) for one in items)
    assert summed_loss(model, padded(items)) == pytest.approx(separate, abs=1e-4)
    assert summed_loss(model, packed(items)) == pytest.approx(separate, abs=1e-4)


@pytest.mark.parametrize("packed", [False, True])
def test_logits_where_something_is_learnt_give_the_loss_and_gradients_of_all(tiny, samples, packed):
    from transformers import LlavaForConditionalGeneration

    batch = Collator(RULE, samples.folder.image_id, 0, packed=packed)(samples.items([0, 1, 2, 3, 4]))
    whole = {name: value for name, value in batch.items() if name not in ("logits_to_keep", "shift_labels")}
    assert len(batch["logits_to_keep"]) < batch["labels"].shape[1]
    found = []
    for inputs in (batch, whole):
        model = LlavaForConditionalGeneration.from_pretrained(tiny / "model")
        loss = model(**inputs, use_cache=False, num_items_in_batch=torch.tensor(7.0)).loss
        loss.backward()
        found.append((loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (loss, some), (expected, all_) = found
    assert loss == pytest.approx(expected, rel=1e-6)
    assert some.keys() == all_.keys()
    assert all(torch.allclose(some[name], all_[name], rtol=1e-4, atol=1e-5) for name in some)


def test_nothing_to_learn_is_a_loss_of_zero(model, samples):
    batch = Collator(RULE, samples.folder.image_id, 0)([])
    assert batch["logits_to_keep"].tolist() == [0] and batch["shift_labels"].tolist() == [[-100]]
    assert summed_loss(model, batch) == 0


def test_workers_under_spawn_make_the_same_steps(samples, mix, tmp_path):
    from trainer.config import Recipe
    from trainer.inputs.schedule import Schedule
    from trainer.inputs.steps import Steps

    values = {"stage": "finetune", "model": {"checkpoint": "x"}, "data": {"mix": str(mix)}, "output": "x"}
    recipe = Recipe.model_validate({**values, "plan": {"global_batch": 4}, "optimizer": {"learning_rate": 1e-3}})
    schedule = Schedule(Dataset.open(mix), recipe, samples.folder, 1, packed=False)
    steps = Steps(samples, schedule, Collator(RULE, samples.folder.image_id, 0), 0)
    options = {"batch_size": None, "sampler": [0, 1]}
    here = list(torch.utils.data.DataLoader(steps, **options))
    there = list(torch.utils.data.DataLoader(steps, **options, num_workers=1, multiprocessing_context="spawn"))
    for one, other in zip(here, there, strict=True):
        assert one.keys == other.keys
        assert all(torch.equal(one.batches[0][name], other.batches[0][name]) for name in one.batches[0])


def test_the_blank_picture_does_not_change_the_loss(model, samples):
    text_only = samples.items([3])
    assert not text_only[0].pictures
    blank = Collator(RULE, samples.folder.image_id, 0)(text_only)
    bare = {"input_ids": blank["input_ids"][:, :-4], "labels": blank["labels"][:, :-4]}
    assert summed_loss(model, blank) == pytest.approx(summed_loss(model, bare), abs=1e-5)


def test_bad_rows_are_refused_with_a_reason(samples, reader, tmp_path):
    from tests.trainer.conftest import sample_row, write_mix

    rows = [
        sample_row(0, reader, "mistral"),
        sample_row(1, reader, "mistral", images=1, tokens=99),
        {**sample_row(2, reader, "mistral"), "images": [{"bytes": b"not a picture", "path": None}]},
    ]
    bad = Samples(write_mix(tmp_path / "bad", rows, reader), samples.folder, max_length=128)
    found = bad.items([0, 1, 2])
    assert isinstance(found[0], Item)
    assert [type(one) for one in found[1:]] == [Refused, Refused]
    assert "99" in found[1].reason
    assert "picture" in found[2].reason
    assert (found[2].key, found[2].row) == ("row-2", 2)


@pytest.mark.parametrize("error", [struct.error, MemoryError, RuntimeError, BaseException])
def test_whatever_preparing_a_row_raises_is_a_bad_row(samples, monkeypatch, error):
    """BaseException: a panic of a library written in Rust is no Exception."""

    def stumble(*_):
        raise error("stumbled")

    monkeypatch.setattr("trainer.inputs.data.prepare", stumble)
    fresh = Samples(samples.mix, samples.folder, max_length=128)
    shown = [row for row in range(len(fresh)) if fresh.mix.take([row], ["image_count"])[0]["image_count"]]
    (refused,) = fresh.items(shown[:1])
    assert (type(refused), refused.reason) == (Refused, f"{error.__name__}: stumbled")


def test_stopping_is_no_bad_row(samples, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.inputs.data.encode", stop)
    with pytest.raises(KeyboardInterrupt):
        samples.items([0])
