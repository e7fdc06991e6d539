"""Worker requirements of steps with local models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.engine.step import Needs

GPU = "type:nvidia-l4;count:1;install-nvidia-driver"
"""What `device: cuda` asks a cluster for, in Beam's words: 24 GB."""


def model_needs(paths: Sequence[str], device: str | None) -> Needs:
    """One process with threads, because a model uses all cores or the GPU by itself; its memory, files and GPU.

    Memory is that of the weights twice, once in the file and once in use.
    """
    files = [file for path in paths for file in [Path(path), *Path(path).rglob("*")] if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    wanted = {None: "optional", "cuda": GPU}.get(device and device.partition(":")[0], "")
    return Needs(
        threads=True,
        memory_gb=round(2 + 2 * size / 2**30, 1),
        accelerator=wanted,
        model_files=tuple(dict.fromkeys(paths)),
    )
