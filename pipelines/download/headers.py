"""Header checks of received bytes: errors of schemas/pictureheader.py become Failures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.download.statuses import DownloadStatus, Failure
from schemas import pictureheader
from schemas.pictureheader import MAGIC_BYTES, Header, PictureError

__all__ = ["MAGIC_BYTES", "Header", "check_magic", "picture_failures", "read_header"]


def check_magic(data: bytes) -> str:
    """The format that the first bytes announce; raises Failure (not_image, unsupported_format)."""
    with picture_failures():
        return pictureheader.check_magic(data)


def read_header(data: bytes) -> Header:
    """Format, size and traits; raises Failure (not_image, unsupported_format, truncated, corrupt)."""
    with picture_failures():
        return pictureheader.read_header(data)


@contextmanager
def picture_failures() -> Iterator[None]:
    """A defect of a picture as the status of the same name."""
    try:
        yield
    except PictureError as error:
        raise Failure(DownloadStatus(error.defect.value), error.detail) from None
