"""Training, asking and the demo: train, evaluate, chat, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from commands.look import json_option
from commands.output import print_json, print_table, told_statuses


@click.command()
@click.option("--folder", type=Path, default=Path("demo"), help="Where the demo works.", show_default=True)
@click.option("--runner", default="local", help="local or dask.", show_default=True)
@json_option
def demo(folder: Path, runner: str, as_json: bool) -> None:
    """From URLs to a LLaVA that answers, on this machine: no account, no hub, a few minutes.

    A second run finds everything there and computes nothing.
    """
    from demo.run import run_demo
    from pipelines.runners import Runner

    summary = run_demo(folder, Runner(runner), lambda text: click.echo(text, err=True))
    if as_json:
        return print_json(summary)
    return _print_demo(summary, folder)


def _print_demo(summary: dict[str, Any], folder: Path) -> None:
    rows = [(name, sum(counts.values()), told_statuses(counts)) for name, counts in summary["steps"].items()]
    print_table(("step", "rows", "statuses"), rows, title="Rows and statuses per step")
    stages = [
        (name, part["first_loss"], part["last_loss"], part["seconds"])
        for name, part in summary["train"].items()
        if isinstance(part, dict) and "last_loss" in part
    ]
    print_table(("stage", "first loss", "last loss", "seconds"), stages, title="\nTraining")
    told = summary["evaluation"]
    kinds = [
        (kind, one["questions"], f"{one['accuracy']:.3f}", f"{one['constant_baseline']:.3f}")
        for kind, one in {**told["kinds"], "all": told}.items()
    ]
    columns = ("questions of type", "number", "right", "best constant answer")
    print_table(columns, kinds, title="\nEasy-VQA's own test split")
    click.echo(f"\n{summary['llm_requests']} requests to the teacher, {summary['seconds']['total']} s in all")
    if not summary["recomputed"]:
        click.echo("Everything was there already: nothing was recomputed.")
    click.echo(f"figures: {folder / 'summary.json'}\nreport:  {summary['report']}")
    click.echo(f"model:   {summary['model']}\nask it:  lavabeam chat {summary['model']} PICTURE")
