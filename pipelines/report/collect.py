"""The content of a report about a dataset: a few evenly chosen rows, and counts of all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.report.clusters import ClustersOfKind, clusters_of_kinds
from pipelines.report.counts import Failures, count_clusters, count_copies, failures, is_walked
from pipelines.report.images import Images, images_of, open_dataset
from pipelines.report.leaks import Leaks, leaks_of
from pipelines.report.phrases import Phrases, phrases_of
from pipelines.report.pictures import Thumbnail, thumbnail
from pipelines.report.scores import Scores, scores_of
from schemas.dataset import Dataset
from schemas.entries import StatusRule
from schemas.standing import EVERY_CHOICE, LEFT_OUT, Standing, Use, status_rules

FRAGMENTS = 40
"""Fragments looked into for samples, evenly spaced: a report of a large dataset stays quick."""

TEXTS = ("key", "url", "source", "alt_text", "facts", "width", "height", "caption", "cluster_size")
"""What the page tells of a picture, besides its standing."""

PER_SOURCE, CLUSTERS, PER_CLUSTER, PER_KIND = 12, 12, 6, 6


@dataclass(frozen=True)
class StepCounts:
    """Rows per status of one step, the largest first. `rule` is None where statuses are counts of a mix."""

    name: str
    statuses: list[tuple[str, int]]
    rule: StatusRule | None = None

    @property
    def rows(self) -> int:
        return sum(count for _, count in self.statuses)


@dataclass(frozen=True)
class Shown:
    """One row in the page: its columns without the image, and the thumbnails that belong to it.

    `note` replaces the picture, when there is none.
    """

    row: dict[str, Any]
    pictures: list[Thumbnail] = field(default_factory=list)
    note: str = "text only"


@dataclass(frozen=True)
class Group:
    """Rows that are shown together, of `rows` that there are in the fragments looked into."""

    name: str
    shown: list[Shown]
    rows: int


@dataclass
class Section:
    """One dataset in the page. Counts are of all rows, not only of those shown.

    `copies` replaces `cluster_count` where a dataset is so large that its clusters are not counted.
    """

    name: str
    dataset: Dataset
    steps: list[StepCounts]
    groups: list[Group] = field(default_factory=list)
    failures: Failures = field(default_factory=Failures)
    clusters: list[Group] = field(default_factory=list)
    cluster_count: int = 0
    copies: int = 0
    kinds: list[ClustersOfKind] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    counts: list[tuple[str, int]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    phrases: Phrases | None = None
    leaks: list[Leaks] = field(default_factory=list)

    @property
    def partly(self) -> str:
        """A remark where samples come from some fragments only."""
        looked = len(looked_into(self.dataset))
        return (
            f"from {looked} of {len(self.dataset.fragments)} fragments" if looked < len(self.dataset.fragments) else ""
        )

    @property
    def counted_partly(self) -> bool:
        """Whether `counts` and `tokens` are of those fragments too."""
        return not is_walked(self.dataset)


class Rows:
    """The small columns of the fragments that are looked into, with each row's number in the dataset.

    Each row has the reason why it is left out, if it is, as `left_out`.
    """

    def __init__(self, dataset: Dataset, columns: Sequence[str], standing: Standing):
        names = [name for name in columns if name in dataset.columns]
        self.found: list[tuple[int, dict[str, Any]]] = []
        starts = np.cumsum([0, *dataset.manifest.fragments.row_counts.tolist()])
        for number in looked_into(dataset):
            fragment = dataset.fragments[number]
            reasons = standing.of_fragment(fragment).to_pylist()
            rows = fragment.read(names).to_pylist() if names else [{} for _ in reasons]
            found = [{**row, LEFT_OUT: reason} for row, reason in zip(rows, reasons, strict=True)]
            self.found += list(enumerate(found, int(starts[number])))

    def by(self, column: str, where: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, list[int]]:
        """Row numbers by the value of `column`, in order, of the rows that `where` accepts."""
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for number, row in self.found:
            if where is None or where(row):
                groups[row.get(column) or ""].append(number)
        return dict(groups)


def looked_into(dataset: Dataset) -> range:
    """The fragments that samples are taken from."""
    return range(0, len(dataset.fragments), max(len(dataset.fragments) // FRAGMENTS, 1))


def sections(paths: Sequence[str | Path]) -> list[Section]:
    """A section per dataset, in the given order.

    Conversations find their pictures in the images datasets among them, else in those that they were made from.
    """
    datasets = [open_dataset(path) for path in paths]
    fill = {"images": _fill_images, "conversations": _fill_conversations, "samples": _fill_samples}
    made = []
    for dataset in datasets:
        section = Section(Path(dataset.path).name, dataset, _steps(dataset), leaks=leaks_of(dataset))
        fill[dataset.schema_name](section, datasets)
        section.kinds = clusters_of_kinds(dataset, looked_into(dataset))
        section.scores = scores_of(dataset, looked_into(dataset))
        made.append(section)
    return made


def spread(rows: Sequence[int], count: int) -> list[int]:
    """At most `count` of `rows`, evenly spaced, the first one included."""
    if len(rows) <= count:
        return list(rows)
    return [rows[index * len(rows) // count] for index in range(count)]


def _steps(dataset: Dataset) -> list[StepCounts]:
    rules = status_rules(dataset)
    names = {name: rule.step for name, rule in rules.items()}
    names |= {"base": names.get("base", "selection" if dataset.schema_name == "samples" else "rows")}
    return [
        StepCounts(names.get(name, name), list(counts.items()), rules.get(name))
        for name, counts in dataset.manifest.statuses().items()
    ]


def _fill_images(section: Section, datasets: Sequence[Dataset]) -> None:
    dataset = section.dataset
    with_pictures = "image" in dataset.columns
    section.failures = failures(dataset, Standing.of(dataset, Use(pictures=with_pictures, takes=EVERY_CHOICE)))
    rows = Rows(dataset, ["source", "cluster", "cluster_size"], Standing.of(dataset, Use(pictures=with_pictures)))
    reasons = {number: row[LEFT_OUT] for number, row in rows.found}
    unusable = {number for number, row in rows.found if row[LEFT_OUT] and row[LEFT_OUT] not in _choices(dataset)}
    if with_pictures:
        numbered = ((number, row) for number, row in rows.found if number not in unusable)
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for number, row in numbered:
            groups[row.get("source") or "no source"].append(number)
        for source, numbers in groups.items():
            shown = [_shown(dataset, number, reasons) for number in spread(numbers, PER_SOURCE)]
            section.groups.append(Group(source, shown, len(numbers)))
    section.phrases = phrases_of(dataset)
    clusters = rows.by("cluster", lambda row: (row.get("cluster_size") or 1) > 1)
    for name, numbers in sorted(clusters.items(), key=lambda item: -len(item[1]))[:CLUSTERS]:
        shown = [_shown(dataset, number, reasons) for number in numbers[:PER_CLUSTER]]
        section.clusters.append(Group(name, shown, shown[0].row["cluster_size"]))
    if is_walked(dataset):
        section.cluster_count = count_clusters(dataset)
    elif clusters:
        section.copies = count_copies(dataset)


def _choices(dataset: Dataset) -> set[str]:
    """Reasons by choice: such rows are no failures."""
    return {reason for rule in status_rules(dataset).values() for reason in rule.by_choice.values()}


def _fill_conversations(section: Section, datasets: Sequence[Dataset]) -> None:
    dataset, images = section.dataset, images_of(section.dataset, datasets)
    standing = Standing.of(dataset, Use(takes=EVERY_CHOICE))
    section.failures = failures(dataset, standing)
    rows = Rows(dataset, ["kind"], standing)
    for kind, numbers in sorted(rows.by("kind", lambda row: row[LEFT_OUT] is None).items()):
        found = dataset.take(spread(numbers, PER_KIND), dataset.columns)
        section.groups.append(Group(kind, [_talk(row, images) for row in found], len(numbers)))


def _talk(row: dict[str, Any], images: Images) -> Shown:
    if not row["image_keys"]:
        return Shown(row)
    return Shown(row, *images.find(row["image_keys"]))


def _fill_samples(section: Section, datasets: Sequence[Dataset]) -> None:
    dataset = section.dataset
    counts = Counter(zip(_column(dataset, "source"), _column(dataset, "kind"), strict=True))
    section.counts = [(f"{source}, {kind}", count) for (source, kind), count in counts.most_common()]
    section.tokens = list(_column(dataset, "tokens"))
    for kind, numbers in sorted(Rows(dataset, ["kind"], Standing(())).by("kind").items()):
        shown = []
        for row in dataset.take(spread(numbers, PER_KIND), dataset.columns):
            made = [thumbnail(image) for image in row.pop("images") or ()]
            shown.append(Shown(row, [picture for picture in made if picture is not None]))
        section.groups.append(Group(kind, shown, len(numbers)))


def _shown(dataset: Dataset, number: int, reasons: dict[int, str | None]) -> Shown:
    columns = [name for name in (*TEXTS, "image") if name in dataset.columns]
    row = {**dataset.take([number], columns)[0], LEFT_OUT: reasons[number]}
    picture = thumbnail(row.pop("image", None))
    return Shown(row, [picture] if picture else [], "image missing")


def _column(dataset: Dataset, name: str) -> Iterator[Any]:
    """The values of all rows, or, in a large dataset, of the fragments that samples are taken from."""
    for number in range(len(dataset.fragments)) if is_walked(dataset) else looked_into(dataset):
        yield from dataset.fragments[number].read([name]).column(0).to_pylist()
