"""How to start the ranks of a checked run elsewhere: one machine, several by hostfile, or a Slurm job."""

from __future__ import annotations

import sys
from pathlib import Path

SLURM = """#!/bin/bash
#SBATCH --job-name=lavabeam
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={processes}
#SBATCH --signal=TERM@120
# Two minutes before the time limit every rank writes a checkpoint and ends; the same job submitted again goes on.
# {folder}/recipe.yaml and inputs.json must exist: `lavabeam train RECIPE --prepare` checks and writes them.
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes={nodes} --nproc-per-node={processes} \\
  --rdzv-backend=c10d --rdzv-endpoint="$MASTER_ADDR:29500" --rdzv-id="$SLURM_JOB_ID" \\
  -m trainer.run {folder}
"""


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
    return SLURM.format(folder=folder, processes=processes, nodes=nodes)
