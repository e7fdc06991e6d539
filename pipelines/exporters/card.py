"""The dataset card of an export, computed from the data and the manifests."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines.exporters.base import Facts
from pipelines.exporters.lineage import Ancestor, lineage, stated_licences
from pipelines.exporters.source import Source
from pipelines.exporters.tally import NOT_STATED, OTHER
from schemas.standing import status_rules

SHOWN = 50
"""Rows of a table; what is beyond is one row."""

SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
"""Hugging Face's size categories."""


def card(source: Source, facts: Facts) -> str:
    """README.md with Hugging Face's front matter."""
    tally, name = facts.tally, dataset_name(source)
    ancestors = lineage(source.dataset, *([source.images.dataset] if source.images else []))
    licences = licence_rows(facts, ancestors)
    stated = any(licence != NOT_STATED for _, licence, _ in licences)
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(facts, stated), sort_keys=False)}---\n\n# {name}\n",
        f"{describe(source, facts)}\n",
        _table("Counts", ("what", "number"), _counts(facts)),
        _table("Left out", ("reason", "rows"), _most(facts.left_out)),
        _table("Statuses of the dataset's rows", ("step", "status", "rows"), _statuses(source)),
        _table("Sources", ("source", "rows"), _most(tally.counters["sources"])),
        _table("Kinds", ("kind", "rows"), _most(tally.counters["kinds"])),
        _table(
            "Licences of the pictures, by source", ("source", "licence", "pictures"), licence_rows(facts, ancestors)
        ),
        _table("Prompts", ("provider", "model", "prompt", "version", "rows", "USD"), _prompts(facts)),
        _table(
            "Lineage", ("dataset", "schema", "version", "rows", "made by", "sha256 of its manifest"), _lines(ancestors)
        ),
    ]
    return "\n".join(part for part in parts if part)


def dataset_name(source: Source) -> str:
    return Path(source.dataset.path).name


def describe(source: Source, facts: Facts) -> str:
    """One sentence about the rows."""
    tally = facts.tally
    of = {"images": "pictures", "conversations": "conversations", "samples": "training samples"}[source.kind]
    return (
        f"{tally.sums['rows']:,} {of} with {tally.sums['pictures']:,} pictures, exported by LavaBeam from "
        f"{source.dataset.schema_version}, version {source.dataset.manifest.number} of "
        f"{source.dataset.manifest.created[:10]}."
    )


def licence_rows(facts: Facts, ancestors: list[Ancestor]) -> list[tuple[Any, ...]]:
    """(source, licence, pictures): of the exported rows, else of the images datasets that they were made from."""
    counted = [(*_pair(name), number) for name, number in facts.tally.counters["licences"].most_common()]
    if any(licence != NOT_STATED for _, licence, _ in counted):
        return counted
    before = stated_licences(ancestors)
    stated = any(licence != NOT_STATED for _, licence in before)
    return [(*pair, number) for pair, number in before.most_common()] if stated else counted


def _front_matter(facts: Facts, stated: bool) -> dict[str, Any]:
    """stated: whether any licence is known; which one is in the table."""
    rows = facts.tally.sums["rows"]
    size = next((words for limit, words in SIZES if rows < limit), "n>10M")
    return {
        "license": "other" if stated else "unknown",
        "size_categories": [size],
        "tags": ["lavabeam"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]},
        ],
    }


def _counts(facts: Facts) -> list[tuple[str, Any]]:
    sums = facts.tally.sums
    found: list[tuple[str, Any]] = [("rows", sums["rows"]), ("pictures", sums["pictures"])]
    found.append(("bytes of pictures", sums["picture_bytes"]))
    found += [(name, sums[key]) for name, key in (("answers", "turns"), ("tokens", "tokens")) if sums[key]]
    cost = sum(facts.tally.costs.values())
    if sums["output_tokens"] or cost:
        found += [("tokens read by the LLM", sums["input_tokens"]), ("tokens written by it", sums["output_tokens"])]
        found.append(("cost in USD", round(cost, 6)))
    return [*found, ("files", len(facts.shards)), ("bytes", sum(one.bytes for one in facts.shards))]


def _statuses(source: Source) -> list[tuple[Any, ...]]:
    rules = status_rules(source.dataset)
    return [
        (rules[name].step if name in rules else name, status, rows)
        for name, counts in source.dataset.manifest.statuses().items()
        for status, rows in Counter(counts).most_common()
    ]


def _prompts(facts: Facts) -> list[tuple[Any, ...]]:
    found = []
    for name, rows in facts.tally.counters["prompts"].most_common():
        words = json.loads(name) if name != OTHER else [OTHER] * 4
        found.append((*words, rows, round(facts.tally.costs.get(name, 0.0), 6)))
    return found


def _lines(ancestors: list[Ancestor]) -> list[tuple[Any, ...]]:
    return [(one.name, one.schema, one.manifest, one.rows, ", ".join(one.steps), one.sha256[:16]) for one in ancestors]


def _pair(name: str) -> tuple[str, str]:
    return tuple(json.loads(name)) if name != OTHER else (OTHER, OTHER)


def _most(counts: dict[str, int]) -> list[tuple[str, int]]:
    return Counter(counts).most_common()


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    rows = list(rows)
    if not rows:
        return ""
    lines = [columns, ["---"] * len(columns), *rows[:SHOWN]]
    if len(rows) > SHOWN:
        lines.append([f"{len(rows) - SHOWN} more", *[""] * (len(columns) - 1)])
    return f"## {title}\n\n" + "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    words = " ".join(str(value).split())
    for sign in ("\\", "|", "`", "[", "*"):
        words = words.replace(sign, f"\\{sign}")
    return words.replace("<", "&lt;")
