"""What a report shows of a dataset: few rows, chosen evenly, and counts out of the manifest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.report.pictures import Thumbnail, thumbnail
from schemas.dataset import Dataset

FRAGMENTS = 40
"""Fragments looked into for samples, evenly spaced: a report of a large dataset stays quick."""

TEXTS = ("key", "url", "source", "alt_text", "facts", "width", "height", "caption")
"""What the page tells of a picture, besides its statuses."""

STATUSES = ("download_status", "download_detail", "dedupe_status")

PER_SOURCE, FAILURES, CLUSTERS, PER_CLUSTER, PER_KIND = 12, 12, 12, 6, 6


@dataclass(frozen=True)
class StepCounts:
    """Rows per status of one step, the largest first."""

    name: str
    statuses: list[tuple[str, int]]

    @property
    def rows(self) -> int:
        return sum(count for _, count in self.statuses)


@dataclass(frozen=True)
class Shown:
    """One row in the page: its columns without the image, and the thumbnails that belong to it."""

    row: dict[str, Any]
    pictures: list[Thumbnail] = field(default_factory=list)


@dataclass
class Section:
    """One dataset in the page."""

    name: str
    dataset: Dataset
    steps: list[StepCounts]
    groups: list[tuple[str, list[Shown]]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    clusters: list[list[Shown]] = field(default_factory=list)
    counts: list[tuple[str, int]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


class Rows:
    """The small columns of the fragments that are looked into, with each row's number in the dataset."""

    def __init__(self, dataset: Dataset, columns: Sequence[str]):
        self.dataset = dataset
        names = [name for name in columns if name in dataset.columns]
        self.found: list[tuple[int, dict[str, Any]]] = []
        every = max(len(dataset.fragments) // FRAGMENTS, 1)
        start = 0
        for number, fragment in enumerate(dataset.fragments):
            if number % every == 0:
                self.found += list(enumerate(fragment.read(names).to_pylist(), start))
            start += fragment.rows

    def by(self, column: str, where: Any = None) -> dict[str, list[int]]:
        """Row numbers by the value of `column`, in order, of the rows that `where` accepts."""
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for number, row in self.found:
            if where is None or where(row):
                groups[row.get(column) or ""].append(number)
        return dict(groups)


def sections(paths: Sequence[str | Path]) -> list[Section]:
    """A section per dataset, in the given order; conversations find their pictures in the images among them."""
    datasets = [Dataset.open(path) for path in paths]
    pictures = Pictures([dataset for dataset in datasets if dataset.schema_name == "images"])
    fill = {"images": _fill_images, "conversations": _fill_conversations, "samples": _fill_samples}
    made = []
    for dataset in datasets:
        section = Section(Path(dataset.path).name, dataset, _steps(dataset))
        fill[dataset.schema_name](section, pictures)
        made.append(section)
    return made


class Pictures:
    """Thumbnails by image key, out of several images datasets; keys are indexed on first use."""

    def __init__(self, datasets: Sequence[Dataset]):
        self._datasets = datasets
        self._places: dict[str, tuple[Dataset, int]] | None = None

    def find(self, keys: Sequence[str] | None) -> list[Thumbnail]:
        if self._places is None:
            self._places = dict(self._index())
        places = [self._places[key] for key in keys or () if key in self._places]
        made = [thumbnail(dataset.take([row], ["image"])[0]["image"]) for dataset, row in places]
        return [picture for picture in made if picture is not None]

    def _index(self) -> Iterator[tuple[str, tuple[Dataset, int]]]:
        for dataset in self._datasets:
            if "image" in dataset.columns:
                for row, key in enumerate(_column(dataset, "key")):
                    yield key, (dataset, row)


def spread(rows: Sequence[int], count: int) -> list[int]:
    """At most `count` of `rows`, evenly spaced, the first one included."""
    if len(rows) <= count:
        return list(rows)
    return [rows[place * len(rows) // count] for place in range(count)]


def _steps(dataset: Dataset) -> list[StepCounts]:
    statuses = dataset.manifest.statuses()
    names = {"base": {"images": "import", "samples": "selection"}.get(dataset.schema_name, "rows")}
    return [StepCounts(names.get(name, name), list(counts.items())) for name, counts in statuses.items()]


def _fill_images(section: Section, pictures: Pictures) -> None:
    dataset = section.dataset
    rows = Rows(dataset, ["source", "download_status", "cluster", "cluster_size"])
    sound = rows.by("source", lambda row: row.get("download_status", "ok") == "ok")
    if "image" in dataset.columns:
        for source, numbers in sound.items():
            shown = [_shown(dataset, number) for number in spread(numbers, PER_SOURCE)]
            section.groups.append((source or "no source", shown))
    failed = [number for number, row in rows.found if row.get("download_status", "ok") != "ok"]
    section.failures = dataset.take(failed[:FAILURES], [name for name in _texts(dataset) if name != "facts"])
    clusters = rows.by("cluster", lambda row: (row.get("cluster_size") or 1) > 1)
    for _, numbers in sorted(clusters.items(), key=lambda item: -len(item[1]))[:CLUSTERS]:
        section.clusters.append([_shown(dataset, number) for number in numbers[:PER_CLUSTER]])


def _fill_conversations(section: Section, pictures: Pictures) -> None:
    dataset = section.dataset
    rows = Rows(dataset, ["kind", "status"])
    for kind, numbers in sorted(rows.by("kind", lambda row: row["status"] == "ok").items()):
        found = dataset.take(spread(numbers, PER_KIND), dataset.columns)
        section.groups.append((kind, [Shown(row, pictures.find(row["image_keys"])) for row in found]))
    failed = [number for number, row in rows.found if row["status"] != "ok"]
    section.failures = dataset.take(failed[:FAILURES], ["key", "kind", "status", "detail"])


def _fill_samples(section: Section, pictures: Pictures) -> None:
    dataset = section.dataset
    counts = Counter(zip(_column(dataset, "source"), _column(dataset, "kind"), strict=True))
    section.counts = [(f"{source}, {kind}", count) for (source, kind), count in counts.most_common()]
    section.tokens = [int(value) for value in dataset.numpy("tokens")]
    for kind, numbers in sorted(Rows(dataset, ["kind"]).by("kind").items()):
        shown = []
        for row in dataset.take(spread(numbers, PER_KIND), dataset.columns):
            made = [thumbnail(image) for image in row.pop("images") or ()]
            shown.append(Shown(row, [picture for picture in made if picture is not None]))
        section.groups.append((kind, shown))


def _shown(dataset: Dataset, number: int) -> Shown:
    row = dataset.take([number], [*_texts(dataset), "image"])[0]
    picture = thumbnail(row.pop("image"))
    return Shown(row, [picture] if picture else [])


def _texts(dataset: Dataset) -> list[str]:
    return [name for name in (*TEXTS, *STATUSES) if name in dataset.columns]


def _column(dataset: Dataset, name: str) -> Iterator[Any]:
    for fragment in dataset.fragments:
        yield from fragment.read([name]).column(0).to_pylist()
