"""The summary of a run: its id, its options, and its results."""

from __future__ import annotations

import importlib.metadata
import os
import time
import uuid
from dataclasses import dataclass


@dataclass(frozen=True)
class RunSummary:
    """What a run did. `made` and `reused` count fragments; `statuses` count rows of the whole dataset."""

    step: str
    dataset: str
    manifest: int
    rows: int
    statuses: dict[str, int]
    made: int
    reused: int
    seconds: float
    run: str = ""
    notes: tuple[str, ...] = ()
    """What a user should look at: nothing went wrong, but perhaps not as it was meant."""
    ok: int | None = None
    """Usable rows of the whole dataset, by this step's statuses; None where it keeps no statuses."""
    asked: int | None = None
    """Rows that the step was asked to work on: without those that earlier steps or its own options left out."""
    doubt: str = ""
    """Doubts about the result as a whole although its rows are `ok` (`Step.doubt`)."""

    @property
    def usable_share(self) -> float | None:
        """`ok` of `asked`, 0 to 1; None where it is not known, 0 where nothing was asked and no row is usable."""
        if self.ok is None or self.asked is None:
            return None
        return self.ok / self.asked if self.asked else 0.0


def new_run() -> str:
    """A run's id: when it began, and what tells it from others of that second."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def installed_versions() -> dict[str, str]:
    """The versions of the packages that decide what is written."""
    names = ("lavabeam", "apache-beam", "pyarrow", "pillow", "openai")
    known = {}
    for name in names:
        try:
            known[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return known
