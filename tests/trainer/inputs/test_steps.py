"""Steps from worker processes: the same however the workers start, bounded in /dev/shm, normalised at the device."""

import multiprocessing
import pickle

import numpy as np
import pytest
import torch

from schemas.dataset import Dataset
from schemas.errors import InputError
from tests.trainer.conftest import RULE, picture, sample_row, write_mix
from trainer.config import Recipe
from trainer.inputs import steps as loader
from trainer.inputs.collate import Collator
from trainer.inputs.data import Samples
from trainer.inputs.device import Device
from trainer.inputs.pictures import CLIP_MEAN, CLIP_STD, cut, prepare
from trainer.inputs.schedule import Schedule
from trainer.inputs.steps import MicroBatches, Steps, ahead, largest_bytes
from trainer.models.folder import ModelFolder


def schedule_of(mix, folder, **plan):
    values = {"stage": "finetune", "model": {"checkpoint": "x"}, "data": {"mix": str(mix)}, "output": "x"}
    recipe = Recipe.model_validate(
        {**values, "plan": {"global_batch": 8, "accumulation": 2, **plan}, "optimizer": {"learning_rate": 1e-3}}
    )
    return Schedule(Dataset.open(mix), recipe, folder, 1, packed=True)


@pytest.fixture(scope="module")
def made(tiny, mix):
    folder = ModelFolder.open(tiny / "model").with_training(RULE, "mistral")
    samples = Samples(Dataset.open(mix), folder, max_length=128)
    return MicroBatches(samples, Collator(RULE, folder.image_id, 0, packed=True))


def steps(made, schedule, start=0, workers=0, **options):
    return Steps(made.samples, schedule, made.collator, 0).loader(start, workers, **options)


def equal(one, other):
    assert (one.number, one.keys, one.supervised, one.pictures) == (
        other.number,
        other.keys,
        other.supervised,
        other.pictures,
    )
    for batch, same in zip(one.batches, other.batches, strict=True):
        assert batch.keys() == same.keys()
        for name, value in batch.items():
            assert torch.equal(value, same[name]) if isinstance(value, torch.Tensor) else value == same[name], name


def test_steps_hold_the_rows_of_the_plan(made, mix):
    schedule = schedule_of(mix, made.samples.folder)
    found = list(steps(made, schedule, start=1))
    assert [step.number for step in found] == [1, 2]
    for step in found:
        rows = schedule.micro_batches(step.number, 0)
        assert step.keys == [[f"row-{row}" for row in part] for part in rows]
        assert len(step.batches) == 2
        assert step.pictures == sum(int(schedule.images[part].sum()) for part in rows)
        assert step.supervised == sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in step.batches) > 0


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_workers_make_the_same_steps_however_they_start(made, mix, context):
    """A worker is sent the rows' source and the collator, never the plan."""
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {context} here")
    schedule = schedule_of(mix, made.samples.folder)
    here = list(steps(made, schedule))
    there = list(steps(made, schedule, workers=1, context=context))
    for one, other in zip(here, there, strict=True):
        equal(one, other)


def test_workers_are_sent_little(made):
    assert len(pickle.dumps(made)) < 200_000


def test_rows_that_are_refused_come_with_their_step(made, mix, reader, tmp_path):
    bad = [sample_row(number, reader, "mistral", **({"tokens": 99} if number == 2 else {})) for number in range(4)]
    samples = Samples(write_mix(tmp_path / "bad", bad, reader), made.samples.folder, max_length=128)
    schedule = schedule_of(tmp_path / "bad", made.samples.folder, global_batch=4)
    (step,) = steps(MicroBatches(samples, made.collator), schedule)
    assert [one.row for one in step.refused] == [2]
    assert sorted(key for keys in step.keys for key in keys) == ["row-0", "row-1", "row-3"]


@pytest.mark.parametrize(
    ("free", "expected"),
    [(None, 2), (10**12, loader.MOST_AHEAD), (2 * 2 * 3 * 100, 1), (2 * 2 * 3 * 100 * 3, 3)],
)
def test_workers_prepare_as_far_ahead_as_shared_memory_allows(free, expected):
    """Two ranks of three workers, micro-batches of 100 bytes, half of what is free."""
    assert ahead(100, 3, 2, free) == expected


def test_too_little_shared_memory_is_refused_with_what_fits():
    with pytest.raises(InputError, match=r"5 workers on each of 2 ranks put .*{workers: 4}"):
        ahead(2**20, 5, 2, 16 * 2**20)
    with pytest.raises(InputError, match=r"{workers: 0}"):
        ahead(2**20, 5, 2, 2**20)


def test_a_micro_batch_takes_no_more_than_was_reckoned(made, mix):
    schedule = schedule_of(mix, made.samples.folder)
    bound = largest_bytes(schedule, 0, RULE.image_size)
    held = [
        sum(value.nbytes for value in batch.values() if isinstance(value, torch.Tensor))
        for step in steps(made, schedule)
        for batch in step.batches
    ]
    blank = 3 * RULE.image_size**2 + RULE.side**2 * loader.TOKEN_BYTES
    assert bound / 2 < max(held) <= bound + blank


def test_pictures_are_normalised_at_the_device_as_they_were_before():
    place = Device(torch.device("cpu"), torch.float32, CLIP_MEAN, CLIP_STD)
    every = torch.arange(256, dtype=torch.uint8).repeat(3, 1)[:, :, None]
    exact = (every.double() / 255 - torch.tensor(CLIP_MEAN).double()[:, None, None]) / torch.tensor(CLIP_STD).double()[
        :, None, None
    ]
    assert (place.normalised(every) - exact).abs().max() < 1e-6
    content = picture(3)
    ours = place.normalised(torch.from_numpy(cut(content, RULE, CLIP_MEAN).pixels))
    np.testing.assert_allclose(ours.numpy(), prepare(content, RULE).pixels, atol=1e-6)


def test_what_the_host_reads_stays_on_the_host_and_numbers_stay_numbers(made, mix):
    """`meta` plays the GPU: whatever is moved there can no longer be read."""
    (step, *_) = steps(made, schedule_of(mix, made.samples.folder))
    batch = {**step.batches[0], "image_sizes": torch.tensor([[16, 16]])}
    found = Device(torch.device("meta"), torch.bfloat16, CLIP_MEAN, CLIP_STD).inputs(batch)
    assert found["image_sizes"].device.type == "cpu"
    assert type(found["max_length_q"]) is int
    assert {name for name, value in found.items() if isinstance(value, torch.Tensor) and value.is_meta} == {
        "input_ids",
        "labels",
        "position_ids",
        "cu_seq_lens_q",
        "cu_seq_lens_k",
        "logits_to_keep",
        "shift_labels",
        "pixel_values",
    }
    assert found["pixel_values"].dtype == torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory and a side stream need a GPU")
def test_steps_copied_ahead_are_the_same_steps(made, mix):
    schedule = schedule_of(mix, made.samples.folder)
    place = Device(torch.device("cuda"), torch.float32, CLIP_MEAN, CLIP_STD)
    here = list(steps(made, schedule))
    there = list(place.ahead(steps(made, schedule, workers=1, pin=True)))
    for one, other in zip(here, there, strict=True):
        assert all(batch["input_ids"].is_cuda for batch in other.batches)
        back = [{n: v.cpu() if isinstance(v, torch.Tensor) else v for n, v in b.items()} for b in other.batches]
        equal(one, type(one)(other.number, back, other.keys, other.refused, other.supervised, other.pictures))
