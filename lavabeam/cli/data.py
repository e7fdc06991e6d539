"""Data commands: run a recipe, import, one command per step, report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from lavabeam.cli.asking import print_runs, read_asking, was_stopped
from lavabeam.cli.checking import CHECKED, check_datasets, checked_option
from lavabeam.cli.options import BeamCommand, LazyGroup, ModelCommand, beam_arguments, runner_options
from lavabeam.cli.outcome import DRY_RUN, MIN_OK, complaint, finish
from lavabeam.cli.output import print_summaries, say, summary_line
from lavabeam.cli.previews import print_preview, print_previews
from pipelines import catalog  # names and one-line helps only: no step is imported

AS_JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON instead of a table.")
RUNNER = (
    click.Option(["--runner"], default="local", help="local, dask, dataflow, or a Beam runner; its flags go after --."),
    click.Option(
        ["--workers"],
        type=click.IntRange(min=0),
        default=0,
        help="Worker processes or threads; 0: one per core, more for a step that only waits for a Batch API.",
    ),
)
APPEND = click.Option(["--append"], is_flag=True, help="Add the rows of another source after those of TARGET.")
REPLACE = click.Option(["--replace"], is_flag=True, help="Let another source replace the rows of TARGET.")

folder_option = click.option("--folder", default=".", help="Location of the datasets: a folder or an fsspec URL.")
settings_option = click.option("--set", "settings", multiple=True, help="name=value for a ${name} of the recipe.")


def _given_retry(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str:
    """The statuses; a --retry without any is refused, because without --retry other rows may be made again."""
    if value is not None and not value.replace(",", "").strip():
        raise click.BadParameter("names no status. Omit --retry, or give transient or a status.", ctx, parameter)
    return value or ""


RETRY = click.Option(
    ["--retry"], callback=_given_retry, help="Retry rows with these statuses: transient, or status names."
)


def with_runner(command: Callable) -> Callable:
    """Adds what all commands that run a pipeline take: --runner, --workers, --json, --dry-run, --min-ok."""
    command.__dict__.setdefault("__click_params__", []).extend([MIN_OK, DRY_RUN, AS_JSON, *reversed(RUNNER)])
    return command


def with_retry(command: Callable) -> Callable:
    """Adds --retry."""
    command.__dict__.setdefault("__click_params__", []).append(RETRY)
    return command


@click.command(cls=BeamCommand)
@click.argument("recipe")
@folder_option
@settings_option
@with_retry
@with_runner
@click.pass_context
def run(
    ctx: click.Context,
    recipe: str,
    folder: str,
    settings: tuple[str, ...],
    retry: str,
    runner: str,
    workers: int,
    as_json: bool,
    dry_run: bool,
    min_ok: float | None,
) -> None:
    """Run the missing steps of a data recipe; finished work is reused.

    With --min-ok, a step with too few usable rows ends the run before the next step.

    RECIPE is a YAML file, or the name of a published recipe: `lavabeam recipes` lists them.
    """
    from lavabeam.recipes import locate
    from pipelines.recipes import load_recipe, preview_recipe, run_recipe

    actions = load_recipe(locate(recipe, "data"), folder, pairs(settings))
    if dry_run:
        return print_previews(list(preview_recipe(actions, retry)), as_json)
    summaries, asked = [], []
    for summary in run_recipe(actions, runner_of(runner, workers, beam_arguments(ctx)), retry):
        summaries.append(summary)
        asked.append(read_asking(summary))
        say(f"{summary.step}: {summary_line(summary)}", err=True)
        if was_stopped(asked[-1]) or (min_ok is not None and complaint(summary, min_ok)):
            break
    print_runs(summaries, asked, as_json)
    return finish(summaries, min_ok)


@click.command()
@click.argument("datasets", nargs=-1)
@click.option(
    "--run", "runs", type=Path, multiple=True, help="A run folder of `train`, for its loss curve and metrics."
)
@click.option("--evaluation", "evaluations", type=Path, multiple=True, help="An --output folder of `evaluate`.")
@click.option("--out", type=Path, default=Path("report.html"), help="The HTML file to write.", show_default=True)
@checked_option
def report(
    datasets: tuple[str, ...], runs: tuple[Path, ...], evaluations: tuple[Path, ...], out: Path, checked: bool
) -> None:
    """Write an HTML page about DATASETS, training runs and evaluations.

    Counts, images, captions, conversations, loss curves and scores, in one self-contained file.
    """
    from lavabeam.evaluation.report.beside import trained_and_evaluated
    from pipelines.report import write_report

    if not (datasets or runs or evaluations):
        raise click.UsageError("Nothing to report on: give datasets, --run or --evaluation.")
    check_datasets(checked, datasets)
    write_report(list(datasets), out, trained_and_evaluated(runs, evaluations))
    say(str(out))


def step_command(name: str) -> click.Command:
    """`lavabeam NAME DATASET [TARGET] --option ...` for a step of the catalog."""
    return StepCommand(
        name, lambda: catalog.step(name).Config, partial(_run_step, name), [], catalog.steps()[name].help
    )


class StepCommand(ModelCommand):
    """Asks the step's class, once it is needed, whether there is a TARGET."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not self.params:
            self.params = self._own_params()
        return super().get_params(ctx)

    def _own_params(self) -> list[click.Parameter]:
        from pipelines.engine.step import Derive

        kind = catalog.step(str(self.name))
        makes = kind.makes if issubclass(kind, Derive) else ""
        target = [click.Argument(["target"])] if makes else []
        if makes:
            self.help = f"{self.help} TARGET is the {makes} dataset to make."
        return [click.Argument(["dataset"]), *target, *RUNNER, RETRY, CHECKED, AS_JSON, DRY_RUN, MIN_OK]


