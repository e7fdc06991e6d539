"""The demo end to end: prepare inputs, run the data recipe, train, evaluate, and record the results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lavabeam.demo.inputs import prepare
from lavabeam.demo.teacher import Teacher
from pipelines.engine.runners import Runner
from pipelines.engine.summary import RunSummary
from pipelines.recipes import Action, load_recipe

RECIPES = Path(__file__).parent.parent / "recipes"

Say = Callable[[str], None]


def run_demo(folder: str | Path, runner: Runner, say: Say) -> dict[str, Any]:
    """Run everything in `folder` and return the content of `summary.json`. Existing results are not computed again.

    steps: rows per status of every step. train: losses and seconds per stage. evaluation: accuracy on Easy-VQA's own
    test split beside the best constant answer per question type. seconds: of each part, and in total.
    """
    from lavabeam.demo.training import train_demo
    from pipelines.report import write_report

    folder, started = Path(folder), time.monotonic()
    data = run_data(folder / "output", runner, say)
    seconds = {"data": round(time.monotonic() - started, 1)}
    trained = train_demo(folder / "output", say)
    seconds["total"] = round(time.monotonic() - started, 1)
    summary = {**data, **trained, "seconds": seconds}
    summary["recomputed"] = bool(data["made"] or not trained["train"].get("reused"))
    datasets = [str(folder / "output" / name) for name in ("photos", "talks", "questions", "pretrain", "finetune")]
    report = folder / "report.html"
    write_report(datasets, report, trained)
    summary["report"] = str(report)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
    return summary


def run_data(work: Path, runner: Runner, say: Say) -> dict[str, Any]:
    """Run the data recipe against the demo's website and teacher; rows per status of every step, and requests sent."""
    work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        session = stack.enter_context(runner.session())
        prepared = prepare(work, work / "photos")
        if prepared.note:
            say(prepared.note)
        if prepared.server is not None:
            stack.enter_context(prepared.server)
        teacher = stack.enter_context(Teacher(log=work / "teacher.jsonl"))
        variables = {"urls": str(prepared.url_list), "teacher": teacher.base_url, "cache": str(work / "llm-cache")}
        steps: dict[str, dict[str, int]] = {}
        made = 0
        for action in load_recipe(RECIPES / "data" / "demo.yaml", work, variables):
            summary = _act(action, session, work)
            steps[_name(summary)] = summary.statuses or {"ok": summary.rows}
            made += summary.made
            say(_summary_line(_name(summary), summary))
        return {"steps": steps, "made": made, "llm_requests": len(teacher.requests)}


def _act(action: Action, runner: Runner, work: Path) -> RunSummary:
    if action.title.startswith("mix"):
        _make_tokenizer(work)
    return action.run(runner, "")


def _make_tokenizer(work: Path) -> None:
    """Train the tokenizer that the mix counts with on the conversations, once."""
    from lavabeam.demo.training import TALKS, train_tokenizer

    if not (work / "tokenizer" / "tokenizer.json").is_file():
        train_tokenizer([talk.below(work) for talk in TALKS], work / "tokenizer")


def _name(summary: RunSummary) -> str:
    several = summary.step in ("import", "mix")
    return f"{summary.step} {Path(summary.dataset).name}" if several else summary.step


def _summary_line(name: str, summary: RunSummary) -> str:
    statuses = ", ".join(f"{count} {status}" for status, count in summary.statuses.items())
    done = f"{summary.seconds:.1f} s" if summary.made else "nothing to do"
    return f"{name}: {summary.rows} rows ({statuses}), {done}"
