"""Training steps at real sizes on one GPU: our balanced, padding-free rows against the original's padded grouping.

    python -m bench.gpu [--models 1b,7b] [--stages finetune,pretrain] [--steps 6] [--zero 2]
    python -m bench.gpu --tiny        # the same code with a tiny model, on a CPU

Weights and pictures are random, rows have the lengths of bench.mixes.instructions, and everything after the loader is
the trainer's own: epoch plan, collator, engine, step. Prints a table row per run for
docs/performance.md and, finally, a JSON list of figures.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.gpu_model import LANGUAGE, build, kernel_of
from bench.gpu_rows import Run, collate, made_up_mix, order, ways
from trainer.config import Recipe
from trainer.room import Peaks, memory_for, model_sizes


@dataclass(frozen=True)
class Measured:
    """Median seconds per step, useful tokens/s, MFU (None if the device's peak is unknown), peak bytes, and those that
    the trainer's estimate says."""

    seconds: float
    useful: float
    mfu: float | None
    peak: int
    estimate: float
    kernel: str
    loss: float


def main() -> None:
    arguments = _arguments()
    import torch

    cuda = torch.cuda.is_available()
    if not cuda and not arguments.tiny:
        print(
            "bench.gpu: torch finds no GPU; real sizes need one. `--tiny` runs the same code on a CPU.", file=sys.stderr
        )
        sys.exit(2)
    device = torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()}, {os.cpu_count()} cores)"
    packed = arguments.tiny or kernel_of(arguments.attention, "auto", cuda, "7b")[1]
    if not packed:
        print("no attention here packs rows: they are padded, as the trainer does then")
    engine = "FSDP2" if arguments.engine == "fsdp2" else f"ZeRO-{arguments.zero}"
    print(f"{device}, torch {torch.__version__}, {engine}, {arguments.rows} rows a step")
    print("| device | model | stage | rows | attention | step s | useful tokens/s | MFU | peak GiB | estimate | loss |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    figures = []
    for model in ["tiny"] if arguments.tiny else arguments.models.split(","):
        for stage in arguments.stages.split(","):
            found = {way: measure(_run(arguments, model, stage, way), arguments.steps, cuda) for way in ways(packed)}
            for way, one in found.items():
                print(_row(device, model, stage, way, one), flush=True)
            figures += _figures(device, model, stage, found)
    print(json.dumps(figures))


def measure(run: Run, steps: int, cuda: bool) -> Measured | None:
    """Train `steps` steps after a warm-up of two; None if the device runs out of memory."""
    import torch

    _forget(cuda)
    try:
        return _measured(run, steps, cuda)
    except torch.OutOfMemoryError:
        return None


def _measured(run: Run, steps: int, cuda: bool) -> Measured:
    from trainer.inputs.device import Device
    from trainer.inputs.steps import supervised_tokens
    from trainer.loop import train_step
    from trainer.metrics.flops import model_flops, peak_flops
    from trainer.stages import get_stage

    folder, engine, kernel = build(run, cuda)
    place = Device(engine.device, engine.dtype, folder.mean, folder.std)
    mix = made_up_mix(run)
    plan = order(run, folder, mix)
    seconds, losses, flops, useful = [], [], [], []
    peaks = Peaks(0, 0, 0.0)
    stage = get_stage(run.stage)
    count = model_flops(folder, stage, run.recipe.lora.rank if stage.adapter else 0)
    try:
        for number in range(steps + 2):
            rows = [part for part in plan.micro_batches(number % plan.steps, 0) if len(part)]
            batches = [collate(run, folder, mix, part) for part in rows]
            supervised = sum(supervised_tokens(batch) for batch in batches)
            peaks = _larger(
                peaks, [(batch, int(mix.images[part].sum())) for batch, part in zip(batches, rows, strict=True)]
            )
            began = time.perf_counter()
            losses.append(float(train_step(engine, batches, supervised, place.inputs)[0].sum()))
            _wait(cuda)
            seconds.append(time.perf_counter() - began)
            every = np.concatenate(rows)
            flops.append(count.of(mix.tokens[every], mix.images[every]))
            useful.append(int(mix.tokens[every].sum()))
        trainable = sum(engine.sizes().values())
    finally:
        engine.close()
    total, arithmetic = sum(seconds[2:]), peak_flops(None, "bf16" if cuda else "fp32", _name(cuda))
    mfu = sum(flops[2:]) / total / arithmetic if arithmetic else None
    estimate = memory_for(run.recipe, stage, model_sizes(folder), 1, trainable)(
        peak_tokens=peaks.tokens, peak_images=peaks.tiles, learnt=peaks.learnt
    )
    speed, memory = sum(useful[2:]) / total, _peak_memory(cuda)
    return Measured(float(np.median(seconds[2:])), speed, mfu, memory, estimate.total, kernel, losses[0])


def _larger(peaks: Peaks, batches: list[tuple[dict[str, Any], int]]) -> Peaks:
    """The larger of `peaks` and of a step's micro-batches with their numbers of pictures."""
    from trainer.inputs.steps import supervised_tokens

    tokens = max(peaks.tokens, *(batch["input_ids"].numel() for batch, _ in batches))
    learnt = max(peaks.learnt * peaks.tokens, *(supervised_tokens(batch) for batch, _ in batches))
    return Peaks(tokens, max(peaks.tiles, *(pictures for _, pictures in batches)), learnt / tokens)


def _wait(cuda: bool) -> None:
    """Until the device has done everything, which a step's time includes."""
    import torch

    if cuda:
        torch.cuda.synchronize()


def _forget(cuda: bool) -> None:
    """Free the memory of the previous run, even if it ran out, and reset the peak."""
    import torch

    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _run(arguments: argparse.Namespace, model: str, stage: str, way: str) -> Run:
    recipe = Recipe.model_validate(
        {
            "stage": stage,
            "model": {"checkpoint": "random"},
            "data": {"mix": "random"},
            "plan": {"global_batch": arguments.rows},
            "optimizer": {"learning_rate": 1e-5},
            "engine": arguments.engine,
            "deepspeed": {"zero": arguments.zero},
            "gradient_checkpointing": arguments.again,
            "compile": arguments.compile,
            "liger": arguments.liger,
            "output": "random",
        }
    )
    longest = 256 if model == "tiny" else 2048
    return Run(model, stage, way, arguments.rows, arguments.batch, longest, recipe, arguments.attention)


def _row(device: str, model: str, stage: str, way: str, one: Measured | None) -> str:
    head = f"| {device} | {model} | {stage} | {way} | "
    if one is None:
        return head + "out of memory | | | | | | |"
    mfu = "" if one.mfu is None else f"{one.mfu:.1%}"
    memory = f"{one.peak / 2**30:.1f} | {one.estimate / 2**30:.1f}"
    figures = f"{one.seconds:.3f} | {one.useful:,.0f} | {mfu} | {memory} | {one.loss:.4f} |"
    return head + f"{one.kernel} | {figures}"


def _figures(device: str, model: str, stage: str, found: dict[str, Measured | None]) -> list[dict[str, Any]]:
    (way, ours), (_, original) = found.items()
    if ours is None or original is None:
        return []
    name = f"{device}: useful tokens/s, {model} {stage}, {way} against the original's grouping"
    value, peer = round(ours.useful, 1), round(original.useful, 1)
    # A tiny model on a CPU proves that the code runs, but nothing about speed.
    goal, ok = ("it runs", value > 0) if model == "tiny" else ("> peer", value > peer)
    figures = [{"figure": name, "value": value, "peer": peer, "ratio": round(value / peer, 3), "goal": goal, "ok": ok}]
    if not device.startswith("CPU"):
        figures.append(_memory_figure(f"{device}: peak GiB, {model} {stage}, against the estimate", ours))
    return figures


def _memory_figure(name: str, one: Measured) -> dict[str, Any]:
    ratio = one.peak / one.estimate
    value, peer = round(one.peak / 2**30, 2), round(one.estimate / 2**30, 2)
    goal = "within 15%"
    return {
        "figure": name,
        "value": value,
        "peer": peer,
        "ratio": round(ratio, 3),
        "goal": goal,
        "ok": 0.85 < ratio < 1.15,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="1b,7b", help=", ".join(LANGUAGE))
    parser.add_argument("--stages", default="finetune,pretrain", help="or finetune_tower, finetune_lora")
    parser.add_argument("--steps", type=int, default=6, help="measured steps, after two that are not")
    parser.add_argument("--rows", type=int, default=64, help="rows per step")
    parser.add_argument("--batch", type=int, default=8, help="rows per micro-step of the original")
    parser.add_argument("--engine", default="deepspeed", choices=("deepspeed", "fsdp2"))
    parser.add_argument("--zero", type=int, default=2, help="ZeRO stage")
    parser.add_argument("--attention", default="auto", help="for packed rows, as the recipe's key: torch_varlen, ...")
    parser.add_argument("--again", type=float, default=1.0, help="share of layers that are computed again")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--liger", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, on a CPU as well")
    arguments = parser.parse_args()
    if "qlora" in arguments.stages:
        parser.error("finetune_qlora: 4-bit weights need a checkpoint, and there is none here")
    return arguments


def _peak_memory(cuda: bool) -> int:
    """Peak bytes: of this run on a GPU, of the whole process on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _name(cuda: bool) -> str | None:
    import torch

    return torch.cuda.get_device_name() if cuda else None


if __name__ == "__main__":
    main()
