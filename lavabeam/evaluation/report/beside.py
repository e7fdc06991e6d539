"""Runs and evaluations for `lavabeam report`: loss curves next to scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lavabeam.evaluation.layouts import json_object
from lavabeam.evaluation.run import SCORES
from schemas.errors import InputError

_INPUTS, _RESULT = "inputs.json", "result.json"


def trained_and_evaluated(runs: Sequence[Path], evaluations: Sequence[Path]) -> dict[str, Any]:
    """What `pipelines.report.write_report` takes as `training`: a stage per run folder, and the scores of evaluations.

    A run that is still going has its curve and no figures. Raises InputError for a folder that is neither.
    """
    return {"train": _stages(runs), "benchmarks": [_scores(one) for one in evaluations]}


def _stages(runs: Sequence[Path]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for run in runs:
        if not (run / _INPUTS).is_file():
            raise InputError(f"{run}: not a run folder of `lavabeam train`: it has no {_INPUTS}.")
        figures = json_object(run / _RESULT) if (run / _RESULT).is_file() else {}
        name = run.name if run.name not in found else str(run)
        found[name] = {**figures, "model": str(run / "model")}
    return found


def _scores(folder: Path) -> dict[str, Any]:
    if not (folder / SCORES).is_file():
        raise InputError(f"{folder}: holds no {SCORES}. Give the --output folder of `lavabeam evaluate`.")
    return json_object(folder / SCORES)
