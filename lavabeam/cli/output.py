"""Results on stdout: tables for people, JSON for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

LONGEST_LINE = 2000
"""Columns of a table that goes into a file or another program, where nobody folds lines to a screen."""


_STEERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
"""Characters that steer a terminal or are not seen: control characters (ECMA-48: C0 but for tab and line feed, DEL,
C1), marks that turn the direction of text, invisible ones, and surrogates, which cannot be written at all."""


def say(text: str = "", err: bool = False, nl: bool = True) -> None:
    """Print to stdout, or to stderr. All output of a command passes here or through a table: nothing in untrusted text
    (a manifest, a file's name, a server's answer) reaches a terminal as a command."""
    click.echo(escaped(text), err=err, nl=nl)


def print_json(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, default=str)
    click.echo(_STEERS.sub(lambda found: json.dumps(found[0])[1:-1], text))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """A table; columns of numbers are aligned to the right. Only a terminal wraps lines: a file keeps a row a line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = [escaped(name) for name in columns]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(cell)) for cell in row))  # not a str, in which [words] would be markup
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, LONGEST_LINE)
    if title:  # not the table's own, which is folded to its width
        console.print(Text(escaped(title)), style="italic")
    console.print(table)


def print_summaries(summaries: list[Any], as_json: bool, more: Sequence[dict[str, Any]] = ()) -> None:
    """What runs did: one line each; notes go to stderr. `more` is added to the JSON of each run."""
    for note in [note for one in summaries for note in one.notes]:
        say(f"lavabeam: {note}", err=True)
    if as_json:
        beside = more or [{}] * len(summaries)
        return print_json([{**asdict(one), **extra} for one, extra in zip(summaries, beside, strict=True)])
    rows = [
        (one.step, one.dataset, one.rows, statuses_text(one.statuses), one.made, one.reused, one.seconds)
        for one in summaries
    ]
    print_table(("step", "dataset", "rows", "statuses", "made", "reused", "seconds"), rows)
    if not any(one.made for one in summaries):
        click.echo("Everything already exists: nothing was computed.")
    return None


def summary_line(summary: Any) -> str:
    """One line about a run, for stderr while others follow."""
    done = f"{summary.made} fragments made, {summary.reused} reused" if summary.made else "nothing to do"
    statuses = f" ({statuses_text(summary.statuses)})" if summary.statuses else ""
    return f"{summary.rows} rows{statuses}; {done}"


def statuses_text(statuses: dict[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(statuses.items(), key=lambda item: -item[1]))


def escaped(text: str) -> str:
    """Untrusted text made safe for a terminal: control characters are escaped. Lines stay lines."""
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def one_line(text: str) -> str:
    """`escaped`, with tabs and line feeds written out too."""
    return escaped(text).replace("\n", "\\n").replace("\t", "\\t")


def _shown(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.2f}" if abs(cell) >= 0.01 or cell == 0 else f"{cell:.1e}"
    return "" if cell is None else escaped(str(cell))
