"""Writes the rows of a mix, with progress."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from pipelines.engine.counting import Done, report
from pipelines.mix.judge import Judge
from pipelines.mix.lengths import Measured
from pipelines.mix.pictures import ReadyPicture, Spool

_REPORTED_ROWS = 64


@dataclass(frozen=True)
class Row:
    """A row of the mix, before its pictures are copied in."""

    values: dict[str, Any]
    """The row of the source that it was made of."""
    key: str
    measured: Measured
    pictures: list[ReadyPicture]
    counted: str


def sample(row: Row, judge: Judge, spool: Spool) -> dict[str, Any]:
    contents = [
        spool.get(one.spooled) if one.spooled else judge.images.content(one.row)
        for one in row.pictures
        if judge.images is not None
    ]
    names = (row.values["image_keys"] or [])[: len(contents)]
    return {
        "key": f"{judge.name}/{row.key}",
        "images": [{"bytes": content, "path": name} for content, name in zip(contents, names, strict=True)],
        "widths": [one.size[0] for one in row.pictures],
        "heights": [one.size[1] for one in row.pictures],
        "messages": row.measured.messages,
        "kind": row.values["kind"],
        "source": row.values["source"],
        "image_count": len(row.pictures),
        "image_tokens": row.measured.image_tokens,
        "tokens": row.measured.tokens,
        "supervised_tokens": row.measured.supervised,
        "id": row.values.get("id"),
        "extra": row.values.get("extra"),
    }


class Reported:
    """Reports how many source rows were looked at, and what `counts` says of them, every now and then."""

    def __init__(self, counts: Counter[str]):
        self.counts, self.passed, self.shown = counts, 0, Counter[str]()

    def __enter__(self) -> Reported:
        return self

    def __exit__(self, *_: object) -> None:
        self._report()

    def add(self, rows: int = 1) -> None:
        self.passed += rows
        if self.passed >= _REPORTED_ROWS:
            self._report()

    def _report(self) -> None:
        report(Done(self.passed, self.counts - self.shown))
        self.passed, self.shown = 0, self.counts.copy()
