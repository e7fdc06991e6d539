"""The launcher and its ranks' signals, with ranks that are small scripts."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from schemas.errors import InputError
from trainer import launch, run
from trainer.launchers import slurm_script
from trainer.runfolder import alone, checkpoints

RANK = """#!{python}
import os, pathlib, signal, sys, time
folder, rank = pathlib.Path(sys.argv[-1]), os.environ["RANK"]

def stop(*_):
    (folder / f"stopped-{{rank}}").touch()
    os._exit(0)

signal.signal(signal.SIGTERM, stop)
(folder / f"ready-{{rank}}").touch()
time.sleep(60)
"""


@pytest.mark.parametrize("arguments", [["work/run"], ["--local_rank=1", "work/run"], ["--follow-stdin", "work/run"]])
def test_a_rank_finds_its_folder_under_every_launcher(arguments):
    """torchrun and our own launcher give the folder alone, deepspeed's its option first."""
    assert run.run_folder(arguments) == Path("work/run")


def test_more_ranks_than_gpus_are_refused(recipe_file, monkeypatch):
    monkeypatch.setattr(launch, "_has_gpu", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(InputError, match="has 2 GPUs"):
        launch.train(recipe_file(), processes=4)


LATE = """
import time
from trainer.following import follow_launcher

follow_launcher(["--follow-stdin"])
time.sleep(60)
"""


def test_a_rank_ends_with_a_launcher_that_was_killed_before_the_rank_had_loaded():
    """It would otherwise train on alone, beside the run that is started next."""
    rank = subprocess.Popen([sys.executable, "-c", LATE], stdin=subprocess.PIPE)
    rank.stdin.close()  # as when the process that holds it is killed
    assert rank.wait(30) == 1


TOOLS = {
    "scontrol": "echo node-a; echo node-b",
    "srun": """shift
for task in 0 1 2 3; do
  SLURM_PROCID=$task SLURM_LOCALID=$((task % 2)) SLURM_NTASKS=4 "$@"
done""",
    "python": 'echo "$RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $MASTER_ADDR:$MASTER_PORT|$*" >> "$CALLS"',
}
"""Stand-ins for Slurm's commands, and for a rank."""

SLURM = {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_ID": "1007345"}


def test_a_second_run_in_a_folder_waits_for_nobody_and_says_so(recipe_file, tmp_path):
    with alone(tmp_path / "run"), pytest.raises(InputError, match="another `lavabeam train` is running here"):
        launch.train(recipe_file(steps=1))
    assert not (tmp_path / "run" / "inputs.json").exists()
    with alone(tmp_path / "run"):
        pass


def test_the_slurm_script_starts_each_task_as_a_rank(tmp_path):
    (tmp_path / "bin").mkdir()
    for name, body in TOOLS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    script = tmp_path / "job.slurm"
    script.write_text(slurm_script(Path("a run/folder"), processes=2, nodes=2))
    calls = tmp_path / "calls"
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CALLS": str(calls)}
    subprocess.run(["bash", str(script)], env={**environment, **SLURM}, check=True)
    ranks = ["0/4 0/2", "1/4 1/2", "2/4 0/2", "3/4 1/2"]
    assert calls.read_text().splitlines() == [f"{rank} node-a:17345|-P -m trainer.run a run/folder" for rank in ranks]
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=2", "#SBATCH --gpus-per-node=2"} <= set(
        script.read_text().splitlines()
    )


def test_ctrl_c_which_a_terminal_sends_to_every_rank_ends_them_with_a_checkpoint(recipe_file, forked, tmp_path):
    forked["observe"] = lambda trainer, step: os.kill(os.getpid(), signal.SIGINT) if step.number == 1 else None
    assert launch.train(recipe_file(stage="pretrain"), processes=2)["stopped"]
    assert [found.name for found in checkpoints(tmp_path / "run")] == ["checkpoint-2"]


def test_a_stop_before_the_ranks_listen_is_no_failure(tmp_path, monkeypatch):
    """One that dies of the signal while another waits for it: both end."""
    script = tmp_path / "rank"
    script.write_text(RANK.format(python=sys.executable).replace("stop)", "signal.SIG_DFL if rank == '0' else stop)"))
    script.chmod(0o755)
    monkeypatch.setattr(launch.sys, "executable", str(script))
    stop_when_ready(tmp_path)
    launch.start_ranks(tmp_path, 2)


def stop_when_ready(folder):
    """SIGTERM to this process as soon as both ranks are there."""

    def stop():
        while len(list(folder.glob("ready-*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()


def test_sigterm_reaches_every_rank_and_is_no_failure(tmp_path, monkeypatch):
    script = tmp_path / "rank"
    script.write_text(RANK.format(python=sys.executable))
    script.chmod(0o755)
    monkeypatch.setattr(launch.sys, "executable", str(script))
    before = signal.getsignal(signal.SIGTERM)
    stop_when_ready(tmp_path)
    launch.start_ranks(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.glob("stopped-*")) == ["stopped-0", "stopped-1"]
    assert signal.getsignal(signal.SIGTERM) == before
