"""Renders the page: dataset sections, training curves and tables, from one template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.report.charts import figure, histogram, line_chart
from pipelines.report.collect import sections
from schemas.entries import StatusRule

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Stage:
    """One stage of training: its curve as SVG (may be empty) and its figures."""

    name: str
    curve: str
    figures: list[tuple[str, str]] = field(default_factory=list)


def write_report(datasets: Sequence[str | Path], out: Path, training: Mapping[str, Any] | None = None) -> Path:
    """Write a page about `datasets` (folders or fsspec URLs) to the file `out` and return its path.

    `training` may hold `train` (stage -> figures; a list of losses, or else the metrics.jsonl beside the stage's
    `model`, becomes a curve), `evaluation` (`accuracy`, `constant_baseline`, `questions`, and the same per kind
    in `kinds`) and `benchmarks`: lists of what `lavabeam evaluate --output` writes into scores.json.
    """
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    filters = {"thousands": lambda number: f"{number:,}", "percent": lambda share: f"{share:.1%}", "figure": figure}
    environment.filters.update(filters)
    training = training or {}
    page = environment.get_template("page.html").render(
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        sections=sections(datasets),
        histogram=histogram,
        stages=list(stages(training.get("train") or {})),
        evaluation=training.get("evaluation"),
        benchmarks=training.get("benchmarks") or [],
        tone=tone,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


HIDDEN = frozenset({"fingerprint", "model", "reused", "stage"})
"""Entries of a stage that are for machines."""

NEUTRAL = frozenset({"not_asked", "no_image", "no_context", "skipped_input", "empty", "no_text", "no_value"})
"""Statuses that are drawn neither as success nor as failure: nothing went wrong in that step."""


def tone(status: str, rule: StatusRule | None) -> str:
    """The style of a status: ok, bad, or neither. What a mix leaves out (no rule) is its policy, not a failure."""
    if status in ("ok", "taken", "taken_as_text", "taken_long", "taken_in_parts"):
        return "ok"
    return "" if rule is None or status in NEUTRAL or status in rule.by_choice else "bad"


def stages(train: Mapping[str, Any]) -> Iterator[Stage]:
    """The stages among the entries of `train`; entries that are not mappings are skipped."""
    for name, figures in train.items():
        if isinstance(figures, Mapping):
            curve = next(filter(None, map(curve_of, figures.values())), None) or _recorded(figures.get("model"))
            yield Stage(name, line_chart(curve, "steps"), list(_figures(figures)))


def _recorded(model: object) -> list[tuple[float, float]]:
    """The losses in the `metrics.jsonl` of a run folder, given the model in it; none without such a file."""
    path = Path(model).parent / "metrics.jsonl" if isinstance(model, str | Path) else None
    if path is None or not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return curve_of([line for line in lines if "eval_loss" not in line])


def _figures(values: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, str]]:
    """Names and figures for people: numbers and words, those of inner mappings with the outer name in front."""
    for key, value in values.items():
        name = f"{under} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            yield from _figures(value, name)
        elif key not in HIDDEN and not curve_of(value):
            yield name, _shown(value)


def curve_of(value: object) -> list[tuple[float, float]]:
    """Losses, or [step, loss] pairs, or {step, loss} objects as points; anything else gives no points."""
    if not isinstance(value, list) or len(value) < 2:
        return []
    if all(isinstance(item, int | float) for item in value):
        return [(float(step), float(loss)) for step, loss in enumerate(value, 1)]
    if all(isinstance(item, list | tuple) and len(item) == 2 for item in value):
        return [(float(step), float(loss)) for step, loss in value]
    if all(isinstance(item, Mapping) and {"step", "loss"} <= item.keys() for item in value):
        return [(float(item["step"]), float(item["loss"])) for item in value]
    return []


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
