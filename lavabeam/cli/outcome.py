"""Exit codes and `--min-ok`."""

from __future__ import annotations

from typing import Any

import click

from lavabeam.cli.output import say, statuses_text

UNUSABLE = 3
DOUBTFUL = 5
INTERRUPTED = 130
EXIT_CODES = (
    "Exit codes: 0 done, or nothing to do; 1 a bug, or workers that kept dying; 2 bad input; "
    "3 done, but no row of the result is usable, or fewer than --min-ok; 4 conflict with another run; "
    "5 done, but the result is uninformative (a judge whose scores are all equal); 130 interrupted."
)
MIN_OK = click.Option(
    ["--min-ok"],
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Exit with code 3 if less than this share (0 to 1) of the rows that the step processes is usable.",
)
DRY_RUN = click.Option(
    ["--dry-run"],
    is_flag=True,
    help="Show what would be made, reused, retried and dropped, and the cost of LLM requests.",
)


def complaint(summary: Any, min_ok: float | None) -> str:
    """Why the result of a run is not good enough; empty when it is. It goes by what is there, made now or before."""
    statuses = f": {statuses_text(summary.statuses)}" if summary.statuses else ""
    if not summary.rows or summary.ok == 0:
        return f"{summary.step}: no row of {summary.dataset} is usable{statuses}."
    share = summary.usable_share
    if min_ok is None or share is None or share >= min_ok:
        return ""
    return (
        f"{summary.step}: {summary.ok} of {summary.asked} rows are usable ({share:.3f}), fewer than "
        f"--min-ok {min_ok:g}{statuses}."
    )


def finish(summaries: list[Any], min_ok: float | None) -> None:
    """Say on stderr what is not good enough, and end the command with 3 if anything is not, or with 5 if a step doubts
    its own result."""
    wrong = [words for summary in summaries if (words := complaint(summary, min_ok))]
    doubts = [f"{summary.step}: {summary.doubt}" for summary in summaries if summary.doubt]
    for words in [*wrong, *doubts]:
        say(f"lavabeam: {words}", err=True)
    if wrong or doubts:
        click.get_current_context().exit(UNUSABLE if wrong else DOUBTFUL)
