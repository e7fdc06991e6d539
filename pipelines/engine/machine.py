"""Local resources: how many workers fit into this machine's memory and onto its GPUs."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from pipelines.engine.step import Needs
from schemas.errors import InputError

_GIB = 1 << 30


def fitting(name: str, needs: Needs, workers: int, processes: bool) -> int:
    """How many of `workers` may work on step `name` at a time; says so on stderr when they are fewer.

    `processes`: each worker takes what the step needs for itself; otherwise all share one process.
    Raises InputError for a step that needs a GPU where there is none, or a file that is not there.
    """
    missing = [path for path in needs.model_files if not Path(path).exists()]
    if missing:
        raise InputError(
            f"{name}: {', '.join(missing)}: no such file or folder, but every worker needs it. Correct the path in "
            f"the step's options, or create the file."
        )
    cards = gpus() if needs.accelerator else []
    if needs.accelerator not in ("", "optional") and not cards:
        raise InputError(
            f"{name}: its options ask for a GPU ({needs.accelerator}), but this machine has none. Choose another "
            "device in its options (device: cpu), or run it with --runner dataflow."
        )
    if not processes:
        return workers
    fits, why = workers, ""
    if cards and len(cards) < fits:
        fits, why = len(cards), f"one per GPU, and there {_are(len(cards))}"
    if needs.memory_gb:
        free = available_memory() / _GIB
        if (room := max(1, int(free / needs.memory_gb))) < fits:
            fits, why = room, f"each needs {needs.memory_gb:g} GiB of memory, and {free:.1f} GiB are free"
    if fits < workers:
        number = "1 worker" if fits == 1 else f"{fits} workers"
        print(f"{name}: {number} at a time instead of {workers}: {why}.", file=sys.stderr, flush=True)
    return fits


def gpus() -> list[str]:
    """The GPUs that CUDA shows to this process, as CUDA_VISIBLE_DEVICES names them."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return [name.strip() for name in shown.split(",") if name.strip() not in ("", "-1")]
    devices = Path("/dev").glob("nvidia*")
    return sorted((one[1] for path in devices if (one := re.fullmatch(r"nvidia(\d+)", path.name))), key=int)


def available_memory() -> int:
    """Bytes that new processes can take: the system's estimate, or what is left of this container's limit."""
    free = [_available(), _left_in_group("memory.max", "memory.current", Path("/sys/fs/cgroup"))]
    free.append(_left_in_group("memory.limit_in_bytes", "memory.usage_in_bytes", Path("/sys/fs/cgroup/memory")))
    return min(size for size in free if size is not None)


def _available() -> int:
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    except OSError:  # not Linux
        found = None
    return int(found[1]) * 1024 if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_in_group(limit: str, used: str, folder: Path) -> int | None:
    """None without a limit. What the group's files hold in the page cache counts as free: the kernel drops it."""
    try:
        most, taken = (folder / limit).read_text().strip(), int((folder / used).read_text())
        cached = re.search(r"^(?:total_)?inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return None
    if not most.isdigit():
        return None
    return max(0, int(most) - taken + (int(cached[1]) if cached else 0))


def _are(number: int) -> str:
    return "is 1" if number == 1 else f"are {number}"
