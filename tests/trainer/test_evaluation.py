"""Evaluating while training: held-out rows, the exact mean over tokens, the best checkpoint, exact resume."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from schemas.dataset import Dataset
from schemas.errors import InputError, LavaBeamError
from tests.trainer.conftest import sample_row, write_mix
from trainer import launch
from trainer.config import load_recipe
from trainer.evaluation import TOKENS, batched
from trainer.inputs.heldout import evaluated, held_out, places
from trainer.metrics.recorder import read_metrics
from trainer.preflight import check
from trainer.runfolder import run_fingerprint

SPLIT = {"every": 2, "split": 0.3}
ENGINES = [{"deepspeed.zero": 2}, {"deepspeed.zero": 3}, {"engine": "fsdp2"}]


def names(setting):
    return "-".join(str(value) for value in setting.values())


def train(path, output, processes=2, **overrides):
    result = launch.train(path, processes=processes, overrides={"output": str(output), **overrides})
    return result, read_metrics(output / "metrics.jsonl"), read_metrics(output / "metrics.jsonl", of="eval_loss")


def keep_keys(loop, step):
    with (loop.folder / "keys.txt").open("a") as file:
        file.write("".join(f"{key}\n" for keys in step.keys for key in keys))


def keys_of(mix, rows):
    return {row["key"] for row in Dataset.open(mix).take(rows.tolist(), ["key"])}


def test_held_out_rows_are_never_trained_on_and_stay_held_out_in_a_larger_mix(
    recipe_file, forked, mix, tiny, reader, tmp_path
):
    forked["observe"] = keep_keys
    train(recipe_file(evaluate=SPLIT, epochs=2, steps=None), tmp_path / "run")
    opened = Dataset.open(mix)
    held = keys_of(mix, np.flatnonzero(held_out(opened, 0.3)))
    trained = set((tmp_path / "run" / "keys.txt").read_text().split())
    assert 0 < len(held) < 24
    assert trained == {f"row-{number}" for number in range(24)} - held
    write_mix(tmp_path / "more", [sample_row(number, reader, "mistral") for number in reversed(range(60))], reader)
    more = Dataset.open(tmp_path / "more")
    again = keys_of(tmp_path / "more", np.flatnonzero(held_out(more, 0.3)))
    assert held == again & {f"row-{number}" for number in range(24)}
    assert keys_of(tmp_path / "more", evaluated(more, 0.3, 5)) == {
        row["key"] for row in more.take(np.argsort(places(more))[:5].tolist(), ["key"])
    }


def loss_by_hand(model, mix, rows):
    """The mean over tokens, a row at a time, through transformers alone."""
    from trainer.inputs.collate import Collator
    from trainer.inputs.data import Samples
    from trainer.inputs.device import Device
    from trainer.models.folder import ModelFolder
    from trainer.models.opening import from_folder

    folder = ModelFolder.open(model)
    opened = Dataset.open(mix)
    samples = Samples(opened, folder, max_length=128)
    loaded = from_folder(folder, dtype=torch.float32).eval()
    collate = Collator(folder.rule, folder.image_id, folder.tokenizer.pad_id)
    place = Device(torch.device("cpu"), torch.float32, folder.mean, folder.std)
    total = tokens = 0
    for row in rows.tolist():
        batch = collate(samples.items([row]))
        labels = batch.pop("shift_labels"), batch.pop("logits_to_keep"), batch.pop("labels")
        with torch.no_grad():
            logits = loaded(**place.inputs(batch)).logits[:, :-1].float()
        targets = labels[2][:, 1:]
        total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"))
        tokens += int((targets != -100).sum())
    return total / tokens


@pytest.mark.parametrize("setting", ENGINES, ids=names)
def test_its_loss_is_the_mean_over_tokens_and_training_does_not_notice(recipe_file, forked, mix, tmp_path, setting):
    """One held-out row more than ranks can share evenly; the same losses as of a run that looks only at the end."""
    path = recipe_file(evaluate={**SPLIT, "rows": 3})
    result, losses, found = train(path, tmp_path / "run", **setting)
    expected = loss_by_hand(tmp_path / "run" / "model", mix, evaluated(Dataset.open(mix), 0.3, 3))
    assert found[-1]["eval_loss"] == pytest.approx(expected, abs=1e-6)
    assert [line["step"] for line in found] == [2, 4]
    assert result["evaluated_rows"] == 3
    _, without, end = train(path, tmp_path / "end", **{**setting, "evaluate.every": 4})
    assert [line["loss"] for line in losses] == [line["loss"] for line in without]
    assert end[-1]["eval_loss"] == found[-1]["eval_loss"]


def test_it_is_the_same_for_any_number_of_ranks_and_another_mix_has_a_loss_of_its_own(
    recipe_file, forked, tiny, reader, tmp_path
):
    write_mix(tmp_path / "other", [sample_row(number, reader, "mistral") for number in range(40, 45)], reader)
    path = recipe_file(evaluate={"every": 2, "mix": str(tmp_path / "other")})
    found = [train(path, tmp_path / str(count), count)[2] for count in (1, 2)]
    assert [line["eval_loss"] for line in found[0]] == pytest.approx([line["eval_loss"] for line in found[1]], abs=1e-6)
    assert found[0][-1]["eval_loss"] == pytest.approx(
        loss_by_hand(tmp_path / "1" / "model", tmp_path / "other", np.arange(5)), abs=1e-6
    )


def worsen(loop, step):
    """Weights get worse from step 3 on: a rate that ruins them."""
    if step.number == 3:
        for group in loop.engine.optimizer.param_groups:
            group["weight_decay"] = 900.0


def test_the_best_checkpoint_outlives_newer_ones_and_a_killed_run_finds_it_again(recipe_file, forked, tmp_path):
    path = recipe_file(steps=6, evaluate={"every": 1, "split": 0.3}, checkpoints={"every": 1, "keep": 1})
    forked["observe"] = worsen
    result, _, found = train(path, tmp_path / "run")
    best = min(found, key=lambda line: line["eval_loss"])
    assert best["step"] < 5
    assert result["best"] == {**best, "path": f"checkpoint-{best['step']}"}
    assert sorted(one.name for one in (tmp_path / "run").glob("checkpoint-*")) == [
        f"checkpoint-{best['step']}",
        "checkpoint-6",
    ]
    forked["kill_at"] = 5
    with pytest.raises(LavaBeamError):
        train(path, tmp_path / "killed")
    forked["kill_at"] = None
    forked["observe"] = None
    resumed, _, lines = train(path, tmp_path / "killed")
    assert resumed["best"] == result["best"]
    assert lines[:5] == found[:5]


def test_the_best_at_the_end_is_the_finished_model(recipe_file, forked, tmp_path):
    result, _, found = train(recipe_file(evaluate={"every": 4, "split": 0.3}), tmp_path / "run", 1)
    assert result["best"] == {"step": 4, "eval_loss": found[-1]["eval_loss"], "path": "model"}
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_bad_row_in_it_stops_the_run_unless_allowed(recipe_file, forked, reader, tmp_path):
    rows = [sample_row(number, reader, "mistral") for number in range(40, 45)]
    rows[2]["images"] = [{"bytes": b"no picture", "path": None}]
    write_mix(tmp_path / "other", rows, reader)
    path = recipe_file(evaluate={"every": 2, "mix": str(tmp_path / "other")})
    with pytest.raises(LavaBeamError, match=r"1 bad rows, 0 allowed.*row-42"):
        train(path, tmp_path / "run")
    _, _, found = train(path, tmp_path / "allowed", **{"data.max_bad": 1})
    assert len(found) == 2
    (line,) = {
        text
        for rank in (0, 1)
        if (one := tmp_path / "allowed" / f"bad-rows-{rank}.jsonl").is_file()
        for text in one.read_text().splitlines()
    }
    assert json.loads(line)["key"] == "row-42"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 5, "split": 0.3}, "evaluate.every is 5, and the run has 4 steps"),
        ({"every": 1, "split": 1e-9}, "holds out none of its 24 rows"),
        ({"every": 1, "split": 1.0}, "less than 1"),
        ({"every": 1}, "give either `split`"),
        ({"every": 1, "split": 0.5, "mix": "x"}, "give either `split`"),
        ({"every": 1, "split": 0.999999}, "rows"),
    ],
)
def test_what_would_evaluate_nothing_is_refused(recipe_file, settings, message):
    with pytest.raises(InputError, match=message):
        check(load_recipe(recipe_file(evaluate=settings)), 1)


def test_another_mix_has_to_be_another_and_alike(recipe_file, mix, reader, tmp_path):
    with pytest.raises(InputError, match="is what is trained on"):
        check(load_recipe(recipe_file(evaluate={"every": 1, "mix": str(mix)})), 1)
    write_mix(tmp_path / "plain", [sample_row(40, reader, "v1")], reader, template="v1")
    with pytest.raises(InputError, match=r"made with template v1, but .* with mistral"):
        check(load_recipe(recipe_file(evaluate={"every": 1, "mix": str(tmp_path / "plain")})), 1)


def test_only_what_is_held_out_makes_another_run(recipe_file):
    def mark(**settings):
        return run_fingerprint(check(load_recipe(recipe_file(**settings)), 1))

    plain = mark()
    assert mark(evaluate={"every": 2, "split": 0.3}) != plain
    assert mark(evaluate={"every": 1, "split": 0.3, "rows": 2}) == mark(evaluate={"every": 2, "split": 0.3})


@given(st.lists(st.integers(1, 3 * TOKENS), max_size=40))
def test_batches_hold_every_row_once_within_their_tokens(lengths):
    lengths = np.array(lengths, np.int64)
    rows = np.arange(100, 100 + len(lengths))
    batches = batched(rows, lengths)
    assert sorted(row for batch in batches for row in batch) == rows.tolist()
    assert all(len(batch) == 1 or len(batch) * lengths[batch - 100].max() <= TOKENS for batch in batches)
