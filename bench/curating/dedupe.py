"""Near text beside datasketch, hashes beside ImageHash, and what the dedupe steps cost.

    python -m bench.curating.dedupe [--texts 100000] [--peer-texts 10000] [--embeddings 10000,30000]

Texts are made like CC3M's captions: 3 to 20 words, shaped by Zipf's law, a tenth of them another one with a word
changed or added. Recall is the share of planted pairs at or above the threshold that a method finds. Steps are whole
commands.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from bench.curating.copies import encoded, photographs
from pipelines.dedupe.detail import detail_of
from pipelines.dedupe.minhash import bands_for, bands_of, connect_similar, grams
from pipelines.dedupe.semantic import DedupeSemantic, SemanticConfig
from pipelines.dedupe.text import DedupeText, TextConfig
from pipelines.engine.components import Components
from pipelines.engine.runners import Runner
from pipelines.engine.step import DatasetStep
from pipelines.engine.work import run_step
from pipelines.texts import words
from schemas import Dataset
from schemas.phash import hash_picture
from schemas.records import IMAGES
from schemas.writing import write_dataset

WORK = Path(__file__).parent.parent / "output" / "curating-dedupe"
THRESHOLD, LENGTH, PERMUTATIONS = 0.7, 2, 128
GOAL_TEXT, GOAL_HASH = 10, 3


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--peer-texts", type=int, default=20_000)
    parser.add_argument("--embeddings", type=_sizes, default="10000,30000")
    parser.add_argument("--size", type=int, default=512)
    asked = parser.parse_args(arguments)
    figures: dict[str, Any] = {"hash": hashes(), "text": near_text(asked.peer_texts)}
    figures["text_step"] = [text_step(asked.texts, workers) for workers in (1, 2)] if asked.texts else []
    figures["semantic_step"] = [semantic_step(rows, asked.size) for rows in asked.embeddings]
    print(json.dumps({"bench": "curating.dedupe", **figures}))


def hashes() -> dict[str, float]:
    """Milliseconds of CPU for the hash of a JPEG of 640 x 480, from its bytes; medians of five rounds."""
    import imagehash

    photos = [one.resize((640, 480)) for one in photographs(("astronaut", "chelsea", "coffee", "rocket")).values()]
    files = [encoded(one, "JPEG", quality=90) for one in photos]
    ours = _milliseconds(lambda: [hash_picture(data) for data in files]) / len(files)
    cells = _milliseconds(lambda: [detail_of(data) for data in files]) / len(files)
    theirs = _milliseconds(lambda: [imagehash.phash(Image.open(io.BytesIO(one))) for one in files]) / len(files)
    print(f"hash: {ours:.2f} ms, ImageHash {theirs:.2f} ms, {theirs / ours:.1f} times; details {cells:.2f} ms")
    return {"ours_ms": ours, "imagehash_ms": theirs, "ratio": theirs / ours, "details_ms": cells, "goal": GOAL_HASH}


def near_text(rows: int) -> dict[str, float]:
    """From texts to verified pairs, ours and datasketch's, on the same texts."""
    texts, pairs = captions(rows)
    split = [words(text) for text in texts]
    sets = [{tuple(one[at : at + LENGTH]) for at in range(max(len(one) - LENGTH + 1, 1))} for one in split]
    similar = [(a, b) for a, b in pairs if len(sets[a] & sets[b]) >= THRESHOLD * len(sets[a] | sets[b])]

    grams(texts[:100], LENGTH)  # tables that are made once
    started = time.process_time()
    numbers, ends, _ = grams(texts, LENGTH)
    bands = bands_of(numbers, ends, *bands_for(THRESHOLD, PERMUTATIONS))
    found = Components(rows)
    connect_similar(numbers, ends, bands, np.zeros(rows, np.int64), THRESHOLD, found)
    ours = time.process_time() - started
    roots = found.roots(np.arange(rows))
    recall = sum(roots[a] == roots[b] for a, b in similar) / len(similar)

    started = time.process_time()
    other = _by_datasketch(texts)
    theirs = time.process_time() - started
    peer = sum(other[a] == other[b] for a, b in similar) / len(similar)
    print(
        f"near text, {rows} texts, {len(similar)} pairs: {ours:.2f} s, recall {recall:.4f}; datasketch {theirs:.2f} s, "
        f"recall {peer:.4f}; {theirs / ours:.1f} times"
    )
    return {
        "rows": rows,
        "ours_s": ours,
        "datasketch_s": theirs,
        "ratio": theirs / ours,
        "goal": GOAL_TEXT,
        "recall": recall,
        "datasketch_recall": peer,
    }


