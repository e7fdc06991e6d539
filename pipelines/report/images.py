"""The images of conversations: the datasets that hold them, and thumbnails by key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.report.pictures import Thumbnail, thumbnail
from schemas.dataset import Dataset
from schemas.entries import Parent
from schemas.errors import InputError, LavaBeamError
from schemas.lookup import PicturesByName
from schemas.standing import IMAGE_MISSING, Standing, Use
from schemas.store import server_of

RUN_FILES = ("metrics.jsonl", "inputs.json")
"""Files of a run folder of the trainer."""


class Images:
    """Thumbnails by image key, out of several images datasets; keys are indexed on first use."""

    def __init__(self, datasets: Sequence[Dataset]):
        self._datasets = datasets
        self._indexes: list[tuple[PicturesByName, Standing]] | None = None

    def find(self, keys: Sequence[str]) -> tuple[list[Thumbnail], str]:
        """The thumbnails of `keys`, and what to say in their place when there are none."""
        if not self._datasets:
            return [], "images dataset not named"
        found, note = [], f"not in {', '.join(Path(dataset.path).name for dataset in self._datasets)}"
        for key in keys:
            row = self._find(key)
            if row is None:
                continue
            picture = thumbnail(row[0].take([row[1]], ["image"])[0]["image"])
            if picture is not None:
                found.append(picture)
            else:
                note = self._reason(*row)
        return found, note

    def _find(self, key: str) -> tuple[Dataset, int] | None:
        if self._indexes is None:
            with_pictures = [dataset for dataset in self._datasets if "image" in dataset.columns]
            self._indexes = [(PicturesByName(one), Standing.of(one, Use(pictures=True))) for one in with_pictures]
        rows = ((index.dataset, index.find(key)) for index, _ in self._indexes)
        return next(((dataset, row) for dataset, row in rows if row is not None), None)

    def _reason(self, dataset: Dataset, row: int) -> str:
        standing = next(standing for index, standing in self._indexes or () if index.dataset is dataset)
        fragment, offset = dataset.locate(row)
        return standing.of_fragment(fragment)[offset].as_py() or IMAGE_MISSING


def open_dataset(path: str | Path) -> Dataset:
    """The dataset at `path`. Raises InputError when there is none, and says so when it is a run of the trainer."""
    if not Dataset.exists(path) and any((Path(path) / name).is_file() for name in RUN_FILES):
        raise InputError(
            f"{path}: this is a run folder of the trainer, not a dataset. Show it with `lavabeam report --run {path}`."
        )
    return Dataset.open(path)


def images_of(dataset: Dataset, named: Sequence[Dataset]) -> Images:
    """The images datasets among `named`; when there is none, those that `dataset` was made from."""
    found = [one for one in named if one.schema_name == "images"]
    return Images(found or parents_of(dataset))


def parents_of(dataset: Dataset) -> list[Dataset]:
    """The images datasets that `dataset` was made from, as far as they are there."""
    return [one for parent in dataset.manifest.parents if (one := _parent(dataset, parent)) is not None]


def _parent(dataset: Dataset, parent: Parent) -> Dataset | None:
    """A parent where it was, or beside `dataset` when both were moved; None when it is not there, or not images.

    A manifest may come from elsewhere: it sends nobody to another server than the dataset's own.
    """
    paths = [str(Path(dataset.path).parent / Path(parent.path).name)]
    if server_of(parent.path) in ("", server_of(dataset.path)):
        paths.insert(0, parent.path)
    for path in paths:
        try:
            if Dataset.exists(path) and (opened := Dataset.open(path)).schema_name == "images":
                return opened
        except LavaBeamError:
            continue
    return None
