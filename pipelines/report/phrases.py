"""Noun phrase frequencies before and after `balance`: counts of all captions, and a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from pipelines.report.counts import is_walked
from schemas.dataset import Dataset

COLUMNS = ("noun_phrases", "balance_status")
POINTS = 120
"""Of a curve: ranks that are evenly spaced in their logarithm."""
SHOWN = 10
TOGETHER = 64
"""Fragments whose counts are held before they are added up: distinct phrases are what memory grows with."""


@dataclass(frozen=True)
class Phrases:
    """Captions and distinct phrases before and after, the chart as SVG, and the phrases that lost most."""

    captions: tuple[int, int]
    phrases: tuple[int, int]
    chart: str
    shown: list[tuple[str, int, int]]


def phrases_of(dataset: Dataset) -> Phrases | None:
    """What `balance` did to a dataset; None without its columns, and in datasets too large to walk."""
    if not set(COLUMNS) <= set(dataset.columns) or not is_walked(dataset):
        return None
    total, captions, pending = _no_counts(), np.zeros(2, np.int64), []
    for fragment in dataset.fragments:
        table = fragment.read(list(COLUMNS)).combine_chunks()
        part = pc.fill_null(pc.not_equal(table.column("balance_status"), "skipped_input"), False)
        rows = table.filter(pc.and_(part, pc.is_valid(table.column("noun_phrases"))))
        kept = pc.equal(rows.column("balance_status"), "ok")
        captions += rows.num_rows, pc.sum(kept).as_py() or 0
        pending.append(_counts(rows.column("noun_phrases"), kept))
        if len(pending) == TOGETHER:
            total, pending = _added([total, *pending]), []
    total = _added([total, *pending])
    before, after = (total.column(name).to_numpy() for name in ("before", "after"))
    if not len(before):
        return None
    largest = total.take(
        pc.select_k_unstable(total, SHOWN, sort_keys=[("before", "descending"), ("phrase", "ascending")])
    )
    return Phrases(
        (int(captions[0]), int(captions[1])),
        (len(before), int((after > 0).sum())),
        rank_chart([before, after[after > 0]]),
        [(row["phrase"], row["before"], row["after"]) for row in largest.to_pylist()],
    )


def rank_chart(counts: Sequence[np.ndarray]) -> str:
    """Curves of count against rank, both axes logarithmic; the first one is drawn pale. `counts`: integers from 1."""
    widest, highest = max(map(len, counts)), max(int(one.max()) for one in counts if len(one))
    curves = "".join(_curve(one, widest, highest, "curve" if index else "raw") for index, one in enumerate(counts))
    ticks = "".join(
        f'<text x="{LEFT - 6}" y="{_down(value, highest) + 4:.1f}" text-anchor="end">{value:,}</text>'
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_down(value, highest):.1f}" y2="{_down(value, highest):.1f}" '
        'class="grid"/>'
        for value in (10**power for power in range(int(math.log10(highest)) + 1))
    )
    ends = (
        f'<text x="{LEFT}" y="{HEIGHT - 8}">rank 1</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{widest:,} phrases</text>'
    )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="chart">{ticks}{ends}{curves}</svg>'


def _curve(counts: np.ndarray, widest: int, highest: int, style: str) -> str:
    ordered = np.sort(counts)[::-1]
    if not len(ordered):
        return ""
    ranks = np.unique(np.geomspace(1, len(ordered), POINTS).round().astype(int))
    across = LEFT + (WIDTH - LEFT - RIGHT) * np.log(ranks) / max(math.log(widest), 1e-9)
    pairs = zip(across.tolist(), ordered[ranks - 1].tolist(), strict=True)
    points = " ".join(f"{x:.1f},{_down(count, highest):.1f}" for x, count in pairs)
    return f'<polyline points="{points}" class="{style}"/>'


def _down(count: int, highest: int) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - math.log(count) / max(math.log(highest), 1e-9))


def _counts(lists: pa.ChunkedArray, kept: pa.ChunkedArray) -> pa.Table:
    whole = pc.value_counts(pc.list_flatten(lists).combine_chunks())
    held = pc.value_counts(pc.list_flatten(lists.filter(kept)).combine_chunks())
    nothing = pa.array(np.zeros(len(whole), np.int64))
    before = pa.table({"phrase": whole.field("values"), "before": whole.field("counts"), "after": nothing})
    nothing = pa.array(np.zeros(len(held), np.int64))
    return pa.concat_tables(
        [before, pa.table({"phrase": held.field("values"), "before": nothing, "after": held.field("counts")})]
    )


def _added(tables: Sequence[pa.Table]) -> pa.Table:
    summed = pa.concat_tables(tables).group_by("phrase").aggregate([("before", "sum"), ("after", "sum")])
    return summed.select(["phrase", "before_sum", "after_sum"]).rename_columns(["phrase", "before", "after"])


def _no_counts() -> pa.Table:
    return pa.schema([("phrase", pa.string()), ("before", pa.int64()), ("after", pa.int64())]).empty_table()
