"""Previews a mix without writing it: rows, turns, images and tokens of each source.

Which rows are taken is exact: the whole plan is made. Their turns, pictures and tokens are counted by making some of
them as a run would, and scaled; of a source with no more rows than that, all are made, and its counts are exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.engine.step import Context
from pipelines.mix.choose import REASONS, Survey
from pipelines.mix.maker import MixFragment, MixMaker, Row
from pipelines.mix.pictures import Spool
from pipelines.mix.recipe import MixRecipe
from pipelines.mix.run import plan_mix
from pipelines.mix.select import copies

SAMPLE = 500


@dataclass(frozen=True)
class Outline:
    """What one source would give. `sampled`: of how many of its taken rows the counts are; None when of all.

    lengths, tiles: tokens, and inputs of the vision tower, of each row that was made; int64, shape (rows made,). Each
    stands for `scale` rows of the mix.
    """

    source: str
    there: int
    rows: int
    turns: int
    pictures: int
    tokens: int
    supervised: int
    left_out: dict[str, int]
    sampled: int | None
    lengths: np.ndarray
    tiles: np.ndarray
    scale: float


def outline(recipe: MixRecipe, sample: int = SAMPLE) -> list[Outline]:
    """An outline of each source, from at most `sample` rows of each. Raises what `run_mix` raises before it runs."""
    planned = plan_mix(recipe, every=True)
    versions = {path: dataset.manifest.number for path, dataset in planned.opened.items()}
    maker = MixMaker(recipe, "", versions)
    maker.setup(Context(run="", dataset=""))
    return [_of_source(maker, name, found, sample) for name, found in planned.surveys.items()]


def _of_source(maker: MixMaker, name: str, found: Survey, sample: int) -> Outline:
    source, taken = maker.recipe.sources[name], found.open
    times = np.array([copies(int(one), source.weight) for one in found.order[taken]], np.int64)
    left = found.counts + Counter(REASONS[code] for code in found.codes[found.fits].tolist() if code)
    left["weight"] += int((times == 0).sum())
    taken, times = taken[times > 0], times[times > 0]
    # Not the smallest hashes, by which rows are chosen: the middle of the order has the same rows of every size.
    by_hash = np.argsort(found.order[taken] * np.uint64(0x9E3779B97F4A7C15), kind="stable")
    some = np.sort(taken[by_hash[:sample]])
    counts: Counter[str] = Counter()
    made = list(_made(maker, name, found, some, counts))
    scale = len(taken) / len(some) if len(some) else 1.0
    left.update({reason: round(count * scale) for reason, count in counts.items() if not reason.startswith("taken")})
    return _scaled(maker, name, found, made, left, scale, len(some))


def _scaled(
    maker: MixMaker, name: str, found: Survey, made: list[Row], left: Counter[str], scale: float, sampled: int
) -> Outline:
    rule, limit = maker.lengths.rule, maker.recipe.max_tokens
    turns = sum(message["role"] == "user" for row in made for message in row.measured.messages)
    tiles = [sum(rule.tiles(*one.size, len(row.pictures)) for one in row.pictures) if rule else 0 for row in made]
    lengths = np.array([row.measured.tokens for row in made], np.int64)
    return Outline(
        source=name,
        there=len(found.fits),
        rows=round(len(made) * scale),
        turns=round(turns * scale),
        pictures=round(sum(len(row.pictures) for row in made) * scale),
        tokens=round(int(lengths.sum()) * scale),
        supervised=round(sum(row.measured.supervised for row in made) * scale),
        left_out=dict(sorted((+left).items(), key=lambda one: -one[1])),
        sampled=sampled if scale > 1 else None,
        lengths=np.minimum(lengths, limit) if limit is not None else lengths,
        tiles=np.array(tiles, np.int64),
        scale=scale,
    )


def _made(maker: MixMaker, name: str, found: Survey, rows: np.ndarray, counts: Counter[str]) -> Iterator[Row]:
    """The rows of the mix that some rows of a source become, made as a run makes them."""
    judge = maker.judges[name]
    start = 0
    for fragment in judge.dataset.fragments:
        own = rows[(rows >= start) & (rows < start + fragment.rows)] - start
        if len(own):
            part = MixFragment(name, fragment.entry, found.fragment(start, fragment.rows))
            spool = Spool()
            try:
                yield from maker.some(part, own, counts, spool)
            finally:
                spool.close()
        start += fragment.rows


def figures(one: Outline) -> dict[str, Any]:
    """The counts of an outline, for JSON."""
    kept = ("source", "there", "rows", "turns", "pictures", "tokens", "supervised", "left_out", "sampled")
    return {name: getattr(one, name) for name in kept}
