"""What `evaluate` prints of one benchmark."""

from __future__ import annotations

from typing import Any

from lavabeam.cli.lmms import print_lmms
from lavabeam.cli.output import print_table, say, statuses_text


def print_report(report: dict[str, Any]) -> None:
    """The scores, and what was left out, missing or unreadable."""
    join = report["join"]
    say(f"{report['benchmark']}, protocol {report['protocol']}: {join['answered']} of {join['questions']} answered")
    off = {key: count for key, count in join.items() if key in ("missing", "doubled", "foreign", "blank") and count}
    if off:
        say(f"lavabeam: {statuses_text(off)} answers", err=True)
    if cached := report.get("statuses", {}).get("cached"):
        say(f"lavabeam: {cached} answers came from the cache next to the answers", err=True)
    if left := report.get("left_out"):
        say(f"lavabeam: left out of the set: {statuses_text(left)}", err=True)
    if ungraded := report.get("ungraded"):
        total = report["scored"] + sum(ungraded.values())
        say(
            f"lavabeam: {sum(ungraded.values())} of {total} answers have no grade and enter no figure: "
            f"{statuses_text(ungraded)}",
            err=True,
        )
    if unreadable := report.get("unreadable"):
        what = "reviews are unreadable and excluded from means" if report["benchmark"] == "llava-bench" else ""
        what = what or "answers have an unreadable format and count as wrong"
        say(f"lavabeam: {unreadable} {what}", err=True)
    if report["scores"] is None:
        say("not scored: no ground truth or reviews were given")
    else:
        _print_scores(report)
    if "lmms_eval" in report:
        print_lmms(report["lmms_eval"])
    if "page" in report:
        say(f"page: {report['page']}")
    if "upload" in report:
        say(f"upload: {report['upload']['file']} ({report['upload']['rows']} rows)")


def _print_scores(report: dict[str, Any]) -> None:
    level = f"{report['interval']['level']:.0%} interval"
    rows = [(name, one["value"], _interval(one)) for name, one in report["scores"].items()]
    print_table(("score", "value", level), rows)
    if not report["categories"]:
        return
    names = [key for key in next(iter(report["categories"].values())) if key != "units"]
    lines = []
    for category, one in report["categories"].items():
        first = one[names[0]]
        lines.append((category, one["units"], *(one[key]["value"] for key in names), _interval(first)))
    print_table(
        ("category", "number", *names, f"{level} of {names[0]}"), lines, title=f"\nPer {report['interval']['unit']}"
    )


def _interval(figure: dict[str, Any]) -> str:
    return "" if figure["low"] is None else f"{figure['low']:.2f} to {figure['high']:.2f}"
