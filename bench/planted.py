"""Datasets of hashes with known near-copies, and their clusters found in a way that shares no code with `dedupe`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa

from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset

DISTANCE = 6
FRAGMENT_ROWS = 1000


@dataclass(frozen=True)
class Planted:
    """`hashes`: uint64, one per row; `pairs`: shape (pairs, 2), rows that were made from each other."""

    hashes: np.ndarray
    pairs: np.ndarray


def planted(rows: int) -> Planted:
    """Random hashes; 5% are another row's with 0 to 6 bits flipped."""
    random = np.random.default_rng(rows)
    hashes = random.integers(0, 2**64, rows, np.uint64)
    copies = rows // 20
    sources = random.integers(0, rows - copies, copies)
    return _with_copies(hashes, sources, random.integers(0, DISTANCE + 1, copies), random)


def identical(rows: int) -> Planted:
    """Random hashes; 5% have one and the same."""
    random = np.random.default_rng(rows)
    hashes = random.integers(0, 2**64, rows, np.uint64)
    copies = rows // 20
    return _with_copies(hashes, np.zeros(copies, np.int64), np.zeros(copies, np.int64), random)


def photographs(rows: int) -> Planted:
    """Hashes of real photographs (scikit-image's), cropped, brightened, with noise; then bits flipped to fill `rows`.

    Every row is a near-copy: thousands of different hashes around each of a few hundred views.
    """
    random = np.random.default_rng(rows)
    views = np.array([int(text, 16) for text in _photograph_hashes(random)], np.uint64)
    hashes = np.resize(views, rows)
    copies = max(0, rows - len(views))
    return _with_copies(hashes, random.integers(0, len(views), copies), random.integers(0, 5, copies), random)


KINDS: dict[str, Callable[[int], Planted]] = {"planted": planted, "identical": identical, "photos": photographs}


def write(folder: Path, rows: Planted) -> None:
    """An images dataset whose hashes and sizes are known, as after `download`; a key is `k` and the row's number."""
    schema = pa.schema([*BASE["images"], *STORED_IMAGE])
    write_dataset(folder, "images", _tables(rows.hashes, schema), batch_rows=FRAGMENT_ROWS)


def expected_clusters(rows: Planted) -> np.ndarray:
    """For each row the smallest row of its cluster: an ordinary union-find over the planted and the chance pairs."""
    parent = list(range(len(rows.hashes)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    def join(first: int, second: int) -> None:
        low, high = sorted((root(first), root(second)))
        parent[high] = low

    order = np.argsort(rows.hashes, kind="stable")
    equal = rows.hashes[order[1:]] == rows.hashes[order[:-1]]
    for first, second in zip(order[:-1][equal].tolist(), order[1:][equal].tolist(), strict=True):
        join(first, second)
    for first, second in rows.pairs.tolist():
        join(first, second)
    roots = np.array([root(row) for row in range(len(parent))])
    crowded = len(np.unique(roots)) < len(roots) // 2
    for first, second in _pairs_between(rows.hashes, roots) if crowded else _near_pairs(rows.hashes):
        join(first, second)
    return np.array([root(row) for row in range(len(parent))])


def brute_force_seconds(rows: int) -> float:
    """CPU seconds to compare all pairs of `rows` hashes in numpy."""
    hashes = np.random.default_rng(0).integers(0, 2**64, rows, np.uint64)
    started = time.process_time()
    for start in range(0, rows, 64):
        np.count_nonzero(np.bitwise_count(hashes[start : start + 64, None] ^ hashes[None, start:]) <= DISTANCE)
    return time.process_time() - started


def _pairs_between(hashes: np.ndarray, clusters: np.ndarray) -> Iterator[tuple[int, int]]:
    """Near pairs of rows in different clusters, all pairs compared: where most rows are alike few remain."""
    for start in range(0, len(hashes), 64):
        near = np.bitwise_count(hashes[start : start + 64, None] ^ hashes[None, start:]) <= DISTANCE
        near &= clusters[start : start + 64, None] != clusters[None, start:]
        for first, second in np.argwhere(near).tolist():
            yield start + first, start + second


def _near_pairs(hashes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of rows within the distance: all of them agree on two of eight bytes."""
    values, rows = np.unique(hashes, return_index=True)
    octets = values.astype("<u8").view(np.uint8).reshape(-1, 8)
    for first, second in combinations(range(8), 2):
        shared = octets[:, first].astype(np.int64) * 256 + octets[:, second]
        order = np.argsort(shared, kind="stable")
        own, bucket, step = values[order], shared[order], 1
        while True:
            together = np.flatnonzero(bucket[step:] == bucket[:-step])
            if not len(together):
                break
            near = together[np.bitwise_count(own[together] ^ own[together + step]) <= DISTANCE]
            yield from zip(rows[order[near]].tolist(), rows[order[near + step]].tolist(), strict=True)
            step += 1


def _with_copies(hashes: np.ndarray, sources: np.ndarray, flips: np.ndarray, random: np.random.Generator) -> Planted:
    """The last rows become copies of `sources`, with `flips` different bits flipped."""
    targets = np.arange(len(hashes) - len(sources), len(hashes))
    order = np.argsort(random.random((len(sources), 64)), axis=1)[:, :DISTANCE].astype(np.uint64)
    bits = np.where(np.arange(DISTANCE) < flips[:, None], np.uint64(1) << order, np.uint64(0))
    hashes[targets] = hashes[sources] ^ np.bitwise_or.reduce(bits, axis=1)
    return Planted(hashes, np.stack([sources, targets], axis=1))


def _tables(hashes: np.ndarray, schema: pa.Schema) -> Iterator[pa.Table]:
    for start in range(0, len(hashes), FRAGMENT_ROWS):
        own = hashes[start : start + FRAGMENT_ROWS]
        count, numbers = len(own), range(start, start + len(own))
        columns = {field.name: pa.nulls(count, field.type) for field in schema}
        columns |= {
            "key": pa.array([f"k{number:09d}" for number in numbers]),
            "image": pa.array([{"bytes": b"x"}] * count, schema.field("image").type),
            "sha256": pa.array([f"{number:064x}" for number in numbers]),
            "phash": pa.array([f"{value:016x}" for value in own.tolist()]),
            "width": pa.array([640] * count, pa.int32()),
            "height": pa.array([480] * count, pa.int32()),
        }
        yield pa.table(columns, schema=schema)


def _photograph_hashes(random: np.random.Generator) -> list[str]:
    from skimage import data

    from schemas.phash import hash_grey

    names = ("astronaut", "camera", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry", "moon")
    found = []
    for name in names:
        picture = getattr(data, name)().astype(np.float32)
        grey = picture.mean(axis=2) if picture.ndim == 3 else picture
        for _ in range(40):
            top, left = (int(random.integers(0, side // 4)) for side in grey.shape)
            view = grey[top : top + grey.shape[0] * 3 // 4, left : left + grey.shape[1] * 3 // 4]
            view = view * random.uniform(0.7, 1.3) + random.normal(0, 8, view.shape)
            found.append(hash_grey(np.clip(view, 0, 255).astype(np.uint8)))
    return found
