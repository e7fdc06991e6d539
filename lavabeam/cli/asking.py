"""Terminal output about LLM requests: responses and cost by model and prompt, and why rows have no answer."""

from __future__ import annotations

from typing import Any

from lavabeam.cli.output import print_summaries, print_table, say
from pipelines import catalog

_NAMES = ("model", "prompt", "answers", "cached", "input_tokens", "output_tokens", "cost", "paid")
_COLUMNS = ("model", "prompt", "answers", "from cache", "tokens in", "tokens out", "USD total", "USD paid now")
_STOPPED = ("unauthorized", "unknown_model")
_REMEDIES = {
    "unauthorized": "Set the key, or add credit; then run it again.",
    "unknown_model": "Correct the model or the base_url, then run it again.",
    "bad_request": "The server rejects this kind of request: check temperature (null leaves it out), extra and "
    "output_limit_field, then run it again with `--retry bad_request`.",
    "budget_exhausted": "Raise the cap and run it again: it continues from there.",
}


def read_asking(summary: Any) -> dict[str, Any]:
    """What the run of `summary` asked (pipelines/llm/tally.py); {} where nothing was."""
    if not summary.made or not catalog.asks_llm(summary.step):
        return {}
    from pipelines.llm.tally import read_run

    report = read_run(summary.dataset, summary.run)
    return report if report["answers"] or report["unanswered"] else {}


def was_stopped(asked: dict[str, Any]) -> bool:
    """Whether it was the key, the credit or the model: then nothing that follows makes sense."""
    return any(one["status"] in _STOPPED for one in asked.get("unanswered", ()))


def print_runs(summaries: list[Any], asked: list[dict[str, Any]], as_json: bool) -> None:
    """What runs did and what they asked; on stderr why rows have no answer. Raises InputError after a `was_stopped`."""
    print_summaries(summaries, as_json, asked)
    if not as_json:
        for report in asked:
            _print_answers(report)
    _print_missing(
        [(summary.step, one) for summary, report in zip(summaries, asked, strict=True) for one in _missing(report)]
    )


def print_asked(name: str, report: dict[str, Any], as_json: bool) -> None:
    """What a command asked that is not a step (`Tally.report`), and why it has no answers; raises as `print_runs`."""
    if not as_json:
        _print_answers(report)
    _print_missing([(name, one) for one in _missing(report)])


def _print_missing(missing: list[tuple[str, dict[str, Any]]]) -> None:
    from schemas.errors import InputError

    for step, one in missing:
        again = (
            f"`--retry {one['status']}` retries them." if catalog.asks_llm(step) else "The same command retries them."
        )
        remedy = _REMEDIES.get(one["status"], again)
        rows = "1 row has" if one["rows"] == 1 else f"{one['rows']} rows have"
        words = f"{step}: {rows} status {one['status']}, for example: {one['detail']}\n{remedy}"
        if one["status"] in _STOPPED:
            raise InputError(words)
        say(f"lavabeam: {words}", err=True)


def _print_answers(report: dict[str, Any]) -> None:
    if report.get("answers"):
        rows = [tuple(one[name] for name in _NAMES) for one in report["answers"]]
        print_table(_COLUMNS, rows, title="\nAnswers of this run")


def _missing(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Reasons for no answer, those that stop a run last."""
    return sorted(report.get("unanswered", ()), key=lambda one: one["status"] in _STOPPED)
