"""`lavabeam mix`: build a training set, preview one, and compare two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lavabeam.cli.checking import check_datasets, checked_option
from lavabeam.cli.data import folder_option, pairs, runner_of, with_runner
from lavabeam.cli.options import BeamCommand, beam_arguments
from lavabeam.cli.outcome import UNUSABLE, finish
from lavabeam.cli.output import print_json, print_summaries, print_table, say, statuses_text
from lavabeam.cli.previews import print_preview

if TYPE_CHECKING:
    from pipelines.mix import MixRecipe
    from pipelines.mix.outline import Outline

TFLOPS = 400.0
"""What the modelled hours assume of one GPU: 40 % of an H100's 989 TFLOP/s in bf16 (trainer/metrics/flops.py)."""


@click.command(cls=BeamCommand)
@click.argument("recipe")
@click.argument("target", required=False)
@folder_option
@click.option(
    "--set", "settings", multiple=True,
    help="KEY=VALUE: a key of the recipe (tokenizer=models/vicuna, sources.gqa.rows=100), or a ${KEY} in it.",
)  # fmt: skip
@click.option(
    "--plan", is_flag=True, help="Show what each source would contribute (rows, turns, tokens, hours); write nothing."
)
@click.option("--diff", is_flag=True, help="Compare RECIPE with TARGET: two mixes, or a mix and a recipe.")
@click.option("--lock", type=Path, help="Reproduce the mix of this mix.lock.yaml: the same versions and rows.")
@click.option(
    "--sample", type=click.IntRange(min=1), default=500, help="Rows per source that --plan samples.", show_default=True
)
@click.option(
    "--tflops", type=click.FloatRange(min=0, min_open=True), default=TFLOPS, show_default=True,
    help="For --plan: assumed throughput of one GPU.",
)  # fmt: skip
@checked_option
@with_runner
@click.pass_context
def mix(
    ctx: click.Context,
    recipe: str,
    target: str | None,
    folder: str,
    settings: tuple[str, ...],
    plan: bool,
    diff: bool,
    lock: Path | None,
    sample: int,
    tflops: float,
    runner: str,
    workers: int,
    as_json: bool,
    dry_run: bool,
    min_ok: float | None,
    checked: bool,
) -> None:
    """Make a training set from conversations.

    Selects rows, copies their images, and counts every token. TARGET/mix.lock.yaml records the sources.

    RECIPE is the YAML file of a mix, or the name of a published one; TARGET is the samples dataset to make.
    """
    from pipelines.mix import preview_mix, read_lock, run_mix
    from pipelines.mix.recipe import resolve

    if sum((plan, diff, dry_run)) > 1:
        raise click.UsageError("--plan, --diff and --dry-run exclude each other.")
    if diff:
        return _diff(recipe, _named(target), folder, settings, sample, as_json)
    loaded = _load(recipe, folder, settings)
    check_datasets(checked, [path for one in loaded.sources.values() for path in (one.dataset, one.images)])
    if plan:
        return _plan(loaded, sample, tflops, as_json)
    where = resolve(_named(target), folder)
    if dry_run:
        return print_preview(preview_mix(loaded, where), None, as_json)
    locked = read_lock(lock) if lock is not None else None
    done = [run_mix(loaded, where, runner_of(runner, workers, beam_arguments(ctx)), locked)]
    print_summaries(done, as_json)
    return finish(done, min_ok)


def _named(target: str | None) -> str:
    if target is None:
        raise click.UsageError("Missing argument 'TARGET'. It is optional only with --plan.")
    return target


def _load(recipe: str, folder: str, settings: tuple[str, ...]) -> MixRecipe:
    from lavabeam.recipes import locate
    from pipelines.mix import load_mix

    return load_mix(locate(recipe, "mixes"), folder, settings=pairs(settings))


def _plan(recipe: MixRecipe, sample: int, tflops: float, as_json: bool) -> None:
    """A table of what each source would give; ends as `mix` does where no row is left."""
    from pipelines.mix.outline import outline

    found = outline(recipe, sample)
    _print_plan(found, tflops, as_json)
    if not any(one.rows for one in found):
        reasons = [
            f"source {one.source!r} yields no rows: {statuses_text(one.left_out) or 'it has none'}"
            + (f" (by {one.sampled} rows that were made)" if one.sampled else "")
            for one in found
        ]
        say(f"lavabeam: mix: the plan has no row: {'; '.join(reasons)}.", err=True)
        click.get_current_context().exit(UNUSABLE)


def _print_plan(found: list[Outline], tflops: float, as_json: bool) -> None:
    from pipelines.mix.outline import figures

    hours = [_hours(one, tflops) for one in found]
    total = max(sum(one.rows for one in found), 1)
    if as_json:
        return print_json(
            [
                {**figures(one), "share": one.rows / total, "gpu_hours": own}
                for one, own in zip(found, hours, strict=True)
            ]
        )
    rows: list[tuple] = [
        (one.source, one.rows, one.turns, one.pictures, one.tokens, f"{one.rows / total:.1%}", own, _counted(one))
        for one, own in zip(found, hours, strict=True)
    ]
    names = ("rows", "turns", "pictures", "tokens")
    sums = [sum(getattr(one, name) for one in found) for name in names]
    rows.append(("all", *sums, "100.0%", sum(hours), ""))
    print_table(("source", *names, "share", "GPU hours", "counted"), rows)
    for one in found:
        if one.left_out:
            say(f"{one.source}: of {one.there} rows, left out: {statuses_text(one.left_out)}")
    return say(
        f"GPU hours: one epoch of a full finetune of LLaVA-1.5 7B with gradient checkpointing, at {tflops:g} TFLOP/s "
        "per GPU (assumed; --tflops). `lavabeam train RECIPE --dry-run` models your own recipe."
    )


def _counted(one: Outline) -> str:
    return "all rows" if one.sampled is None else f"{one.sampled} rows, scaled"


def _hours(one: Outline, tflops: float) -> float:
    from trainer.planning.cost import CostModel

    return float(CostModel.from_sizes().cost(one.lengths, one.tiles).sum()) * one.scale / (tflops * 1e12 * 3600)


def _diff(first: str, second: str, folder: str, settings: tuple[str, ...], sample: int, as_json: bool) -> None:
    """Tables of what differs between two mixes, or a mix and a recipe."""
    from pipelines.mix.comparing import compared

    sources, changed = compared(_side(first, folder, settings), _side(second, folder, settings), sample)
    if as_json:
        return print_json({"sources": sources, "settings": changed})
    names = ("rows", "turns", "tokens")
    rows = [
        (one["source"], *(_change(*one[name]) for name in names), *(one[k] for k in ("added", "removed", "changed")))
        for one in sources
    ]
    print_table(("source", *names, "rows added", "rows removed", "rows changed"), rows)
    if changed:
        print_table(("setting", first, second), [(one["setting"], *map(str, one["values"])) for one in changed])
    else:
        say("No setting differs.")
    return None


def _side(named: str, folder: str, settings: tuple[str, ...]) -> Any:
    """One side of a comparison: the dataset of a mix, or a recipe."""
    from pipelines.mix.recipe import resolve
    from schemas import Dataset

    where = resolve(named, folder)
    return Dataset.open(where) if Dataset.exists(where) else _load(named, folder, settings)


def _change(before: int, after: int) -> str:
    return f"{before}" if before == after else f"{before} -> {after} ({after - before:+d})"
