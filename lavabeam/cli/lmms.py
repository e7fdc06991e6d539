"""`lavabeam evaluate --via lmms-eval`: its options, and lmms-eval's own tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lavabeam.cli.output import print_json, print_table, say

LMMS_EVAL = "lmms-eval"
_PATH = click.Path(path_type=Path)
_NEEDS = ("tasks", "lmms_python", "include_path")
_OURS = ("truth", "reviews", "upload", "upload_questions", "metric", "judge", "min_graded", "images")


def lmms_options(command: Any) -> Any:
    """The options, on a command."""
    options = (
        click.option(
            "--via", type=click.Choice([LMMS_EVAL]), help="Run the model with lmms-eval, in its own environment."
        ),
        click.option("--tasks", help="For --via without --questions: lmms-eval's tasks.  [default: that of NAME]"),
        click.option("--lmms-python", type=_PATH, help="A Python with lmms-eval.  [default: .venv-lmms-eval's]"),
        click.option("--include-path", type=_PATH, help="For --tasks: a folder with additional task files."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def check_lmms_options(given: dict[str, Any]) -> None:
    """Raises UsageError for options that need others, or exclude each other."""
    listed = [key for key in _NEEDS if given[key]]
    if not given["via"]:
        if listed:
            raise click.UsageError(f"{_option(listed[0])}: only with --via {LMMS_EVAL}.")
        return
    if given["questions"] is not None and (own := [key for key in listed if key != "lmms_python"]):
        raise click.UsageError(f"{_option(own[0])} runs tasks of lmms-eval, --questions asks ours: give one of them.")
    if given["questions"] is None and (ours := [key for key in _OURS if given[key]]):
        raise click.UsageError(f"{_option(ours[0])}: without --questions lmms-eval's own task is run and scored.")


def asker_of(name: str, given: dict[str, Any]) -> Any:
    """What asks the questions of a benchmark: lmms-eval."""
    from lavabeam.evaluation.lmms.run import Asker

    return Asker(name, given["lmms_python"], given["allow_missing"])


def own_tasks(name: str, target: str, asking: Any, as_json: bool, given: dict[str, Any]) -> None:
    """`evaluate NAME TARGET --via lmms-eval` without --questions."""
    from lavabeam.evaluation.lmms.run import TASKS, run_tasks
    from schemas.errors import InputError

    if name == "custom" or (name not in TASKS and not given["tasks"]):
        raise InputError(
            f"{name}: give the questions with --questions; lmms-eval has tasks of its own for {', '.join(TASKS)}, and "
            "any others by --tasks."
        )
    if given["output"] is None:
        raise InputError(f"{target}: give the folder for samples and figures with --output.")
    tasks = [task.strip() for task in (given["tasks"] or TASKS[name]).split(",") if task.strip()]
    options = {"python": given["lmms_python"], "include": given["include_path"], "limit": given["limit"]}
    options |= {"max_tokens": given["max_tokens"], "empty_allowed": given["allow_missing"]}
    figures = run_tasks(tasks, target, given["output"], asking, **options)
    if as_json:
        return print_json({"benchmark": name, "protocol": LMMS_EVAL, **figures})
    return print_lmms(figures)


def print_lmms(figures: dict[str, Any]) -> None:
    """Its figures, and ours of the same rows beside them."""
    lines = []
    for task, one in figures["tasks"].items():
        official = {key.partition(",")[0]: value for key, value in one["lmms_eval"].items() if "stderr" not in key}
        for name in dict.fromkeys([*official, *one["metrics"]]):
            ours = one["metrics"].get(name)
            lines.append((task, name, ours and ours["rows"], official.get(name), ours and ours["value"], _range(ours)))
            parts = ours["categories"] if ours and len(ours["categories"]) > 1 else {}
            for category, part in parts.items():
                found = part[name]
                lines.append((task, f"{name}: {category}", part["units"], None, found["value"], _range(found)))
    say(f"lmms-eval {figures['version']}")
    print_table(("task", "metric", "rows", "lmms-eval", "mean of its rows", "95% interval"), lines)


def _range(figure: dict[str, Any] | None) -> str:
    return "" if not figure or figure["low"] is None else f"{figure['low']:.4f} to {figure['high']:.4f}"


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")
