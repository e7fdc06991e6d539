"""kill -9 while a checkpoint is being written, on two ranks of ZeRO-3: only whole checkpoints are ever read."""

import os
import shutil
import signal

import numpy as np
import pytest

from schemas.errors import LavaBeamError
from tests.trainer.engines.test_resume_world import state_of
from trainer import checkpoint, launch
from trainer.metrics.recorder import read_metrics
from trainer.runfolder import checkpoints, newest_checkpoint, read_mark


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def half_a_file(path, tensors, metadata):
    """Rank 1 has written half of what it holds."""
    whole(path, tensors, metadata)
    if path.name.startswith("rank-1"):
        os.truncate(path, path.stat().st_size // 2)
        die()


def no_commit(*_):
    """All files are there but the last one."""
    die()


def half_removed(folder, **settings):
    """The new checkpoint is whole, and of the older one a file is gone."""
    if folder.name != "checkpoint-1":
        return remove(folder, **settings)
    next(path for path in folder.iterdir() if path.suffix == ".safetensors").unlink()
    die()


whole, remove = checkpoint.write_tensors, shutil.rmtree
MOMENTS = {
    "in a rank's file": (checkpoint, "write_tensors", half_a_file, "checkpoint-1"),
    "before the last file": (checkpoint, "commit", no_commit, "checkpoint-1"),
    "while the older one goes": (shutil, "rmtree", half_removed, "checkpoint-2"),
}
"""What is replaced while the second checkpoint is written, and which one a run resumes from."""


def test_the_last_whole_checkpoint_is_used_and_half_a_one_never(recipe_file, forked, tmp_path, capfd):
    path = recipe_file(stage="pretrain", deepspeed={"zero": 3}, checkpoints={"every": 1, "keep": 1}, steps=3)
    launch.train(path, processes=2, overrides={"output": str(tmp_path / "calm")})
    folder = tmp_path / "run"
    for target, name, replacement, left in MOMENTS.values():

        def fail(loop, step, target=target, name=name, replacement=replacement):
            if step.number == 1:
                setattr(target, name, replacement)

        forked["observe"] = fail
        with pytest.raises(LavaBeamError):
            launch.train(path, processes=2)
        assert (folder / "checkpoint-2").is_dir()
        assert newest_checkpoint(folder, read_mark(folder)) == folder / left
        assert [found.name for found in checkpoints(folder)] == [left]
    forked["observe"] = None
    launch.train(path, processes=2)
    printed = capfd.readouterr().err
    assert f"{folder / 'checkpoint-2'}: incomplete, not used." in printed
    assert f"{folder}: resuming from checkpoint-2." in printed
    assert [found.name for found in folder.glob("checkpoint-*")] == ["checkpoint-3"]
    calm, killed = state_of(tmp_path / "calm" / "checkpoint-3"), state_of(folder / "checkpoint-3")
    assert all(np.array_equal(calm[name], killed[name]) for name in calm | killed)
    losses = [
        [line["loss"] for line in read_metrics(target / "metrics.jsonl")] for target in (tmp_path / "calm", folder)
    ]
    assert losses[0] == losses[1]
