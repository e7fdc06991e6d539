"""Balance of captions like CC3M's at growing sizes, beside the rule word by word in Python's dictionaries.

    python -m bench.curating.balance [--sizes 30000,100000,300000,1000000] [--published 3300000]

Each run is the whole command (`lavabeam balance`: phrases, then verdicts). The peer finds the same phrases and applies
the rule with dictionaries, in one process; its rows are compared with ours. `--published` applies the rule, without
text, to as many captions as CC3M has, and prints what is kept beside the published figures (0: not).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.curating.captions import CC3M_CAPTIONS, MOST_RANKS, SPECTRA, captions, phrase_ranks
from bench.curating.commands import Cost, lavabeam
from pipelines.balance.draw import MENTIONS, counted, draws, fill, open_turns, text_hashes, verdicts
from pipelines.balance.phrases import LEXICON, finder
from schemas.dataset import Dataset
from schemas.records import BASE
from schemas.writing import write_dataset

WORK = Path(__file__).parents[1] / "output" / "balance"
FRAGMENT_ROWS = 5000
LEAST, MOST = 3, 100
PEER_ROWS = 100_000
PUBLISHED = {"kept": 595_375 / CC3M_CAPTIONS, "phrases before": 108_182, "phrases after": 31_423}
"""Of CC3M-595K: arXiv 2304.08485, figure 7, and LLaVA issue 34."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=_sizes, default="30000,100000,300000,1000000")
    parser.add_argument("--workers", type=_sizes, default="1,2")
    parser.add_argument("--published", type=int, default=CC3M_CAPTIONS)
    chosen = parser.parse_args(arguments)
    found: list[dict[str, Any]] = []
    if chosen.published:
        for spectrum, rule in product(SPECTRA, ("pool", "union")):
            found.append(published(chosen.published, rule, spectrum))
            print(json.dumps(found[-1]), flush=True)
    costs: dict[int, Cost] = {}
    for rows in chosen.sizes:
        for workers in chosen.workers:
            cost, different = measured(rows, workers)
            costs[rows] = costs.get(rows, cost)
            peer = f"; the peer takes {different[1]:.1f} s CPU, {different[0]} rows differ" if different else ""
            print(
                f"{rows:8} rows, {workers} workers: {rows / cost.wall:7.0f} rows/s, {cost.cpu:6.1f} s CPU, "
                f"{cost.peak_mb:5.0f} MB{peer}",
                flush=True,
            )
            found.append({"rows": rows, "workers": workers, "cpu": round(cost.cpu, 1), "rows_per_s": rows / cost.wall})
            found[-1] |= {"peak_mb": round(cost.peak_mb)}
            if different:
                found[-1] |= {"different": different[0], "peer": different[1], "ratio": different[1] / cost.cpu}
    if len(costs) > 1:
        least, most = min(costs), max(costs)
        exponent = math.log(costs[most].cpu / costs[least].cpu) / math.log(most / least)
        found.append({"figure": "growth exponent of CPU, start-up included", "value": round(exponent, 2)})
    print(json.dumps(found))


def measured(rows: int, workers: int) -> tuple[Cost, tuple[int, float] | None]:
    """What the command costs; at `PEER_ROWS` and below, rows that the peer decides otherwise and the peer's CPU."""
    folder = WORK / f"{rows}-{workers}"
    shutil.rmtree(folder, ignore_errors=True)
    write_dataset(folder, "images", tables(rows))
    cost = lavabeam("balance", str(folder), "--workers", str(workers))
    compared = None
    if rows <= PEER_ROWS and workers == 1:
        kept, used = by_dictionaries(captions(rows))
        ours: list[str] = []
        for fragment in Dataset.open(folder).fragments:
            table = fragment.read(["balance_status"])
            ours += table.column(0).to_pylist()
        compared = (sum((status == "ok") != (row in kept) for row, status in enumerate(ours)), used)
    shutil.rmtree(folder)
    return cost, compared


def by_dictionaries(texts: list[str]) -> tuple[set[int], float]:
    """(rows that the rule keeps, seconds of CPU), written as the paper says it, with our draws."""
    started = time.process_time()
    of: defaultdict[str, list[int]] = defaultdict(list)
    for row, phrases in enumerate(finder(LEXICON)(texts)):
        for phrase in phrases:
            of[phrase].append(row)
    hashes = dict(zip(of, text_hashes(list(of)).tolist(), strict=True))
    keys = text_hashes([_key(row) for row in range(len(texts))], "0")
    pool: set[int] = set()
    for phrase in sorted((p for p in of if len(of[p]) >= LEAST), key=lambda p: (len(of[p]), hashes[p])):
        rows = np.array(of[phrase])
        order = rows[np.argsort(draws(keys[rows], np.uint64([hashes[phrase]])))].tolist()
        free = [row for row in order if row not in pool]
        pool.update(free[: max(MOST - (len(order) - len(free)), 0)])
    return pool, time.process_time() - started


def published(count: int, rule: str, spectrum: str) -> dict[str, Any]:
    """What the rule keeps of `count` captions, by their phrases' ranks, beside the published figures."""
    ranks, starts = phrase_ranks(count, spectrum=spectrum)
    both = np.unique(np.repeat(np.arange(count) * MOST_RANKS, np.diff(starts)) + ranks)
    rows, ranks = both // MOST_RANKS, both % MOST_RANKS
    phrase = ranks.astype(np.uint64)
    drawn_at = draws(rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15), phrase)
    arrays = [pa.array(rows), pa.array(phrase), pa.array(drawn_at), pa.array(np.zeros(len(rows), np.int32))]
    found = counted(pa.RecordBatch.from_arrays(arrays, schema=MENTIONS), LEAST, MOST, rule == "union")
    decided = verdicts(found)
    kept = decided.column("row").to_numpy()[decided.column("drawn").to_numpy(zero_copy_only=False)]
    if rule == "pool":
        kept = np.append(kept, fill(*open_turns(found, MOST), MOST))
    _, before = np.unique(ranks, return_counts=True)
    _, after = np.unique(ranks[np.isin(rows, kept)], return_counts=True)
    return {
        "rule": rule,
        "spectrum": spectrum,
        "captions": count,
        "kept": round(len(kept) / count, 4),
        "phrases in all": len(before),
        "phrases before": int((before >= LEAST).sum()),
        "phrases after": int((after >= LEAST).sum()),
        "phrases after, of any count": len(after),
        "most frequent before and after": [int(before.max()), int(after.max())],
        "published": PUBLISHED,
    }


def tables(rows: int) -> Iterator[pa.Table]:
    """An images dataset of captions without pictures."""
    schema, texts = pa.schema(BASE["images"]), captions(rows)
    for start in range(0, rows, FRAGMENT_ROWS):
        own = texts[start : start + FRAGMENT_ROWS]
        columns = {field.name: pa.nulls(len(own), field.type) for field in schema}
        columns |= {"key": pa.array([_key(row) for row in range(start, start + len(own))]), "alt_text": pa.array(own)}
        yield pa.table(columns, schema=schema)


def _key(row: int) -> str:
    return f"k{row:09d}"


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]


if __name__ == "__main__":
    main()
