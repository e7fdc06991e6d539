"""How to start the ranks of a prepared run elsewhere: on one machine, on several by hostfile, or as a Slurm job."""

from __future__ import annotations

import shlex
from pathlib import Path

SLURM = """#!/bin/bash
#SBATCH --job-name=lavabeam
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={processes}
#SBATCH --gpus-per-node={processes}
#SBATCH --signal=TERM@{grace}
# Your cluster's partition, account, --time and --cpus-per-task: here, or on sbatch's command line.
# {grace} seconds before the time limit every rank writes a checkpoint and exits. Submit the same job again to continue,
# also with other numbers of nodes and tasks. All nodes must see the folder (with its recipe.yaml and inputs.json).
export RUN_FOLDER={folder}
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000)) # a port per job: nodes may be shared
export MASTER_ADDR MASTER_PORT
# Ranks are Slurm's own tasks: torchrun would end them 30 seconds after the signal, checkpoint or not.
srun --kill-on-bad-exit=1 bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS \\
  LOCAL_WORLD_SIZE={processes} exec python -P -m trainer.run "$RUN_FOLDER"'
"""
SAFE = "PYTHONSAFEPATH=1"
"""For Python: import nothing from the current folder, which may hold a `trainer` of the user's own."""

PORT = 29500
GRACE_SECONDS = 300
"""From Slurm's signal to its time limit: enough for a step and a checkpoint of a large model."""


def launcher_lines(folder: Path, processes: int, nodes: int = 1) -> dict[str, str]:
    """Command lines, by launcher, that run a prepared run folder on `nodes` machines of `processes` GPUs each.

    Run torchrun's on every machine, the others once.
    """
    rank = f"trainer.run {shlex.quote(str(folder))}"
    slurm = f"sbatch {shlex.quote(f'{folder}/job.slurm')}"
    if nodes > 1:
        meet = f"--nnodes={nodes} --rdzv-backend=c10d --rdzv-endpoint=FIRST_HOST:{PORT}"
        machines = f"--hostfile=HOSTFILE --num_nodes={nodes} --num_gpus={processes}"
        return {
            "torchrun": f"{SAFE} torchrun {meet} --nproc-per-node={processes} -m {rank}",
            "deepspeed": f"{SAFE} deepspeed {machines} --module {rank}",
            "slurm": slurm,
        }
    return {
        "torchrun": f"{SAFE} torchrun --nproc-per-node={processes} -m {rank}",
        "deepspeed": f"{SAFE} deepspeed --num_gpus={processes} --module {rank}",
        "slurm": slurm,
    }


def slurm_script(folder: Path, processes: int, nodes: int) -> str:
    """A job script for `sbatch`: `nodes` machines of `processes` GPUs."""
    return SLURM.format(folder=shlex.quote(str(folder)), processes=processes, nodes=nodes, grace=GRACE_SECONDS)