def import_command(name: str) -> click.Command:
    """`lavabeam import NAME TARGET --option ...` for an importer of the catalog."""
    params = [click.Argument(["target"]), APPEND, REPLACE, *RUNNER, AS_JSON, DRY_RUN, MIN_OK]
    help = f"Import {catalog.importers()[name].help}. TARGET is the dataset to make or add to."
    return ModelCommand(name, lambda: catalog.importer(name).Config, partial(_run_import, name), params, help)


class ImportGroup(LazyGroup):
    """`lavabeam import`, with one command per importer."""

    def more(self) -> dict[str, Callable[[], click.Command]]:
        return {name: partial(import_command, name) for name in catalog.importers()}


def pairs(settings: tuple[str, ...]) -> dict[str, str]:
    """`("a=b",)` -> {"a": "b"}; raises InputError for a word without `=`."""
    return dict(pairs_of("--set", settings))


def pairs_of(option: str, words: tuple[str, ...], expected: str = "name=value") -> list[tuple[str, str]]:
    """`("a=b",)` -> [("a", "b")]; raises InputError for a word without `=`."""
    from schemas.errors import InputError

    found = [word.partition("=") for word in words]
    for word, (_, sign, _) in zip(words, found, strict=True):
        if not sign:
            raise InputError(f"{option} {word}: expected {expected}.")
    return [(name, value) for name, _, value in found]


def _run_step(name: str, config: dict, arguments: list[str], dataset: str, as_json: bool, **given: Any) -> None:
    from pipelines.engine.recorded import recorded_options
    from pipelines.engine.step import Derive
    from pipelines.engine.work import preview_derive, preview_step, run_derive, run_step
    from pipelines.llm.asks import AsksLlm
    from schemas.config import parse

    kind, where, retry, target = catalog.step(name), f"lavabeam {name}", given["retry"], given.get("target", "")
    options = recorded_options(kind, config, target or dataset, where) if retry else config
    check_datasets(given["checked"], [dataset, target or None])
    step = kind(parse(options, kind.Config, where))
    if given["dry_run"]:
        if isinstance(step, Derive):
            preview = preview_derive(step, dataset, target, retry)
        else:
            preview = preview_step(step, dataset, retry)
        estimate = step.estimate(dataset, target, retry) if isinstance(step, AsksLlm) else None
        return print_preview(preview, estimate, as_json)
    beam = runner_of(given["runner"], given["workers"], arguments)
    if isinstance(step, Derive):
        done = run_derive(step, dataset, target, beam, retry)
    else:
        done = run_step(step, dataset, beam, retry)
    print_runs([done], [read_asking(done)], as_json)
    return finish([done], given["min_ok"])


def _run_import(name: str, config: dict, arguments: list[str], target: str, as_json: bool, **given: Any) -> None:
    from pipelines.engine.imports import preview_import, run_import
    from pipelines.recipes import other_source
    from schemas.config import parse

    kind, where = catalog.importer(name), f"lavabeam import {name}"
    made, other = kind(parse(config, kind.Config, where)), other_source(given["append"], given["replace"], where)
    if given["dry_run"]:
        return print_preview(preview_import(made, target, other), None, as_json)
    done = [run_import(made, target, runner_of(given["runner"], given["workers"], arguments), other)]
    print_summaries(done, as_json)
    return finish(done, given["min_ok"])


def runner_of(runner: str, workers: int, arguments: list[str]) -> Any:
    """The runner that the command line names; raises InputError for options that it lacks or does not take."""
    from pipelines.engine.dataflow import DataflowConfig
    from pipelines.engine.runners import Runner
    from schemas.config import parse
    from schemas.errors import InputError

    options = runner_options(click.get_current_context())
    config = parse(options, DataflowConfig, "runner dataflow")
    made = Runner(runner, workers, list(arguments), config)
    if options and not made.on_dataflow:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in options)
        raise InputError(f"{flags}: only for --runner dataflow, and the runner is {runner}.")
    made.check()
    return made
