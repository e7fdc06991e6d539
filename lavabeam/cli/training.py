"""Commands for training and the demo: train, merge, import-checkpoint, plan, tokens, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lavabeam.cli.checking import check_datasets, checked_option
from lavabeam.cli.data import pairs
from lavabeam.cli.look import json_option
from lavabeam.cli.options import parsed_setting
from lavabeam.cli.outcome import INTERRUPTED
from lavabeam.cli.output import print_json, print_table, say, statuses_text
from trainer.planning.strategies import STRATEGIES


@click.command()
@click.option("--folder", type=Path, default=Path("demo"), help="The demo's working folder.", show_default=True)
@click.option("--runner", default="local", help="local or dask.", show_default=True)
@json_option
def demo(folder: Path, runner: str, as_json: bool) -> None:
    """Run the whole pipeline on this machine, from URLs to a LLaVA that answers questions.

    It takes a few minutes and needs no account and no model hub. A second run reuses everything and computes nothing.
    """
    from lavabeam.demo.run import run_demo
    from pipelines.engine.runners import Runner

    summary = run_demo(folder, Runner(runner), lambda text: say(text, err=True))
    if as_json:
        return print_json(summary)
    return _print_demo(summary, folder)


def _print_demo(summary: dict[str, Any], folder: Path) -> None:
    rows = [(name, sum(counts.values()), statuses_text(counts)) for name, counts in summary["steps"].items()]
    print_table(("step", "rows", "statuses"), rows, title="Rows and statuses per step")
    stages = [
        (name, part["first_loss"], part["last_loss"], part["seconds"])
        for name, part in summary["train"].items()
        if isinstance(part, dict) and "last_loss" in part
    ]
    print_table(("stage", "first loss", "last loss", "seconds"), stages, title="\nTraining")
    evaluation = summary["evaluation"]
    kinds = [
        (kind, one["questions"], f"{one['accuracy']:.3f}", f"{one['constant_baseline']:.3f}")
        for kind, one in {**evaluation["kinds"], "all": evaluation}.items()
    ]
    columns = ("questions of type", "number", "right", "best constant answer")
    print_table(columns, kinds, title="\nEasy-VQA's own test split")
    say(f"\n{summary['llm_requests']} requests to the teacher, {summary['seconds']['total']} s in total")
    if not summary["recomputed"]:
        say("Everything already exists: nothing was recomputed.")
    say(f"figures: {folder / 'summary.json'}\nreport:  {summary['report']}")
    say(f"model:   {summary['model']}\nask it:  lavabeam chat {summary['model']} PICTURE")


@click.command()
@click.argument("recipe")
@click.option(
    "--set", "settings", multiple=True, help="Override a dotted key of the recipe: --set plan.global_batch=64."
)
@click.option(
    "--processes", type=click.IntRange(min=1), help="Processes per machine.  [default: one per GPU; two without a GPU]"
)
@click.option(
    "--nodes", type=click.IntRange(min=1), default=1, help="Number of machines, for --dry-run, --plan-only, --prepare."
)
@click.option("--dry-run", is_flag=True, help="Show parameters, steps, memory and launch commands; train nothing.")
@click.option("--plan-only", is_flag=True, help="Compare all batching strategies: padding, balance, time, memory.")
@click.option("--gpus", help="For --plan-only: numbers of GPUs, such as 8,16,64.  [default: 1,2,4,8]")
@click.option("--prepare", is_flag=True, help="Check and write the run folder for a cluster's launcher; train nothing.")
@click.option("--replace", is_flag=True, help="Replace another run in the output folder.")
@checked_option
@json_option
def train(
    recipe: str,
    settings: tuple[str, ...],
    processes: int | None,
    nodes: int,
    dry_run: bool,
    plan_only: bool,
    gpus: str | None,
    prepare: bool,
    replace: bool,
    checked: bool,
    as_json: bool,
) -> None:
    """Run one stage of training. An interrupted run continues from its newest checkpoint.

    RECIPE is a YAML file, or the name of a published recipe: `lavabeam recipes` lists them.
    """
    from lavabeam.recipes import locate
    from trainer.config import Recipe, load_recipe
    from trainer.launch import train as run

    path = locate(recipe, "training")
    overrides = {key: parsed_setting(Recipe, key, value) for key, value in pairs(settings).items()}
    check_datasets(checked, [load_recipe(path, overrides).data.mix] if checked else ())
    if plan_only:
        return _compare(path, _gpu_counts(gpus, processes, nodes), overrides, as_json)
    if gpus is not None:
        raise click.UsageError("--gpus is for --plan-only; a run takes --processes and --nodes.")
    result = run(
        path,
        processes=processes,
        overrides=overrides,
        dry_run=dry_run,
        replace=replace,
        prepare_only=prepare,
        nodes=nodes,
    )
    if as_json:
        print_json(result)
    else:
        print_tree(result)
    if result.get("stopped"):
        click.get_current_context().exit(INTERRUPTED)


def _gpu_counts(gpus: str | None, processes: int | None, nodes: int) -> list[int] | None:
    """The numbers in --gpus, or the one that --processes and --nodes give."""
    if gpus is None:
        return [processes * nodes] if processes else None
    try:
        return [int(count) for count in gpus.split(",")]
    except ValueError:
        raise click.UsageError(f"--gpus {gpus!r}: expected numbers such as 8,16,64.") from None


def _compare(recipe: Path, gpus: list[int] | None, overrides: dict[str, Any], as_json: bool) -> None:
    from trainer.comparison import compare_plans, render_comparison

    report = compare_plans(recipe, gpus, overrides)
    return print_json(report) if as_json else say(render_comparison(report))


@click.command()
@click.argument("adapter", type=Path)
@click.argument("output", type=Path)
@click.option("--model", type=Path, help="The base checkpoint's new path, if it moved.")
def merge(adapter: Path, output: Path, model: Path | None) -> None:
    """Merge a LoRA ADAPTER into its model.

    Logits before and after merging are compared before anything is written.
    """
    from trainer.models.adapter import merge as run

    say(str(run(adapter, output, model)))


@click.command("export-checkpoint")
@click.argument("checkpoint", type=Path)
@click.argument("output", type=Path)
def export_checkpoint(checkpoint: Path, output: Path) -> None:
    """Export the model of a training CHECKPOINT (RUN/checkpoint-N).

    OUTPUT: a folder like the one that the run writes at its end: a model, or for LoRA an adapter.
    """
    from trainer.models.snapshot import export_checkpoint as run

    say(str(run(checkpoint, output)))


@click.command("import-checkpoint")
@click.argument("source", type=Path)
@click.argument("output", type=Path)
@click.option("--tower", type=Path, required=True, help="The folder of the tower that its config.json names.")
@click.option("--template", required=True, help="The chat template that it was trained with, e.g. v1 for v1.5.")
def import_checkpoint(source: Path, output: Path, tower: Path, template: str) -> None:
    """Convert a checkpoint of the original LLaVA code.

    SOURCE: a folder such as llava-v1.5-7b, whose config.json has no vision_config. OUTPUT: the new folder, for chat,
    answer, evaluate, train and transformers' own classes.
    """
    from trainer.models.importing import import_checkpoint as run

    say(str(run(source, tower, output, template)))


@click.command()
@click.option(
    "--lengths", type=Path, required=True, help="JSON list of row lengths; negative for rows without an image."
)
@click.option(
    "--strategy",
    default="balanced",
    help="; ".join(f"{name}: {one.help}" for name, one in STRATEGIES.items()) + ".",
    show_default=True,
)
@click.option("--world-size", default=1, help="Ranks.", show_default=True)
@click.option("--batch-size", default=16, help="Rows per rank and micro-step.", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--accumulation", default=1, help="Micro-steps per step.", show_default=True)
@click.option("--epoch", default=0, show_default=True)
@click.option("--max-tokens", type=int, help="Maximum tokens of a rank in one micro-step.")
@click.option("--padded", is_flag=True, help="Pad rows to the longest in their micro-batch.")
@click.option("--drop-last", is_flag=True, help="Drop the incomplete last step.")
@click.option("--generator-seed", type=int, help="Use the original's sampler with a torch.Generator of this seed.")
@json_option
def plan(
    lengths: Path, strategy: str, world_size: int, batch_size: int, seed: int, as_json: bool, **given: Any
) -> None:
    """Show which rows each step and rank trains on."""
    from trainer.plan import plan_command

    say(plan_command(lengths, strategy, world_size, batch_size, seed, as_json, **given))


@click.command()
@click.argument("file")
@click.option(
    "--template",
    default="v1",
    help="plain, v1, llama_2, llava_llama_2, llama_3, mistral, qwen, chatml, mpt, chatml_direct, ...",
    show_default=True,
)
@click.option("--tokenizer", required=True, help="A folder with tokenizer.json.")
@click.option("--compat", type=click.Choice(["llava", "llava_next"]), help="Reproduce the original's ids and labels.")
@click.option("--max-length", type=click.IntRange(min=1), help="Cut rows at this many tokens.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first rows.")
@json_option
def tokens(file: str, as_json: bool, **given: Any) -> None:
    """Show the rows of a file or a dataset as the model sees them.

    Prints the prompt, ids, labels and supervised text of LLaVA rows or of a dataset.
    """
    from schemas.chat.show import tokens_command

    template, tokenizer = given.pop("template"), given.pop("tokenizer")
    for line in tokens_command(file, template, tokenizer, as_json=as_json, **given):
        say(line)


def print_tree(value: dict[str, Any], indent: str = "") -> None:
    """Nested results as indented lines."""
    for key, inner in value.items():
        if inner is None:
            continue
        if isinstance(inner, dict):
            say(f"{indent}{key}:")
            print_tree(inner, indent + "  ")
        elif isinstance(inner, list) and inner and isinstance(inner[0], dict):
            print_table(list(inner[0]), [list(one.values()) for one in inner], title=f"{indent}{key}")
        else:
            say(f"{indent}{key}: {inner}")
