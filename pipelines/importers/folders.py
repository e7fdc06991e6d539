"""Lists the files of a folder recursively, following symbolic links to folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import fsspec

from pipelines.importers.files import is_local
from schemas.errors import InputError


def files_below(fs: fsspec.AbstractFileSystem, root: str, loops: list[str]) -> Iterator[tuple[str, str]]:
    """(path in the folder, size and time of change) of every file below `root`, in no order.

    A link to a folder is followed, unless it leads back to a folder that it is in: such links are added to `loops`.
    A pipe or a device counts as a file here: only reading it would show what it is. Raises InputError for a folder
    that may not be read.
    """
    root = root.rstrip("/") or "/"
    if is_local(fs):
        yield from _local_files(root, "", loops, (_identity(os.stat(root)),))
    else:
        for name, entry in fs.find(root, detail=True).items():
            yield name[len(root.rstrip("/")) + 1 :], _stamp_of(entry)


def _local_files(root: str, folder: str, loops: list[str], above: tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    try:
        entries = list(os.scandir(os.path.join(root, folder)))
    except OSError as error:
        raise InputError(
            f"{os.path.join(root, folder)}: this folder cannot be read ({error.strerror}). Allow it, or import the "
            "folders beside it."
        ) from error
    for entry in entries:
        name = f"{folder}/{entry.name}" if folder else entry.name
        if not entry.is_dir():
            yield name, _stamp(entry)
            continue
        itself = _identity(os.stat(entry.path))
        if itself in above:
            loops.append(name)
        else:
            yield from _local_files(root, name, loops, (*above, itself))


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _stamp(entry: os.DirEntry) -> str:
    """Size, and time of change; of a link the size of what it leads to and its own time, as releases wrote it."""
    found = entry.stat(follow_symlinks=False)
    size = found.st_size
    if entry.is_symlink():
        try:
            size = entry.stat().st_size
        except OSError:  # a link to nowhere
            size = 0
    return f"{size} {found.st_mtime}"


def _stamp_of(entry: dict[str, Any]) -> str:
    """Size and time of change, or the tag that an object store keeps."""
    changed = next((entry[name] for name in ("etag", "ETag", "mtime", "LastModified", "created") if name in entry), "")
    return f"{entry['size']} {changed}"
