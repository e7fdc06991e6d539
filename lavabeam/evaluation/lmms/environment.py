"""Find the Python with lmms-eval and check it before anything is prepared."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import InputError

FOLDER = ".venv-lmms-eval"
VERSION = "0.7.3"
"""What the reading of samples is tested with; Makefile installs it."""
_MAKE = "Run `make lmms-eval` in LavaBeam's folder, or name a Python that has lmms-eval with --lmms-python PATH."
_PROBE = (
    "import json, importlib.metadata as m; version = m.version('lmms-eval'); "
    "import torch, decord, lmms_eval.evaluator; from transformers import LlavaForConditionalGeneration; "
    "print(json.dumps([version, torch.cuda.is_available()]))"
)
"""Also imports what fails late in a run: decord, and LLaVA's class beside a torchvision that does not fit."""


@dataclass(frozen=True)
class Environment:
    """`python`: the interpreter with lmms-eval. `device`: `cuda` or `cpu`, as its torch has it."""

    python: Path
    version: str
    device: str


def find_python(given: Path | None) -> Path:
    """`given`, or the environment of `make lmms-eval` in the current folder or beside the sources. Raises InputError
    saying what to do when there is none."""
    if given is not None:
        if not given.is_file():
            raise InputError(f"{given}: no such file, expected a Python interpreter with lmms-eval. {_MAKE}")
        return given.absolute()  # not resolved: the link is what makes it the environment's Python
    places = dict.fromkeys((Path.cwd() / FOLDER, Path(__file__).absolute().parents[3] / FOLDER))
    for place in places:
        if (place / "installed").is_file():
            return place / "bin" / "python"
    raise InputError(f"--via lmms-eval: there is no finished {' or '.join(map(str, places))}. {_MAKE}")


def open_environment(given: Path | None) -> Environment:
    """Raises InputError when lmms-eval, or what it needs to load a LLaVA, cannot be imported there. Takes seconds."""
    python = find_python(given)
    try:
        words = [str(python), "-c", _PROBE]
        asked = subprocess.run(words, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise InputError(f"{python}: cannot be run ({error.strerror}). {_MAKE}") from error
    lines = asked.stdout.strip().splitlines()
    if asked.returncode or not lines:
        said = (asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"])[-1]
        hint = " Remove torchvision there: a build for CUDA cannot be used beside torch for the CPU."
        hint *= "torchvision" in said
        raise InputError(f"{python}: lmms-eval cannot be imported ({said:.200}).{hint} {_MAKE}")
    version, cuda = json.loads(lines[-1])
    return Environment(python, version, "cuda" if cuda else "cpu")
