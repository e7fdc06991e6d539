"""Computes what a run would do, for `--dry-run` and for the line printed before a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from schemas.manifest import FileEntry, FragmentEntry


@dataclass(frozen=True)
class Preview:
    """The work of one run. Counts are fragments, `retried_rows`, `newly_chosen` and `unchosen` are rows."""

    step: str
    dataset: str
    made: int = 0
    """Fragments whose column file is missing, or was made from something else."""
    reused: int = 0
    retried: int = 0
    """Fragments of which some rows are made, `retried_rows` again and `newly_chosen` for the first time; their other
    rows are kept."""
    retried_rows: int = 0
    newly_chosen: int = 0
    """Rows that a smaller limit or sample left out before."""
    removed: int = 0
    """Fragments that the dataset has now and will not have, with all their columns."""
    unchosen: int = 0
    """Rows that an earlier run finished with other options, and that become `not_chosen`: limit and sample leave them
    out."""
    stale: Mapping[str, int] = field(default_factory=dict)
    """Later steps whose columns are dropped, because what they were made from changes: step -> fragments."""
    after: str = ""
    """What has to run before the counts are known; they are 0 until then."""

    parts: tuple[Preview, ...] = ()
    """Other datasets that the same run makes: the validation part of a mix."""

    def warning(self) -> str:
        """One line about what is lost; empty when nothing is."""
        if not self.stale and not self.removed and not self.unchosen:
            return ""
        said = []
        if self.unchosen:
            rows = "1 finished row becomes" if self.unchosen == 1 else f"{self.unchosen} finished rows become"
            said.append(f"{rows} not_chosen: made with other options, and left out by limit or sample")
        if self.removed:
            said.append(f"{_fragments(self.removed)} of {self.dataset} {_are(self.removed)} replaced or removed")
        if self.stale:
            named = ", ".join(f"{step} ({_fragments(count)})" for step, count in self.stale.items())
            again = "run these steps again to restore them"
            said.append(f"columns made from them become stale and are dropped: {named}; {again}")
        where = "" if self.made or self.newly_chosen else " where a retried row comes out differently"
        changed = "" if self.removed else f"{_fragments(self.made + self.retried)} of {self.dataset} change{where}; "
        return f"{self.step}: {changed}{'; '.join(said)}."

    def with_verdicts(self, verdicts: Preview) -> Preview:
        """The preview of both halves of a dataset-wide step: its keys (this one) and its verdicts."""
        stale = Counter(dict(verdicts.stale))
        for step, count in self.stale.items():
            stale[step] = max(stale[step], count)
        del stale[verdicts.step]
        return replace(verdicts, stale=dict(stale))


def stale_after(replaced: Iterable[tuple[FragmentEntry, str]], removed: Iterable[FragmentEntry]) -> dict[str, int]:
    """Step -> fragments that lose its column file when files (entry, name) are replaced and fragments removed."""
    counts: Counter[str] = Counter()
    for entry, name in replaced:
        counts.update(_dependents(entry.files, name))
    for entry in removed:
        counts.update(file for file in entry.files if file != "base")
    return dict(counts)


def _dependents(files: Mapping[str, FileEntry], name: str) -> list[str]:
    """The files that were made, directly or by way of others, from file `name`: the rule of schemas/merging.py."""
    changed, grown = {name}, True
    while grown:
        found = {other for other, file in files.items() if other not in changed and changed & file.inputs.keys()}
        changed, grown = changed | found, bool(found)
    return [other for other in files if other in changed and other != name]


def _fragments(count: int) -> str:
    return f"{count} fragment{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
