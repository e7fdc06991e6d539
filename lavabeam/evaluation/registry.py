"""The benchmarks by name, including entry points of `lavabeam.benchmarks` in installed packages."""

from __future__ import annotations

import importlib
import importlib.metadata
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING

from schemas.errors import InputError

if TYPE_CHECKING:
    from lavabeam.evaluation.benchmarks.base import Benchmark

GROUP = "lavabeam.benchmarks"
_ROOM = "lavabeam.evaluation.benchmarks"
OURS = {
    "vqav2": f"{_ROOM}.vqav2:Vqav2",
    "gqa": f"{_ROOM}.gqa:Gqa",
    "vizwiz": f"{_ROOM}.vizwiz:Vizwiz",
    "scienceqa": f"{_ROOM}.scienceqa:Scienceqa",
    "textvqa": f"{_ROOM}.textvqa:Textvqa",
    "pope": f"{_ROOM}.pope:Pope",
    "mme": f"{_ROOM}.mme:Mme",
    "mmbench": f"{_ROOM}.mmbench:Mmbench",
    "mmbench-cn": f"{_ROOM}.mmbench:MmbenchCn",
    "seedbench": f"{_ROOM}.seedbench:Seedbench",
    "llava-bench": f"{_ROOM}.llava_bench:LlavaBench",
    "mm-vet": f"{_ROOM}.mmvet:Mmvet",
    "easy-vqa": f"{_ROOM}.easy_vqa:EasyVqa",
    "custom": "lavabeam.evaluation.custom.benchmark:Custom",
}


@cache
def locations() -> dict[str, str]:
    """`module:attribute` of each benchmark by name; ours come first."""
    others = {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)}
    return OURS | {name: value for name, value in others.items() if name not in OURS}


def open_benchmark(name: str) -> Benchmark:
    """The benchmark of that name. Raises InputError for an unknown one, and for a package that cannot be imported."""
    location = locations().get(name)
    if location is None:
        near = get_close_matches(name, locations(), 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"{name!r} is no benchmark.{hint} There are {', '.join(locations())}.")
    module, _, attribute = location.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError) as error:
        raise InputError(f"benchmark {name}: {location} cannot be loaded ({error}).") from error
