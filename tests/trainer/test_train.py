"""Whole runs on two CPU ranks: what they write, how they resume, and how they stop."""

import errno
import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file

from schemas.chat import encode, get_template
from schemas.errors import InputError, LavaBeamError
from tests.trainer.conftest import RULE, sample_row, write_mix
from trainer import checkpoint, launch, run
from trainer.metrics.recorder import read_metrics
from trainer.runfolder import checkpoints


def weights(folder):
    return load_file(f"{folder}/model/model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("zero", [2, 3])
def test_a_killed_run_resumes_to_the_very_same_weights(recipe_file, forked, tmp_path, zero):
    """The mix has text-only rows: a rank without a picture must not leave the other waiting."""
    path = recipe_file(deepspeed={"zero": zero}, checkpoints={"every": 2})
    whole = launch.train(path, processes=2, overrides={"output": str(tmp_path / "whole")})
    assert (whole["steps"], whole["reused"]) == (4, False)
    forked["kill_at"] = 3
    with pytest.raises(LavaBeamError):
        launch.train(path, processes=2, overrides={"output": str(tmp_path / "killed")})
    forked["kill_at"] = None
    launch.train(path, processes=2, overrides={"output": str(tmp_path / "killed")})
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    losses = [[line["loss"] for line in read_metrics(tmp_path / n / "metrics.jsonl")] for n in ("whole", "killed")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_sigterm_on_one_rank_ends_all_with_a_checkpoint(recipe_file, forked, tmp_path):
    path = recipe_file(stage="pretrain")
    forked["stop_at"] = 1
    assert launch.train(path, processes=2)["stopped"]
    assert (tmp_path / "run" / "checkpoint-2" / "checkpoint.json").is_file()
    forked["stop_at"] = None
    assert launch.train(path, processes=2)["steps"] == 4
    assert [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4]


def test_the_number_of_ranks_changes_neither_rows_nor_loss(recipe_file, forked, tmp_path):
    path = recipe_file(steps=2)
    for count in (1, 2):
        launch.train(path, processes=count, overrides={"output": str(tmp_path / str(count))})
    losses = [[line["loss"] for line in read_metrics(tmp_path / n / "metrics.jsonl")] for n in ("1", "2")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_run_is_written_down_and_not_repeated(recipe_file, forked, tiny, tmp_path):
    path = recipe_file(stage="pretrain", steps=2)
    first = launch.train(path, processes=1)
    inputs = json.loads((tmp_path / "run" / "inputs.json").read_text())
    assert inputs["mix"]["rows"] == 24
    assert {"torch", "transformers", "deepspeed"} <= inputs["versions"].keys()
    before, after = load_file(tiny / "model" / "model.safetensors"), weights(tmp_path / "run")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("multi_modal_projector.")}
    again = launch.train(path, processes=1)
    assert again["reused"]
    assert again["last_loss"] == first["last_loss"]
    assert forked["started"] == 1
    assert json.loads((tmp_path / "run" / "model" / "lavabeam.json").read_text())["template"] == "mistral"


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_samples(recipe_file, forked, tiny, tmp_path):
    import shutil

    from safetensors.numpy import save_file

    shutil.copytree(tiny / "model", tmp_path / "broken")
    tensors = load_file(tmp_path / "broken" / "model.safetensors")
    tensors["language_model.lm_head.weight"][7] = np.inf
    save_file(tensors, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LavaBeamError) as caught:
        launch.train(recipe_file(model__checkpoint=str(tmp_path / "broken")), processes=1)
    assert "row-" in str(caught.value)
    assert "Nothing was updated" in str(caught.value)


def test_a_bad_row_stops_the_run_unless_it_is_allowed(recipe_file, forked, reader, tmp_path):
    rows = [sample_row(number, reader, "mistral") for number in range(8)]
    rows[5]["images"] = [{"bytes": b"no picture", "path": None}]
    write_mix(tmp_path / "bad", rows, reader)
    path = recipe_file(data__mix=str(tmp_path / "bad"), steps=1)
    with pytest.raises(LavaBeamError, match="row-5"):
        launch.train(path, processes=1)
    result = launch.train(path, processes=1, overrides={"data.max_bad": 1, "output": str(tmp_path / "tolerant")})
    assert result["steps"] == 1
    record = json.loads((tmp_path / "tolerant" / "bad-rows-0.jsonl").read_text())
    assert (record["key"], record["row"]) == ("row-5", 5)


def test_another_recipe_does_not_overwrite_a_run(recipe_file, forked, tmp_path):
    launch.train(recipe_file(steps=1), processes=1)
    with pytest.raises(LavaBeamError, match="another recipe"):
        launch.train(recipe_file(steps=2), processes=1)
    assert launch.train(recipe_file(steps=2), processes=1, replace=True)["steps"] == 2


def test_one_step_learns_whatever_its_warm_up(recipe_file, forked, tmp_path):
    """With a rate of 0 in the only step no weight would change."""
    launch.train(recipe_file(steps=1, optimizer__warmup=0.5), processes=1)
    (line,) = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert set(line["rates"].values()) == {1e-3}


def test_logged_rates_are_those_of_the_step_itself(recipe_file, forked, tmp_path):
    launch.train(recipe_file(steps=4, optimizer__warmup=0.5, optimizer__schedule="linear"), processes=1)
    lines = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [next(iter(line["rates"].values())) for line in lines]
    assert rates == pytest.approx([0, 0.5e-3, 1e-3, 0.5e-3])


def test_a_module_without_a_gradient_ends_the_run(recipe_file, forked, tmp_path):
    """As after a mistake in a model's code: the loss falls, and the projector stays as it was."""
    forked["observe"] = cut_off_the_projector
    with pytest.raises(LavaBeamError, match="the gradient of the projector was 0 in the last 3 steps"):
        launch.train(recipe_file(steps=3), processes=2)
    assert not (tmp_path / "run" / "result.json").exists()


def cut_off_the_projector(loop, step):
    if step.number == 0:
        loop.engine.model.model.multi_modal_projector.register_forward_hook(lambda module, given, made: made * 0)


def test_a_mix_without_pictures_is_said_or_refused(recipe_file, forked, reader, tmp_path, capsys):
    write_mix(tmp_path / "text", [sample_row(number, reader, "mistral", images=0) for number in range(8)], reader)
    blind = {"data__mix": str(tmp_path / "text"), "steps": 1}
    with pytest.raises(InputError, match="none of its rows has a picture, and only the projector would be trained"):
        launch.train(recipe_file(stage="pretrain", **blind), processes=1)
    path = recipe_file(stage="finetune", **blind)
    assert "the projector will not change" in launch.train(path, processes=1, dry_run=True)["notes"][0]
    assert launch.train(path, processes=1)["steps"] == 1
    assert "finetune: none of the mix's rows has a picture: the projector will not change." in capsys.readouterr().err


def test_rows_that_a_cut_leaves_nothing_of_do_not_end_the_run(recipe_file, forked, reader, tmp_path):
    """As in the original, they teach nothing; a mix of which nothing is left is refused."""
    rows = [sample_row(number, reader, "mistral") for number in range(4)]
    long = sample_row(9, reader, "mistral")
    long["messages"][0]["content"][-1]["text"] = "is it red? " * 20
    encoded = encode(long["messages"], [(16, 16)], get_template("mistral"), reader, RULE)
    rows += [{**long, "key": f"long-{number}", "tokens": encoded.tokens} for number in range(4)]
    write_mix(tmp_path / "long", rows, reader)
    limit = max(row["tokens"] for row in rows[:4])
    given = {"data__mix": str(tmp_path / "long"), "data__too_long": "cut", "data__max_length": limit, "steps": 4}
    path = recipe_file(plan__global_batch=2, plan__strategy="length_window", **given)
    (note,) = launch.train(path, processes=1, dry_run=True)["notes"]
    assert note == f"4 of 8 rows are cut to {limit} tokens, and 4 of these keep nothing to learn from"
    assert launch.train(path, processes=1)["steps"] == 4
    assert not list((tmp_path / "run").glob("bad-rows-*"))
    with pytest.raises(InputError, match="none of its 8 rows keeps a supervised token"):
        launch.train(recipe_file(data__max_length=5, output=str(tmp_path / "other")), processes=1)


@pytest.mark.parametrize("name", ["notes.txt", "other-run", "model"])
def test_only_a_runs_own_files_are_ever_replaced(recipe_file, forked, tmp_path, name):
    """`output` may be a folder that holds runs, or a home folder."""
    launch.train(recipe_file(steps=1), processes=1)
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    place = tmp_path / "run" if name != "model" else tmp_path / "models"
    (place / name).mkdir(parents=True)
    (place / name / "result.json").write_text("{}")
    for replace in (False, True):
        with pytest.raises(LavaBeamError, match=f"holds {name}, which no run wrote"):
            launch.train(recipe_file(steps=2, output=str(place)), processes=1, replace=replace)
    assert (place / name / "result.json").read_text() == "{}"
    same = recipe_file(steps=1, output=str(tmp_path / "run"))
    assert launch.train(same, processes=1)["reused"]  # a run is not disturbed by what was put beside its files
    assert set(before) <= {path.name for path in (tmp_path / "run").iterdir()}


def test_the_launcher_starts_ranks_passes_on_their_error_and_leaves_none(recipe_file, tiny, reader, tmp_path):
    rows = [sample_row(number, reader, "mistral", images=1) for number in range(8)]
    for row in rows:
        row["images"] = [{"bytes": b"no picture", "path": None}]
    write_mix(tmp_path / "bad", rows, reader)
    path = recipe_file(data__mix=str(tmp_path / "bad"), data__max_bad=7, steps=1)
    with pytest.raises(LavaBeamError, match=r"8 bad rows, 7 allowed .* key 'row-\d'"):  # no rank has seen all of them
        launch.train(path, processes=2)
    assert not multiprocessing.active_children()


def test_a_full_disk_ends_the_run_with_the_checkpoint_before(recipe_file, forked, tmp_path):
    path = recipe_file(checkpoints={"every": 1})

    def fill(loop, step):
        if step.number == 2:
            checkpoint.write_tensors = full_disk

    forked["observe"] = fill
    with pytest.raises(LavaBeamError, match=r"No space left on device\. Free some space"):
        launch.train(path, processes=1)
    assert [found.name for found in checkpoints(tmp_path / "run")] == ["checkpoint-2"]
    forked["observe"] = None
    assert launch.train(path, processes=1)["steps"] == 4


def full_disk(path, tensors, metadata):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_a_finished_run_is_not_trained_again_by_another_launcher(recipe_file, forked, tmp_path, capsys):
    launch.train(recipe_file(steps=1), processes=1)
    before = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert run.main(tmp_path / "run") == 0
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), handlers, strict=True):
        signal.signal(number, handler)
    assert "nothing to do" in capsys.readouterr().err
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == before


def test_a_folder_that_was_not_prepared_is_refused(tmp_path, capsys):
    assert run.main(tmp_path) == 2
    assert "--prepare" in capsys.readouterr().err
