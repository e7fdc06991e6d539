"""Epoch plans against the original's grouping: modelled step time over the ideal, and the time that planning takes.

    python bench/plan.py [--scale 1.0] [--seeds 1]

Prints a comparison of all strategies for six settings, then one JSON list of figures with their goals. The peer of a
figure is LLaVA's own order (modality and word count, padded rows), or transformers' sampler that balances ranks, on the
same rows in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.mixes import Mix, anyres, captions, instructions, long_multi_image
from trainer.plan import CostModel, ModelSizes, compare, estimate_memory, make_plan, render

FULL = 665_000
PROJECTOR = ModelSizes().projector_parameters


@dataclass(frozen=True)
class Setting:
    """One configuration: rows, ranks x batch x accumulation, and the cost of a row."""

    mix: Mix
    world_size: int
    batch_size: int
    accumulation: int
    cost: CostModel
    trainable: float | None = None
    train_vision: bool = False

    @property
    def global_batch(self) -> int:
        return self.world_size * self.batch_size * self.accumulation

    @property
    def name(self) -> str:
        accumulation = f"x{self.accumulation}" if self.accumulation > 1 else ""
        return f"{self.mix.name} {self.world_size}x{self.batch_size}{accumulation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows of the published mixes")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds that the ratios are averaged over")
    arguments = parser.parse_args()
    found: dict[str, dict[tuple[str, str], float]] = {}
    several = settings(arguments.scale)
    for setting in several:
        found[setting.name] = ratios(setting, arguments.seeds)
    tiles = next(setting for setting in several if setting.mix.name == "anyres")
    blind = blind_ratio(tiles)
    print(f"{tiles.name}, balanced with a picture's cost in place of each tile's, time/ideal: {blind:.3f}\n")
    library = {setting.name: library_ratio(setting) for setting in several[:2]}
    shown = ", ".join(f"{name} {ratio:.3f}" for name, ratio in library.items())
    print(f"transformers' BatchRebalanceSampler, padded, time/ideal: {shown}\n")
    value = found[tiles.name]["balanced", "padding-free"]
    title = f"plan: balanced {tiles.name} by tiles against by pictures, time over ideal"
    by_tiles = _figure(title, value, blind, "< peer", value < blind)
    print(json.dumps([*goals(found, library), by_tiles, *speed()]))


def settings(scale: float) -> list[Setting]:
    """The settings of the goals, then stage 1, tiles and long rows."""
    mix, full = instructions(scale), CostModel.from_sizes()
    siglip = CostModel.from_sizes(vision_parameters=0.428e9, tokens_per_image=729)
    return [
        Setting(mix, 8, 16, 1, full),
        Setting(mix, 8, 4, 4, full),
        Setting(mix, 64, 2, 1, full),
        Setting(captions(scale), 8, 32, 1, CostModel.from_sizes(train_language=False), PROJECTOR),
        # LLaVA-NeXT trains the tower as well.
        Setting(anyres(scale), 8, 4, 4, CostModel.from_sizes(train_vision=True), train_vision=True),
        Setting(long_multi_image(scale * 0.5), 8, 2, 8, siglip),
    ]


def ratios(setting: Setting, seeds: int) -> dict[tuple[str, str], float]:
    """The mean time ratio of every strategy over `seeds` seeds; prints the first seed's table."""
    times: dict[tuple[str, str], list[float]] = {}
    memory = partial(
        estimate_memory,
        ModelSizes(),
        gpus=setting.world_size,
        zero_stage=3,
        trainable_parameters=setting.trainable,
        train_vision=setting.train_vision,
    )
    for seed in range(seeds):
        table = compare(
            setting.mix.tokens,
            setting.mix.images,
            seed=seed,
            global_batch=setting.global_batch,
            world_size=setting.world_size,
            accumulation=setting.accumulation,
            cost=setting.cost,
            grouping_lengths=setting.mix.words,
            memory=memory,
        )
        if seed == 0:
            print(
                f"{setting.name}: {len(setting.mix.tokens)} rows of {setting.mix.tokens.mean():.0f} tokens on average"
            )
            print(render(table) + "\n", flush=True)
        for entry in table:
            times.setdefault((entry["strategy"], entry["rows"]), []).append(entry["time_ratio"])
    return {key: float(np.mean(values)) for key, values in times.items()}


