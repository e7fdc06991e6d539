"""The data road's commands: run a recipe, import, one command per step, mix, report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from lavabeam.cli.asking import print_runs, read_asking, was_stopped
from lavabeam.cli.options import BeamCommand, LazyGroup, ModelCommand, beam_arguments
from lavabeam.cli.output import print_json, print_summaries, print_table, told_summary
from pipelines import catalog  # names and one-line helps only: no step is imported

AS_JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON instead of a table.")
RETRY = click.Option(["--retry"], default="", help="Make rows with these statuses again: transient, or names.")
RUNNER = (
    click.Option(["--runner"], default="local", help="local, dask, dataflow, or a Beam runner; its flags go after --."),
    click.Option(
        ["--workers"],
        default=0,
        help="Threads (local) or processes (dask); 0: one per core, more to wait for a Batch API.",
    ),
)
DRY_RUN = click.Option(["--dry-run"], is_flag=True, help="Estimate requests, tokens and cost; send nothing.")

folder_option = click.option("--folder", default=".", help="Where datasets lie: a folder or an fsspec URL.")
settings_option = click.option("--set", "settings", multiple=True, help="name=value for a ${name} of the recipe.")


def with_runner(command: Callable) -> Callable:
    """Adds --runner, --workers and --json to a command."""
    command.__dict__.setdefault("__click_params__", []).extend([AS_JSON, *reversed(RUNNER)])
    return command


@click.command(cls=BeamCommand)
@click.argument("recipe")
@folder_option
@settings_option
@click.option("--retry", default="", help="Make rows with these statuses again: transient, or names.")
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
) -> None:
    """Run the missing steps of a data recipe. What is there is not made again.

    RECIPE is a YAML file, or the name of a published recipe: `lavabeam recipes` lists them.
    """
    from lavabeam.recipes import locate
    from pipelines.recipes import load_recipe, run_recipe

    actions = load_recipe(locate(recipe, "data"), folder, pairs(settings))
    summaries, asked = [], []
    for summary in run_recipe(actions, _runner(runner, workers, beam_arguments(ctx)), retry):
        summaries.append(summary)
        asked.append(read_asking(summary))
        click.echo(f"{summary.step}: {told_summary(summary)}", err=True)
        if was_stopped(asked[-1]):
            break
    print_runs(summaries, asked, as_json)


@click.command(cls=BeamCommand)
@click.argument("recipe")
@click.argument("target")
@folder_option
@settings_option
@with_runner
@click.pass_context
def mix(
    ctx: click.Context,
    recipe: str,
    target: str,
    folder: str,
    settings: tuple[str, ...],
    runner: str,
    workers: int,
    as_json: bool,
) -> None:
    """Make a training set from conversations.

    Chooses rows, copies their pictures in, counts every token.

    RECIPE is the YAML file of a mix, or the name of a published one; TARGET is the samples dataset to make.
    """
    from lavabeam.recipes import locate
    from pipelines.mix import load_mix, run_mix
    from pipelines.mix.recipe import place

    loaded = load_mix(locate(recipe, "mixes"), folder, pairs(settings))
    print_summaries([run_mix(loaded, place(target, folder), _runner(runner, workers, beam_arguments(ctx)))], as_json)


@click.command()
@click.argument("datasets", nargs=-1, required=True)
@click.option("--out", type=Path, default=Path("report.html"), help="The HTML file to write.", show_default=True)
def report(datasets: tuple[str, ...], out: Path) -> None:
    """Write an HTML page about DATASETS.

    Counts, pictures, captions, conversations. One file, nothing to fetch.
    """
    from pipelines.report import write_report

    write_report(list(datasets), out, None)
    click.echo(str(out))


def step_command(name: str) -> click.Command:
    """`lavabeam NAME DATASET [TARGET] --option ...` for a step of the catalog."""
    return StepCommand(
        name, lambda: catalog.step(name).Config, partial(_run_step, name), [], catalog.steps()[name].help
    )


class StepCommand(ModelCommand):
    """Asks the step's class, once it is needed, whether there is a TARGET and whether there are costs to estimate."""

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
        estimate = [DRY_RUN] if catalog.asks_llm(str(self.name)) else []
        return [click.Argument(["dataset"]), *target, *RUNNER, RETRY, AS_JSON, *estimate]


def import_command(name: str) -> click.Command:
    """`lavabeam import NAME TARGET --option ...` for an importer of the catalog."""
    params = [click.Argument(["target"]), *RUNNER, AS_JSON]
    help = f"Import {catalog.importers()[name].help}. TARGET is the dataset to make or add to."
    return ModelCommand(name, lambda: catalog.importer(name).Config, partial(_run_import, name), params, help)


class ImportGroup(LazyGroup):
    """`lavabeam import`, with one command per importer."""

    def more(self) -> dict[str, Callable[[], click.Command]]:
        return {name: partial(import_command, name) for name in catalog.importers()}


def pairs(settings: tuple[str, ...]) -> dict[str, str]:
    """`("a=b",)` -> {"a": "b"}; raises InputError for a word without `=`."""
    from schemas.errors import InputError

    wrong = [word for word in settings if "=" not in word]
    if wrong:
        raise InputError(f"--set {wrong[0]}: expected name=value.")
    return dict(word.split("=", 1) for word in settings)


def _run_step(name: str, config: dict, arguments: list[str], dataset: str, as_json: bool, **given: Any) -> None:
    from pipelines.engine.step import Derive
    from pipelines.engine.work import run_derive, run_step
    from pipelines.llm.asks import AsksLlm
    from schemas.config import parse

    kind = catalog.step(name)
    step = kind(parse(config, kind.Config, f"lavabeam {name}"))
    if isinstance(step, AsksLlm) and given["dry_run"]:
        return _print_estimate(step.estimate(dataset), as_json)
    beam = _runner(given["runner"], given["workers"], arguments)
    if isinstance(step, Derive):
        done = run_derive(step, dataset, given["target"], beam, given["retry"])
    else:
        done = run_step(step, dataset, beam, given["retry"])
    return print_runs([done], [read_asking(done)], as_json)


def _print_estimate(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return print_json(told)
    names = ("requests", "cached", "input_tokens", "output_tokens", "cost", "most")
    prompts = {**told["by_prompt"], "all": told}
    rows = [(prompt, *(sums[name] for name in names)) for prompt, sums in prompts.items()]
    columns = ("prompt", "requests", "cached", "tokens in", "tokens out", "USD", "most USD")
    title = f"{told['provider']}/{told['model']}: what a run would send; most: every answer at its limit"
    return print_table(columns, rows, title=title)


def _run_import(name: str, config: dict, arguments: list[str], target: str, as_json: bool, **given: Any) -> None:
    from pipelines.engine.work import run_import
    from schemas.config import parse

    kind = catalog.importer(name)
    made = kind(parse(config, kind.Config, f"lavabeam import {name}"))
    print_summaries([run_import(made, target, _runner(given["runner"], given["workers"], arguments))], as_json)


def _runner(runner: str, workers: int, arguments: list[str]) -> Any:
    from pipelines.engine.runners import Runner

    return Runner(runner, workers, list(arguments))
