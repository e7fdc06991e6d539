"""Run lmms-eval as a process: command line, log, progress and output."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavabeam.evaluation.lmms.environment import Environment
from schemas.errors import InputError

LOG, RUNS, NOTES = "log.txt", "runs", "pictures.tsv"
_STEP = re.compile(rb"Model Responding: .*?\| *(\d+)/(\d+) \[")
_FAULT = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*")
_SPLIT = ",=\"'{}[]"
"""What lmms-eval's own parser of `key=value,key=value` cuts at."""


@dataclass(frozen=True)
class Model:
    """`kind`: lmms-eval's name of the class that answers; `arguments`: its model_args."""

    kind: str
    arguments: Mapping[str, Any]
    device: str | None = None


@dataclass(frozen=True)
class Work:
    """What lmms-eval is asked to do. `include`: a folder of tasks; `limit`: only so many rows of each."""

    tasks: tuple[str, ...]
    include: Path | None = None
    limit: int | None = None
    max_tokens: int | None = None
    offline: bool = False
    more: Mapping[str, str] = field(default_factory=dict)
    """Variables of its environment."""


def run(environment: Environment, model: Model, work: Work, folder: Path) -> Path:
    """Run it; returns the folder of its results. `folder`/log.txt has all that it said.

    Raises InputError when it ends with an error, or, as it does with exit code 0, without results.
    """
    runs = (folder / RUNS).absolute()
    shutil.rmtree(runs, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NOTES).unlink(missing_ok=True)
    words = [str(environment.python), str(Path(__file__).with_name("launch.py")), str((folder / NOTES).absolute())]
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **work.more}
    if work.offline:
        variables |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str((folder / "datasets").absolute())}
    code = _watched([*words, *_words(model, work, runs)], variables, folder / LOG)
    shutil.rmtree(folder / "datasets", ignore_errors=True)
    if code or not list(runs.rglob("*_results.json")):
        raise InputError(
            f"lmms-eval ended with exit code {code} and {'an error' if code else 'no results'}: {_fault(folder / LOG)} "
            f"(all it said: {folder / LOG})"
        )
    return runs


def joined(arguments: Mapping[str, Any]) -> str:
    """Arguments as `key=value,key=value`. Raises InputError for a value that lmms-eval would cut into several."""
    for key, value in arguments.items():
        if any(letter in str(value) for letter in _SPLIT):
            raise InputError(
                f"{key}: {value} has one of {_SPLIT} in it, at which lmms-eval cuts its arguments. Use a path or a "
                "name without, e.g. by a link."
            )
    return ",".join(f"{key}={value}" for key, value in arguments.items())


def _words(model: Model, work: Work, runs: Path) -> list[str]:
    words = ["--model", model.kind, "--model_args", joined(model.arguments), "--tasks", ",".join(work.tasks)]
    joined({"--output": runs})  # it is joined with others, too
    words += ["--batch_size", "1", "--log_samples", "--output_path", str(runs)]
    for name, value in (
        ("--device", model.device),
        ("--include_path", work.include and work.include.absolute()),
        ("--limit", work.limit),
        ("--gen_kwargs", work.max_tokens and f"max_new_tokens={work.max_tokens}"),
    ):
        words += [] if value is None else [name, str(value)]
    return words


def _watched(words: list[str], variables: Mapping[str, str], log: Path) -> int:
    """Its exit code. On a terminal its progress is shown; it ends when this process does."""
    from tqdm import tqdm

    with (
        log.open("wb") as file,
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(variables)
        ) as process,
        tqdm(unit="question", disable=None) as bar,
    ):
        try:
            assert process.stdout is not None
            while piece := process.stdout.read1(1 << 16):  # type: ignore[attr-defined]
                file.write(piece)
                file.flush()
                if steps := _STEP.findall(piece):
                    done, bar.total = map(int, steps[-1])
                    bar.update(done - bar.n)
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()


def _fault(log: Path) -> str:
    """The last line that names an error, or the last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if _FAULT.match(line)]
    return f"{(named or lines or ['it said nothing'])[-1]:.300}"
