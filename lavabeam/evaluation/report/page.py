"""HTML pages of one evaluation or a comparison: self-contained, with all untrusted text escaped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavabeam.evaluation.report.compare import ALL, Comparison, Pair
from lavabeam.evaluation.report.results import Result, Results
from pipelines.report.charts import line_chart
from pipelines.report.page import FOLDER as HOUSE
from pipelines.report.page import curve_of
from pipelines.report.pictures import Thumbnail, thumbnail

FOLDER = Path(__file__).parent
SHOWN = 60
"""Questions with their pictures in one list of the page."""
LONGEST = 1200
"""Characters of a text on the page."""
PictureOf = Callable[[Result], "bytes | Path | None"]
"""The picture of a question, where it is to be had."""


@dataclass(frozen=True)
class Card:
    """A question on the page, with one answer or two."""

    row: Result
    picture: Thumbnail | None
    answers: tuple[tuple[str, str | None, float | None, bool | None], ...]
    """(whose, the answer, its score, whether it is right)"""

    @property
    def references(self) -> str:
        """The different right answers, the most frequent first, each with how often it was given."""
        counts = Counter(self.row.references)
        return ", ".join(f"{one} ×{count}" if count > 1 else one for one, count in counts.most_common(5))


def write_page(results: Results, out: Path, picture_of: PictureOf, notes: Sequence[str] = ()) -> Path:
    """Figures by category, the loss curve of the run that made the checkpoint, and what was answered wrongly, spread
    over the categories. `notes`: lines that a reader has to know, such as a leak."""
    wrong, ungraded = _worst(results), [row for row in results.rows if row.detail]

    def cards(rows: Sequence[Result]) -> list[Card]:
        return [_card(row, [("answer", results, row)], picture_of) for row in _spread(rows, SHOWN)]

    facts = {
        "results": results,
        "scores": (results.figures.get("scores") or {}).items(),
        "categories": _categories(results),
        "curve": training_curve(results.figures.get("checkpoint")),
        "title": f"{results.title}: {results.folder.name}",
        "cards": cards(wrong),
        "wrong": len(wrong),
        "ungraded": len(ungraded),
        "ungraded_cards": cards(ungraded),
        "notes": notes,
    }
    return _write("results.html", facts, out)


def write_comparison(comparison: Comparison, out: Path, picture_of: PictureOf) -> Path:
    """Both models' figures by category with the test's p-value, and the questions that only one of them does better."""
    report = comparison.report()
    lists = []
    for side in (-1, 1):
        pairs = [pair for pair in comparison.pairs if comparison.better(pair) == side]
        shown = _spread(pairs, SHOWN, lambda pair: pair[0].category)
        lists.append(
            (
                f"Only {_names(comparison)[side > 0]} does better",
                len(pairs),
                [_both(comparison, one, picture_of) for one in shown],
            )
        )
    facts = {
        "report": report,
        "first": _names(comparison)[0],
        "second": _names(comparison)[1],
        "all": report["categories"][ALL],
        "title": f"{report['benchmark']}: {' and '.join(_names(comparison))}",
        "lists": lists,
    }
    return _write("compare.html", facts, out)


def training_curve(checkpoint: object) -> str:
    """The losses in the metrics.jsonl of the run folder of `checkpoint`, as SVG; empty without them."""
    path = Path(str(checkpoint)).parent / "metrics.jsonl" if checkpoint else None
    if path is None or not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8").splitlines()
    return line_chart(curve_of([json.loads(line) for line in lines if line.strip()]), "steps")


def _write(template: str, facts: dict[str, Any], out: Path) -> Path:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(thousands=lambda number: f"{number:,}", tenths=_tenths, cut=_cut, p=_p)
    style = (HOUSE / "page.css").read_text(encoding="utf-8") + (FOLDER / "page.css").read_text(encoding="utf-8")
    page = environment.get_template(template).render(style=style, **facts)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f"{out.name}.part")
    draft.write_text(page, encoding="utf-8", errors="replace")
    draft.replace(out)
    return out


def _worst(results: Results) -> list[Result]:
    """What is not right; where a metric knows no right answers, all, the lowest scores first."""
    scored = [row for row in results.rows if row.score is not None]
    if results.threshold is None:
        return sorted(scored, key=lambda row: row.score or 0)
    return [row for row in scored if not results.right(row)]


def _categories(results: Results) -> list[tuple[str, int, float]]:
    """(category, scored questions, mean score x 100)"""
    groups: dict[str, list[float]] = {}
    for row in results.rows:
        if row.score is not None:
            groups.setdefault(row.category, []).append(row.score)
    return [(name, len(scores), 100 * sum(scores) / len(scores)) for name, scores in sorted(groups.items())]


def _spread(rows: Sequence[Any], most: int, category: Callable[[Any], str] = lambda row: row.category) -> list[Any]:
    """At most so many, of each category in turn, in their order."""
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(category(row), []).append(row)
    taken: list[Any] = []
    for place in range(max(map(len, groups.values()), default=0)):
        taken += [group[place] for group in groups.values() if place < len(group)]
        if len(taken) >= most:
            break
    return taken[:most]


def _card(row: Result, answers: Sequence[tuple[str, Results, Result]], picture_of: PictureOf) -> Card:
    found = picture_of(row)
    data = found.read_bytes() if isinstance(found, Path) else found
    shown = thumbnail({"bytes": data}) if data else None
    return Card(row, shown, tuple((name, one.answer, one.score, results.right(one)) for name, results, one in answers))


def _both(comparison: Comparison, pair: Pair, picture_of: PictureOf) -> Card:
    both = zip(_names(comparison), (comparison.first, comparison.second), pair, strict=True)
    return _card(pair[0], list(both), picture_of)


def _names(comparison: Comparison) -> tuple[str, str]:
    """The folders' names, or their whole paths where those are equal."""
    folders = comparison.first.folder, comparison.second.folder
    if folders[0].name != folders[1].name:
        return folders[0].name, folders[1].name
    return str(folders[0]), str(folders[1])


def _tenths(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