def blind_ratio(setting: Setting) -> float:
    """The time ratio of a balanced plan that counts every picture as one tile, with its time counted by tiles."""
    plan = make_plan(
        setting.mix.tokens,
        np.minimum(setting.mix.images, 1),
        seed=0,
        global_batch=setting.global_batch,
        world_size=setting.world_size,
        accumulation=setting.accumulation,
        cost=setting.cost,
    )
    plan.summary()  # divides every step
    counted = replace(plan, work=replace(plan.work, image_counts=setting.mix.images))
    return counted.summary()["time_ratio"]


def library_ratio(setting: Setting, steps: int = 150) -> float:
    """The time ratio over `steps` steps of transformers' BatchRebalanceSampler, the best library balancing found."""
    from transformers.trainer_pt_utils import BatchRebalanceSampler

    rows = np.random.default_rng(0).permutation(len(setting.mix.tokens))[: steps * setting.global_batch]
    tokens, images = setting.mix.tokens[rows], setting.mix.images[rows]
    ranks = [
        BatchRebalanceSampler(
            tokens.tolist(), setting.global_batch, setting.world_size, setting.accumulation, rank=rank
        )
        for rank in range(setting.world_size)
    ]
    spent = 0.0
    for batches in zip(*ranks, strict=True):
        lengths = [tokens[batch] for batch in batches]
        held = [images[batch].sum() for batch in batches]
        spent += setting.cost.padded_cost(
            np.array([len(batch) for batch in batches]), np.array([one.max() for one in lengths]), np.array(held)
        ).max()
    return float(spent / (setting.cost.cost(tokens, images).sum() / setting.world_size))


def goals(found: dict[str, dict[tuple[str, str], float]], library: dict[str, float]) -> list[dict[str, Any]]:
    """The target ratios, and the original's own, which shows that the mix is like the one behind the targets."""
    wanted = (
        ("mix665k 8x16", "balanced", 1.02),
        ("mix665k 8x4x4", "balanced", 1.03),
        ("mix665k 64x2", "length_window", 1.03),
        ("stage1 8x32", "balanced", 1.05),
        ("anyres 8x4x4", "balanced", 1.05),
        ("long8k 8x2x8", "balanced", 1.05),
    )
    figures = []
    for name, strategy, goal in wanted:
        value, original = found[name][strategy, "padding-free"], found[name]["modality_length", "padded"]
        figures.append(
            _figure(f"plan: {strategy} {name}, time over ideal", value, original, f"<= {goal}", value <= goal)
        )
    for name, peer in library.items():
        for rows in ("padding-free", "padded"):
            value = found[name]["balanced", rows]
            title = f"plan: balanced {rows} {name} against BatchRebalanceSampler, time over ideal"
            figures.append(_figure(title, value, peer, "<= peer", value <= peer))
    original = found["mix665k 8x16"]["modality_length", "padded"]
    title = "plan: the original's grouping mix665k 8x16, time over ideal"
    figures.append(_figure(title, original, original, "1.43 +- 0.07", abs(original - 1.43) <= 0.07))
    return figures


def speed() -> list[dict[str, Any]]:
    """Seconds to plan every step of a 665k-row epoch, the slowest of three shapes, and the original's order."""
    mix = instructions(1.0)
    rows = np.resize(np.arange(len(mix.tokens)), FULL)
    seconds: dict[str, float] = {}
    for strategy in ("balanced", "length_window", "modality_length"):
        for world_size, accumulation in ((8, 1), (8, 4), (64, 1)):
            start = time.perf_counter()
            plan = make_plan(
                mix.tokens[rows],
                mix.images[rows],
                seed=0,
                global_batch=128,
                world_size=world_size,
                accumulation=accumulation,
                strategy=strategy,
            )
            for step in range(plan.steps):
                plan.division(step)
            seconds[strategy] = max(seconds.get(strategy, 0.0), time.perf_counter() - start)
    peer = seconds.pop("modality_length")
    return [
        _figure(
            f"plan: seconds for 665k rows, {strategy}, slowest of 8x16, 8x4x4, 64x2", value, peer, "<= 5", value <= 5
        )
        for strategy, value in seconds.items()
    ]


def _figure(name: str, value: float, peer: float, goal: str, ok: bool) -> dict[str, Any]:
    return {
        "figure": name,
        "value": round(value, 4),
        "peer": round(peer, 4),
        "ratio": round(peer / value, 3),
        "goal": goal,
        "ok": ok,
    }


if __name__ == "__main__":
    main()
