"""LavaBeam: the command line, the demo and the published recipes, on top of pipelines, trainer and schemas.

from lavabeam import load
load("runs/my-llava/model").ask("What is this?", "picture.jpg")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lavabeam.model import load as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load` is imported when it is used: the command line imports this package and needs no torch."""
    if name == "load":
        from lavabeam.model import load

        return load
    raise AttributeError(f"module 'lavabeam' has no attribute {name!r}")
