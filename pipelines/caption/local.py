"""Shared by engines with a local model: decoding, batching, and per-row failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pipelines.caption.engine import Caption, CaptionStatus, Picture
from pipelines.models.batches import Failed, in_batches
from schemas.pictures import PictureError, open_rgb

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Opened:
    """A picture, and what it shows: RGB, turned the way its EXIF data says."""

    picture: Picture
    image: Image.Image


Describe = Callable[[list[Opened]], list[Caption]]
"""A model: some pictures -> one caption each, in order."""


def captions_in_batches(pictures: Iterator[Picture], batch_pictures: int, describe: Describe) -> Iterator[Caption]:
    """One caption per picture, in order; `describe` gets at most `batch_pictures` decoded pictures at a time.

    Bytes that cannot be decoded never reach the model. When it raises on a batch, each picture of the batch is
    tried alone, so that one bad picture costs one caption.
    """
    while batch := list(islice(pictures, batch_pictures)):
        opened = [_open(picture) for picture in batch]
        answers = iter(_describe([one for one in opened if isinstance(one, Opened)], describe))
        yield from (next(answers) if isinstance(one, Opened) else one for one in opened)


def _open(picture: Picture) -> Opened | Caption:
    """The decoded picture, or a caption that says why there is none."""
    try:
        return Opened(picture, open_rgb(picture.data))
    except PictureError as error:
        return Caption(CaptionStatus.undecodable, detail=str(error))


def _describe(pictures: list[Opened], describe: Describe) -> list[Caption]:
    made = in_batches(pictures, max(len(pictures), 1), lambda some: describe(list(some)))
    return [Caption(CaptionStatus.failed, detail=one.detail) if isinstance(one, Failed) else one for one in made]
