"""Putting the page together: sections of datasets, curves and tables of training, one template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.report.charts import histogram, line_chart
from pipelines.report.collect import sections

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Stage:
    """One stage of training: its curve as SVG (may be empty) and its figures."""

    name: str
    curve: str
    figures: list[tuple[str, str]] = field(default_factory=list)


def write_report(datasets: Sequence[str | Path], out: Path, training: Mapping[str, Any] | None = None) -> Path:
    """Write a page about `datasets` (folders or fsspec URLs) to the file `out` and return its path.

    `training` may hold `train` (stage -> figures; a list of losses or of [step, loss] becomes a curve) and
    `evaluation` (`accuracy`, `constant_baseline`, `questions`, and the same per kind in `kinds`).
    """
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(thousands=lambda number: f"{number:,}", percent=lambda share: f"{share:.1%}")
    training = training or {}
    page = environment.get_template("page.html").render(
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        sections=sections(datasets),
        histogram=histogram,
        stages=list(stages(training.get("train") or {})),
        evaluation=training.get("evaluation"),
        neutral=NEUTRAL,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


NEUTRAL = frozenset({"not_asked", "no_image", "empty", "copy", "near_copy"})
"""Statuses that are drawn neither as success nor as failure: nothing went wrong in that step."""


def stages(train: Mapping[str, Any]) -> Iterator[Stage]:
    """The stages among the entries of `train`; entries that are no mapping are no stages."""
    for name, figures in train.items():
        if isinstance(figures, Mapping):
            curve = next(filter(None, map(curve_of, figures.values())), [])
            told = [(key.replace("_", " "), _told(value)) for key, value in figures.items() if not curve_of(value)]
            yield Stage(name, line_chart(curve, "steps"), told)


def curve_of(value: Any) -> list[tuple[float, float]]:
    """Losses, or [step, loss] pairs, or {step, loss} objects as points; anything else is no curve."""
    if not isinstance(value, list) or len(value) < 2:
        return []
    if all(isinstance(item, int | float) for item in value):
        return [(float(step), float(loss)) for step, loss in enumerate(value, 1)]
    if all(isinstance(item, list | tuple) and len(item) == 2 for item in value):
        return [(float(step), float(loss)) for step, loss in value]
    if all(isinstance(item, Mapping) and {"step", "loss"} <= item.keys() for item in value):
        return [(float(item["step"]), float(item["loss"])) for item in value]
    return []


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
