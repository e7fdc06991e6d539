"""How to start the ranks of a checked run elsewhere: one machine, several by hostfile, or a Slurm job."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

SLURM = """#!/bin/bash
#SBATCH --job-name=lavabeam
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={processes}
#SBATCH --gpus-per-node={processes}
#SBATCH --signal=TERM@{grace}
# {grace} seconds before the time limit every rank writes a checkpoint and ends. The same job submitted again goes on,
# also with other numbers of nodes and tasks. All nodes must see the folder (with its recipe.yaml and inputs.json).
export RUN_FOLDER={folder}
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) MASTER_PORT=29500
# Ranks are Slurm's own tasks: torchrun would end them 30 seconds after the signal, checkpoint or not.
srun --kill-on-bad-exit=1 bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS \\
  LOCAL_WORLD_SIZE={processes} exec python -m trainer.run "$RUN_FOLDER"'
"""
GRACE_SECONDS = 300
"""Between Slurm's signal and its time limit: a step, and a checkpoint of a large model."""


def launcher_lines(folder: Path, processes: int, nodes: int = 1) -> dict[str, str]:
    """Command lines, by launcher, that run the folder's recipe on `nodes` machines of `processes` GPUs each."""
    python = Path(sys.executable).name
    return {
        "torchrun": f"torchrun --nproc-per-node={processes} -m trainer.run {folder}",
        "deepspeed": f"deepspeed --num_gpus={processes} --module trainer.run {folder}",
        "hostfile": f"deepspeed --hostfile=HOSTFILE --module trainer.run {folder}",
        "one process": f"{python} -m trainer.run {folder}",
        "slurm": f"sbatch {folder}/job.slurm",
    }


def slurm_script(folder: Path, processes: int, nodes: int) -> str:
    """A job script for `sbatch`: `nodes` machines of `processes` GPUs."""
    return SLURM.format(folder=shlex.quote(str(folder)), processes=processes, nodes=nodes, grace=GRACE_SECONDS)
