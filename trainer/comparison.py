"""Compare all batching strategies for a recipe's mix and model, for several numbers of GPUs. Needs no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from trainer.config import load_recipe
from trainer.dryrun import parameter_table
from trainer.inputs.rows import Rows, original_lengths
from trainer.inputs.schedule import cost_model
from trainer.plan import STRATEGIES, compare, render, strategy_of
from trainer.planning.report import gibibytes, marked, name_width
from trainer.preflight import check
from trainer.room import memory_of

USUAL_GPUS = (1, 2, 4, 8)

LEGEND = """
*            the recipe's strategy
padding      share of all positions that hold no token
balance      work of the slowest rank over the mean: 1 means that no rank waits
time/ideal   modelled step time over the time without padding or waiting
peak tokens  most tokens that one GPU holds in a micro-step, padding included
memory/GPU   estimate at that peak, without the CUDA context and fragmentation
""".strip()


def compare_plans(
    recipe: str | Path, gpus: Sequence[int] | None = None, overrides: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Figures of every strategy for each number of GPUs, one epoch each; see `trainer.plan.compare`.

    gpus: by default those of USUAL_GPUS that the global batch can feed. Writes nothing and trains nothing. Raises
    InputError for anything wrong with the recipe, mix or model, and for numbers of GPUs below one.
    """
    from trainer.models.parts import planned_folder

    settings = load_recipe(recipe, overrides)
    plan = settings.plan
    counts = list(gpus or [count for count in USUAL_GPUS if count <= plan.global_batch])
    if min(counts) < 1:
        raise InputError(f"{min(counts)} GPUs: the minimum is 1.")
    job = check(settings, min(counts))
    folder = job.folder or planned_folder(job)
    rows = Rows.of(job.mix, folder.rule, folder.longest(settings.data.max_length))
    original = plan.strategy if strategy_of(plan.strategy).original else "modality_length"
    words = original_lengths(job.mix, original)
    cost = cost_model(folder, job.stage, settings.again)
    trainable = sum(group["parameters"] for group in parameter_table(folder, job.stage, settings))
    worlds = []
    for count in counts:
        found = compare(
            rows.lengths,
            rows.tiles,
            seed=plan.seed,
            global_batch=plan.global_batch,
            world_size=settings.data_ranks(count),
            accumulation=plan.accumulation,
            max_tokens=plan.max_tokens,
            cost=cost,
            grouping_lengths=words,
            memory=memory_of(job, folder, count, trainable),
            chosen=plan.strategy,
        )
        worlds.append({"gpus": count, "strategies": found})
    return {
        "mix": {"path": job.mix.path, "manifest": job.mix.manifest.number, "rows": job.mix.rows},
        "model": str(folder.path),
        "stage": settings.stage,
        "zero": settings.deepspeed.zero,
        "mean_tokens": float(rows.lengths.mean()),
        "longest": int(rows.lengths.max()),
        "tiles": int(rows.tiles.sum()),
        "global_batch": plan.global_batch,
        "accumulation": plan.accumulation,
        "max_tokens": plan.max_tokens,
        "trainable_parameters": trainable,
        "worlds": worlds,
    }


def render_comparison(report: dict[str, Any]) -> str:
    """`compare_plans` for a terminal: a table per number of GPUs, a table of memory, and a legend."""
    mix, bound = report["mix"], report["max_tokens"]
    micro_steps = "1 micro-step" if report["accumulation"] == 1 else f"{report['accumulation']} micro-steps"
    lines = [
        f"mix    {mix['path']}, manifest {mix['manifest']}",
        f"rows   {mix['rows']:,} of {report['mean_tokens']:,.0f} tokens (longest {report['longest']:,}) and "
        f"{report['tiles'] / mix['rows']:.1f} pictures or tiles",
        f"model  {report['model']}",
        f"stage  {report['stage']}, {report['trainable_parameters']:,} trainable parameters, ZeRO-{report['zero']}",
        f"step   {report['global_batch']} rows, {micro_steps}"
        + (f", {bound:,} tokens per micro-step at most" if bound else ""),
    ]
    for world in report["worlds"]:
        each = report["global_batch"] / world["gpus"] / report["accumulation"]
        rows = "1 row" if each == 1 else f"{each:g} rows"
        lines += ["", f"{_gpus(world)}, {rows} each in a micro-step", render(world["strategies"])]
    if len(report["worlds"]) > 1:
        lines += ["", _memory_table(report["worlds"])]
    return "\n".join([*lines, "", LEGEND, "", *_strategies(report["worlds"])])


def _strategies(worlds: list[dict[str, Any]]) -> list[str]:
    """What each strategy of the tables is, a line each."""
    names = dict.fromkeys(entry["strategy"] for entry in worlds[0]["strategies"])
    width = max(map(len, names)) + 1
    return [f"{name:{width}}{STRATEGIES[name].help}" for name in names]


def _gpus(world: dict[str, Any]) -> str:
    return "1 GPU" if world["gpus"] == 1 else f"{world['gpus']} GPUs"


def _memory_table(worlds: list[dict[str, Any]]) -> str:
    """Memory per GPU: one line per strategy, one column per number of GPUs."""
    width = name_width(worlds[0]["strategies"])
    lines = [f"{'memory/GPU':{width}}{'rows':13}" + "".join(f"{_gpus(world):>11}" for world in worlds)]
    for entries in zip(*(world["strategies"] for world in worlds), strict=True):
        cells = [gibibytes(entry["memory_total"]) if "memory" in entry else "-" for entry in entries]
        lines.append(f"{marked(entries[0]):{width}}{entries[0]['rows']:13}" + "".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)
