"""Single rows for `lavabeam show`: find rows by status, print them, write their images to files."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from lavabeam.cli.output import print_json, print_table, say, statuses_text
from schemas.dataset import Dataset
from schemas.entries import StatusRule
from schemas.errors import InputError
from schemas.standing import Standing, Use, reason_of, status_rules

LONGEST_NAME = 120
"""Bytes of a picture's file name that come from its key: file systems take 255."""


def rows_with(dataset: Dataset, wanted: str, limit: int) -> list[int]:
    """The first `limit` rows whose status of a step is as `wanted` (`step=status`) says.

    Raises InputError for an unknown step or status, naming the known ones.
    """
    step, _, status = wanted.partition("=")
    files = {known: name for name, rule in _present_rules(dataset).items() for known in (name, rule.step)}
    if step not in files or not status:
        known = ", ".join(sorted({rule.step for rule in _present_rules(dataset).values()}))
        raise InputError(f"--status {wanted}: expected step=status. Steps with statuses here: {known or 'none'}.")
    name = files[step]
    column = _present_rules(dataset)[name].column
    found, start = [], 0
    for fragment in dataset.fragments:
        values = fragment.read([column]).column(0).to_pylist() if column in fragment.owner else []
        found += [start + index for index, value in enumerate(values) if value == status]
        start += fragment.rows
        if len(found) >= limit:
            break
    if not found:
        counts = dataset.manifest.statuses().get(name)
        there = f" There are: {statuses_text(counts)}." if counts else ""
        raise InputError(f"--status {wanted}: no row of {dataset.path} has it.{there}")
    return found[:limit]


def left_out_by_step(dataset: Dataset) -> dict[str, dict[str, str]]:
    """Step -> status -> the reason under which it leaves rows out, for statuses that the dataset has."""
    counts = dataset.manifest.statuses()
    found = {name: _left_out(rule, counts.get(name, {})) for name, rule in status_rules(dataset).items()}
    return {name: statuses for name, statuses in found.items() if statuses}


def statuses_of_steps(dataset: Dataset) -> list[tuple[str, str, str]]:
    """(step, its statuses, those that leave rows out) for each step, in the dataset's order."""
    rules, left_out = status_rules(dataset), left_out_by_step(dataset)
    rows = []
    for name, counts in dataset.manifest.statuses().items():
        step = rules[name].step if name in rules else name
        statuses = left_out.get(name, {})
        words = [status if "=" in reason else f"{status} ({reason}, by choice)" for status, reason in statuses.items()]
        rows.append((step, statuses_text(counts), ", ".join(words)))
    return rows


def show_rows(dataset: Dataset, rows: list[int], images: Path | None, as_json: bool) -> None:
    """Print rows by number with all their columns, and why they are left out; raises InputError for other numbers."""
    standing = Standing.of(dataset, Use(pictures="image" in dataset.columns))
    for index, number in enumerate(rows):
        if not 0 <= number < dataset.rows:
            raise InputError(f"{dataset.path}: there is no row {number}; rows are 0 to {dataset.rows - 1}.")
        row = dataset[number]
        if images is not None:
            _write_pictures(row, images)
        fragment, offset = dataset.locate(number)
        reason = standing.of_fragment(fragment)[offset].as_py()
        shown = {"row": number, **_readable(row), "left_out": reason}
        if as_json:
            print_json(shown)
        else:
            if index:
                say()
            print_table(("column", "value"), [(name, str(value)) for name, value in shown.items() if value is not None])


def file_name(key: str) -> str:
    """A file name for a key: its letters, digits, `.`, `_` and `-`; with a hash at its end where that is not all."""
    safe = re.sub(r"[^\w.-]+", "_", key).encode()[:LONGEST_NAME].decode(errors="ignore").strip("._-")
    if safe == key:
        return safe
    return f"{safe or 'row'}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def _present_rules(dataset: Dataset) -> dict[str, StatusRule]:
    """The rules whose column some rows have."""
    counted, columns = dataset.manifest.statuses(), dataset.columns
    return {name: rule for name, rule in status_rules(dataset).items() if name in counted or rule.column in columns}


def _left_out(rule: StatusRule, counts: dict[str, int]) -> dict[str, str]:
    return {status: reason for status in counts if (reason := reason_of(rule, status)) is not None}


def _write_pictures(row: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = row.get("images") or ([row["image"]] if row.get("image") else [])
    for number, picture in enumerate(pictures):
        if picture["bytes"]:
            path = folder / f"{file_name(str(row['key']))}-{number}"
            path.write_bytes(picture["bytes"])
            say(f"wrote {path}", err=True)


def _readable(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {key: _readable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_readable(inner) for inner in value]
    return value
