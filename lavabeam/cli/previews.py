"""Output of `--dry-run`: the planned work per fragment and the estimated LLM requests."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lavabeam.cli.output import print_json, print_table, say

_COLUMNS = ("step", "dataset", "to make", "reused", "to continue", "dropped", "becomes stale")
_SUMS = ("requests", "cached", "input_tokens", "output_tokens", "cost", "most")
_SUM_COLUMNS = ("prompt", "requests", "cached", "tokens in", "tokens out", "USD", "most USD")


def print_previews(previews: list[tuple[Any, dict[str, Any] | None]], as_json: bool) -> None:
    """Previews (pipelines/engine/preview.py), each with its estimate (pipelines/llm/estimate.py) or None."""
    if as_json:
        return print_json([_as_json(one, estimate) for one, estimate in previews])
    every = [part for one, _ in previews for part in (one, *one.parts)]
    print_table(_COLUMNS, [_row(one) for one in every], title="What a run would do (numbers are fragments)")
    for one, estimate in previews:
        if estimate is not None:
            print_estimate(f"\n{one.step}, ", estimate)
    for one in every:
        if warning := one.warning():
            say(f"lavabeam: {warning}", err=True)
    return None


def print_preview(preview: Any, estimate: dict[str, Any] | None, as_json: bool) -> None:
    """The preview of one command; as JSON an object, with the estimate's values beside its own."""
    if as_json:
        print_json(_as_json(preview, estimate))
    else:
        print_previews([(preview, estimate)], False)


def _as_json(preview: Any, estimate: dict[str, Any] | None) -> dict[str, Any]:
    return {**asdict(preview), **(estimate or {})}


def _row(one: Any) -> tuple:
    if one.after:
        return one.step, one.dataset, f"known after {one.after}", "", "", "", ""
    parts = ((one.newly_chosen, "newly chosen"), (one.retried_rows, "again"))
    rows = ", ".join(f"{count} row{'' if count == 1 else 's'} {why}" for count, why in parts if count)
    retried = f"{one.retried} ({rows})" if one.retried else "0"
    stale = ", ".join(f"{step} {count}" for step, count in one.stale.items())
    return one.step, one.dataset, str(one.made), str(one.reused), retried, str(one.removed), stale or "nothing"


def print_estimate(title: str, totals: dict[str, Any]) -> None:
    """What would be asked (pipelines/llm/estimate.py) as a table."""
    prompts = {**totals["by_prompt"], "all": totals}
    rows = [(prompt, *(sums[name] for name in _SUMS)) for prompt, sums in prompts.items()]
    title += f"{totals['provider']}/{totals['model']}: requests that a run would send; most: every answer at its limit"
    print_table(_SUM_COLUMNS, rows, title=title)
