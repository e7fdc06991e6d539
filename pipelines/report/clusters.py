"""Clusters of every kind side by side: texts, embeddings, and rows that repeat another dataset's.

Pictures' own clusters are in `collect.py`, beside the pictures that it shows anyway.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from pipelines.report.pictures import Thumbnail, thumbnail
from schemas.dataset import Dataset

CLUSTERS, PER_CLUSTER, LETTERS = 12, 6, 240
KINDS = (
    ("dedupe", "", "pictures"),
    ("dedupe_text", "text_", "texts"),
    ("dedupe_semantic", "semantic_", "embeddings"),
)
"""Step, prefix of its columns, and what it compares."""


@dataclass(frozen=True)
class Member:
    """One row of a cluster: its key, what it says, its picture, and whose copy it is (empty: it represents others)."""

    key: str
    text: str
    repeats: str
    picture: Thumbnail | None = None


@dataclass
class ClustersOfKind:
    """Clusters under one heading, the largest first, from the fragments looked into."""

    title: str
    clusters: list[tuple[list[Member], int]] = field(default_factory=list)
    """Members that are shown, and how many rows the cluster has."""
    count: int = 0
    """Clusters that were seen."""


def clusters_of_kinds(dataset: Dataset, fragments: Sequence[int]) -> list[ClustersOfKind]:
    """Those that there are; `fragments` are the numbers of the ones that are looked into."""
    found = []
    for step, prefix, what in KINDS:
        if {f"{prefix}cluster", f"{prefix}cluster_size", f"{prefix}duplicate_of"} <= set(dataset.columns):
            rows = list(_rows(dataset, fragments, prefix))
            if prefix:
                found.append(_several(dataset, rows, prefix, f"Clusters of {what}"))
            found.append(_of_others(dataset, rows, step, prefix, f"Repeat {what} of another dataset"))
    return [kind for kind in found if kind.clusters]


def _rows(dataset: Dataset, fragments: Sequence[int], prefix: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number in the dataset, cluster columns) of the rows that are not alone, or repeat another dataset's."""
    names = ["key", f"{prefix}cluster", f"{prefix}cluster_size", f"{prefix}duplicate_of"]
    counts = dataset.manifest.fragments.row_counts.tolist()
    for number in fragments:
        table = dataset.fragments[number].read(names)
        kept = pc.or_kleene(pc.greater(table[names[2]], 1), pc.is_valid(table[names[3]]))
        start = sum(counts[:number])
        for offset in pc.indices_nonzero(pc.fill_null(kept, False)).to_pylist():
            key, cluster, size, repeats = (table[name][offset].as_py() for name in names)
            yield start + offset, {"key": key, "cluster": cluster, "size": size, "repeats": repeats or ""}


def _several(dataset: Dataset, rows: list[tuple[int, dict[str, Any]]], prefix: str, title: str) -> ClustersOfKind:
    groups: defaultdict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for number, row in rows:
        if row["size"] > 1:
            groups[row["cluster"]].append((number, row))
    kind = ClustersOfKind(title, count=len(groups))
    for members in sorted(groups.values(), key=lambda one: (-one[0][1]["size"], one[0][1]["cluster"]))[:CLUSTERS]:
        kind.clusters.append((_members(dataset, members[:PER_CLUSTER], prefix), members[0][1]["size"]))
    return kind


def _of_others(
    dataset: Dataset, rows: list[tuple[int, dict[str, Any]]], step: str, prefix: str, title: str
) -> ClustersOfKind:
    """Rows whose representative has the name of another dataset before its key."""
    entry = dataset.manifest.steps.get(step)
    others = [
        str(path).rstrip("/").rpartition("/")[2] for path in (entry.config.get("against") if entry else None) or ()
    ]
    found = [(number, row) for number, row in rows if row["repeats"].startswith(tuple(f"{one}:" for one in others))]
    kind = ClustersOfKind(title, count=len(found))
    if found:
        kind.clusters.append((_members(dataset, found[:CLUSTERS], prefix), len(found)))
    return kind


def _members(dataset: Dataset, rows: list[tuple[int, dict[str, Any]]], prefix: str) -> list[Member]:
    entry = dataset.manifest.steps.get("dedupe_text")
    column = (entry.config.get("column") if entry else None) or "alt_text"
    columns = [
        name for name in (column, "image") if name in dataset.columns and not (name == "image" and prefix == "text_")
    ]
    shown = []
    for number, row in rows:
        values = dataset.take([number], columns)[0] if columns else {}
        words = " ".join(_words(values.get(column)))
        text = words if len(words) <= LETTERS else f"{words[:LETTERS]}…"
        shown.append(Member(row["key"], text, row["repeats"], thumbnail(values.get("image"))))
    return shown


def _words(value: Any) -> Iterator[str]:
    """What a cell says: a text, texts of a list, or turns of messages."""
    if isinstance(value, str):
        yield value
    for one in value if isinstance(value, list) else ():
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            yield from (part["text"] for part in one.get("content") or [] if part.get("text"))
