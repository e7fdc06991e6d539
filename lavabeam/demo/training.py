"""The demo's training: base model, stage 1, stage 2, evaluation. Datasets in, a checkpoint and results out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lavabeam.demo.base_model import Talk, make_base_model, train_tokenizer
from lavabeam.demo.evaluation import evaluated
from lavabeam.demo.inputs import evaluation_questions
from trainer.launch import train

__all__ = ["TALKS", "train_demo", "train_tokenizer"]

RECIPES = Path(__file__).resolve().parent.parent / "recipes" / "training"
Say = Callable[[str], None]

TALKS = (
    Talk("talks", "plain", ("describe",)),
    Talk("talks", "mistral", ("conversation", "detail", "reasoning")),
    Talk("questions", "mistral"),
)
"""What the tokenizer and the language model are trained on, in the templates of the two mixes."""


def train_demo(work: str | Path, say: Say = print, processes: int | None = None) -> dict[str, Any]:
    """Train the small LLaVA on the datasets in `work` and evaluate it on Easy-VQA's test split. Existing results from
    the same inputs are reused.

    Reads photos, talks, questions, tokenizer, pretrain, finetune; writes base, stage1, stage2, evaluation.json.
    The trained model is `stage2/model`. Returns {"train": {"base", "stage1", "stage2", "reused"}, "evaluation",
    "model"}; each part has its losses and seconds.
    """
    work = Path(work)
    talks = [talk.below(work) for talk in TALKS]
    base = _timed(lambda: make_base_model(work / "photos", talks, work / "tokenizer", work / "base"))
    say(
        _summary_line(
            "base model", base, f"tower loss {base['tower']['loss']}, language loss {base['language']['loss']}"
        )
    )
    parts = {"base": base}
    start = base["model"]
    for stage, mix in (("stage1", "pretrain"), ("stage2", "finetune")):
        overrides = {"model.checkpoint": str(start), "data.mix": str(work / mix), "output": str(work / stage)}
        recipe = RECIPES / f"demo-{mix}.yaml"
        result = train(recipe, processes=processes, overrides=overrides, replace=True, report=say)
        if result.get("stopped"):  # by Ctrl-C or SIGTERM
            raise KeyboardInterrupt
        parts[stage] = result
        start = result["model"]
        say(_summary_line(stage, result, f"loss {result['first_loss']:.3f} -> {result['last_loss']:.3f}"))
    evaluation = evaluated(start, evaluation_questions(), work / "evaluation.json")
    say(
        _summary_line(
            "evaluation", evaluation, f"{evaluation['accuracy']:.1%} of {evaluation['questions']} questions right"
        )
    )
    reused = all(part["reused"] for part in (*parts.values(), evaluation))
    return {"train": {**parts, "reused": reused}, "evaluation": evaluation, "model": str(start)}


def _timed(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    began = time.perf_counter()
    made = make()
    return {**made, "seconds": round(time.perf_counter() - began, 2)}


def _summary_line(name: str, result: dict[str, Any], text: str) -> str:
    return f"{name}: {text}" + (" (already made, nothing recomputed)" if result["reused"] else "")
