"""What the engines with a model of their own share: decoding, batches, and failures that stay alone."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from pipelines.caption.engine import Caption, CaptionStatus, Picture

Describe = Callable[[list[Image.Image]], list[Caption]]
"""A model: some RGB pictures -> one caption each, in order."""


def captions_in_batches(pictures: Iterator[Picture], batch_pictures: int, describe: Describe) -> Iterator[Caption]:
    """One caption per picture, in order; `describe` gets at most `batch_pictures` decoded pictures at a time.

    Bytes that are no picture never reach the model. When it raises on a batch, each picture of the batch is
    tried alone, so that one bad picture costs one caption.
    """
    while batch := list(islice(pictures, batch_pictures)):
        opened = [_open(picture) for picture in batch]
        images = [image for image in opened if isinstance(image, Image.Image)]
        answers = iter(_describe(images, describe))
        yield from (next(answers) if isinstance(image, Image.Image) else image for image in opened)


def weights_version(path: Path) -> str:
    """12 hexadecimal digits of the sha256 over a file, or over a model folder's files with their names."""
    content = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and not file.name.startswith(".") and file.suffix != ".md":
            content.update(f"{file.relative_to(path.parent if path.is_file() else path)}\0".encode())
            with file.open("rb") as opened:
                content.update(hashlib.file_digest(opened, "sha256").digest())
    return content.hexdigest()[:12]


def _open(picture: Picture) -> Image.Image | Caption:
    """The picture as RGB, turned the way its EXIF data says; a caption with a status when it is none."""
    try:
        with Image.open(io.BytesIO(picture.data)) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return Caption(CaptionStatus.undecodable, detail=_one_line(error))


def _describe(images: list[Image.Image], describe: Describe) -> list[Caption]:
    if not images:
        return []
    try:
        return describe(images)
    except Exception as error:
        # Whatever a model library raises: it is told in the row, and the other pictures go on.
        if len(images) == 1:
            return [Caption(CaptionStatus.failed, detail=_one_line(error))]
        return [caption for image in images for caption in _describe([image], describe)]


def _one_line(error: Any) -> str:
    """What went wrong, without memory addresses: the same picture must give the same row."""
    message = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "the bytes", " ".join(str(error).split()))
    return f"{type(error).__name__}: {message}"[:300]
