"""Put if absent on object stores: the guarantee that commits rely on (docs/datasets.md).

fsspec's `mode="create"` is a precondition that the server checks on gs:// and s3://. Other file systems of fsspec
look first and write then, so that two writers may both believe that they wrote: they are refused.
"""

from __future__ import annotations

import errno
import time
import uuid
from contextlib import suppress
from functools import lru_cache
from typing import Any

import fsspec

from schemas.errors import StorageError

_GCS, _S3, _MEMORY = ("gs", "gcs"), ("s3", "s3a"), ("memory",)
_AGAIN = 8
"""How often a put is sent again that S3 could not decide because another one was under way (409)."""


def check_exclusive(root: str) -> None:
    """Raises StorageError for a place where two runs that commit at once could lose one another's manifest."""
    protocol = root.partition("://")[0]
    if protocol in _S3:
        _check_server(root)
    elif protocol not in (*_GCS, *_MEMORY):
        raise StorageError(
            f"{root}: {protocol}:// is not known to refuse a second writer of the same name, so two runs could lose a "
            "manifest. Keep datasets that are written on a local disk, gs:// or s3://; others can be read."
        )


def create(fs: Any, path: str, content: bytes) -> bool:
    """Write `content` unless `path` exists: True when it was written."""
    for attempt in range(_AGAIN):
        try:
            fs.pipe_file(path, content, mode="create")
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if _code(error) == "PreconditionFailed":
                return False
            if _code(error) != "ConditionalRequestConflict" and error.errno != errno.EBUSY:
                raise
            time.sleep(0.05 * 2**attempt)
    raise StorageError(f"{path}: it lost to other writers {_AGAIN} times. Run the same command again.")


@lru_cache(maxsize=256)
def _check_server(root: str) -> None:
    """Ask the server itself: servers that speak S3 without If-None-Match overwrite, and say nothing."""
    fs, folder = fsspec.core.url_to_fs(root)
    path = f"{folder}/leases/probe-{uuid.uuid4().hex[:12]}"
    try:
        create(fs, path, b"1")
        refused = not create(fs, path, b"2")
    finally:
        with suppress(OSError):
            fs.rm_file(path)
    if not refused:
        raise StorageError(
            f"{root}: this S3 server ignores If-None-Match, so two runs that commit at once could lose a manifest. Use "
            "a release that has conditional writes (AWS, MinIO since 2024-08), or another store."
        )


def _code(error: OSError) -> str:
    """The code in S3's answer."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code", "")