def _by_datasketch(texts: list[str]) -> list[int]:
    """The root of each text: datasketch's MinHash and LSH, candidates verified by their sets, a plain union-find."""
    from datasketch import MinHash, MinHashLSH

    split = [words(text) for text in texts]
    sets = [{" ".join(one[at : at + LENGTH]) for at in range(max(len(one) - LENGTH + 1, 1))} for one in split]
    bands, per_band = bands_for(THRESHOLD, PERMUTATIONS)
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(bands, per_band))
    parent = list(range(len(texts)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for row, own in enumerate(sets):
        made = MinHash(num_perm=PERMUTATIONS)
        made.update_batch([one.encode() for one in own])
        for other in index.query(made):
            if root(other) != root(row) and len(own & sets[other]) >= THRESHOLD * len(own | sets[other]):
                parent[max(root(row), root(other))] = min(root(row), root(other))
        index.insert(row, made)
    return [root(row) for row in range(len(texts))]


def captions(rows: int, seed: int = 5) -> tuple[list[str], list[tuple[int, int]]]:
    """(texts, planted pairs): Zipf-shaped words, and every tenth text an earlier one with one word changed or added."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 21, rows)
    # Zipf's law with Mandelbrot's offset: the commonest word is 6% of all, the tenth 1%.
    shares = np.cumsum(1 / (np.arange(40_000) + 2.7) ** 1.1)
    drawn = np.searchsorted(shares / shares[-1], random.random(int(lengths.sum())))
    texts, pairs, start = [], [], 0
    for row, length in enumerate(lengths.tolist()):
        own = [f"w{word}" for word in drawn[start : start + length]]
        start += length
        if row % 10 == 9:
            source = int(random.integers(row))
            own = texts[source].split()
            place = int(random.integers(len(own) + 1))
            own[place : place + int(random.integers(2))] = [f"n{row}"]
            pairs.append((source, row))
        texts.append(" ".join(own))
    return texts, pairs


def text_step(rows: int, workers: int) -> dict[str, float]:
    """The whole command on `rows` texts, keys and verdicts."""
    texts, _ = captions(rows)
    tables = (
        pa.Table.from_pylist(
            [{"key": f"k{row}", "alt_text": texts[row]} for row in range(at, min(at + 5000, rows))], IMAGES
        )
        for at in range(0, rows, 5000)
    )
    path = _fresh("texts")
    write_dataset(path, "images", tables, batch_rows=5000)
    return _step(DedupeText(TextConfig()), path, rows, workers)


def semantic_step(rows: int, size: int) -> dict[str, float]:
    """The whole command on `rows` random directions of `size` numbers, a twentieth of them near another one."""
    random = np.random.default_rng(2)
    vectors = random.normal(size=(rows, size)).astype(np.float32)
    copies = np.arange(19, rows, 20)
    vectors[copies] = vectors[copies - 7] + random.normal(size=(len(copies), size)).astype(np.float32) * 0.1
    kind = pa.list_(pa.float32(), size)
    path = _fresh("embeddings")
    tables = []
    for at in range(0, rows, 5000):
        part = vectors[at : at + 5000]
        table = pa.Table.from_pylist([{"key": f"k{row}"} for row in range(at, at + len(part))], IMAGES)
        column = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), size)
        tables.append(table.append_column(pa.field("embedding", kind), column))
    write_dataset(path, "images", tables, batch_rows=5000)
    done = _step(DedupeSemantic(SemanticConfig()), path, rows, 1)
    statuses = Dataset.open(path).manifest.statuses()["dedupe_semantic"]
    return {**done, "size": size, "found": statuses.get("near_copy", 0), "planted": len(copies)}


def _step(step: DatasetStep, path: Path, rows: int, workers: int) -> dict[str, float]:
    """CPU of this process and of worker processes, and the largest resident memory so far."""
    before, wall = _cpu(), time.time()
    run_step(step, path, Runner("local", workers))
    cpu, wall = _cpu() - before, time.time() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{step.name}, {rows} rows, {workers} workers: {cpu:.1f} s CPU, {rows / wall:.0f} rows/s, {peak:.0f} MB")
    return {"rows": rows, "workers": workers, "cpu_s": cpu, "rows_per_s": rows / wall, "peak_mb": peak}


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _milliseconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(5):
            work()
        times.append((time.process_time() - started) / 5 * 1000)
    return sorted(times)[2]


def _fresh(name: str) -> Path:
    shutil.rmtree(WORK / name, ignore_errors=True)
    return WORK / name


def _sizes(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


if __name__ == "__main__":
    main()
