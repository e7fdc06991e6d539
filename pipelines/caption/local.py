"""What the engines with a model of their own share: decoding, batches, and failures that stay alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.caption.engine import Caption, CaptionStatus, Picture
from schemas.errors import InputError
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


def model_version(model: str, revision: str | None, field: str = "model") -> str:
    """A hash of the model folder, or the hub commit; raises InputError for what has neither."""
    folder = Path(model)
    if folder.is_dir():
        return weights_version(folder)
    if revision is None:
        raise InputError(
            f"{field} {model}: no such folder. Give a model folder, or set "
            f"`{field.replace('model', 'revision')}` to a hub model's commit."
        )
    return revision


def weights_version(path: Path) -> str:
    """12 hexadecimal digits of the sha256 over a file, or over a model folder's files with their names."""
    content = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and not file.name.startswith(".") and file.suffix != ".md":
            content.update(f"{file.relative_to(path.parent if path.is_file() else path)}\0".encode())
            with file.open("rb") as opened:
                content.update(hashlib.file_digest(opened, "sha256").digest())
    return content.hexdigest()[:12]


def _open(picture: Picture) -> Opened | Caption:
    """The decoded picture, or a caption that says why there is none."""
    try:
        return Opened(picture, open_rgb(picture.data))
    except PictureError as error:
        return Caption(CaptionStatus.undecodable, detail=str(error))


def _describe(pictures: list[Opened], describe: Describe) -> list[Caption]:
    if not pictures:
        return []
    try:
        return describe(pictures)
    except Exception as error:
        # Whatever a model library raises: it is reported in the row, and the other pictures go on.
        if len(pictures) == 1:
            return [Caption(CaptionStatus.failed, detail=_one_line(error))]
        return [caption for picture in pictures for caption in _describe([picture], describe)]


def _one_line(error: Any) -> str:
    """What went wrong, without memory addresses: the same picture must give the same row."""
    message = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "the bytes", " ".join(str(error).split()))
    return f"{type(error).__name__}: {message}"[:300]
