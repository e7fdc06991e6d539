"""COCO's annotation files: {info, licenses, images, annotations, categories}, read in one pass
(https://cocodataset.org).

Categories come after the annotations, and their numbers have gaps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from pipelines.importers.families.reading import Record, record_of
from pipelines.importers.json_lists import lists_of
from schemas.streams import open_text


def coco_records(path: str, members: Collection[str], optional: Collection[str] = ()) -> Iterator[tuple[str, Record]]:
    """The records of `members` and of `optional` as they come in the file, each with its member's name.

    Raises InputError for a file that is not such an object, and for one that lacks one of `members`.
    """
    with open_text(path) as file:
        for name, raw in lists_of(file, path, members, optional):
            yield name, record_of(raw.value, path, raw.line)


class Picture(NamedTuple):
    """A picture of COCO: its official name, and its size in pixels."""

    name: str
    width: int
    height: int


def picture_of(record: Record) -> Picture:
    """The picture of an entry of `images`; raises InputError for an entry without name or size."""
    width, height = record.number("width"), record.number("height")
    if width < 1 or height < 1:
        record.refuse("width" if width < 1 else "height", "a size in pixels")
    return Picture(record.text("file_name"), width, height)
