"""File names of exported images: as in their rows, never outside the folder, never overwriting another image."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from schemas.pictures import PictureError, read

EXTENSIONS = {"jpeg": "jpg", "jpeg2000": "jp2", "tiff": "tif"}
"""By format, where it is not the format's own name."""
KNOWN = frozenset(
    ["jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff", "ico", "jp2", "avif", "ppm", "pgm"]
)
LONGEST = 200
"""Bytes of one part of a path: file systems take 255, and a hash may have to fit in."""

_MAGIC = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"GIF8", "gif"))
"""First bytes of nearly all pictures, whose structure was checked when they were imported."""

_ODD = re.compile(r"[\x00-\x1f\x7f]")


def extension(content: bytes) -> str:
    """`jpg`, `png`, ... by what the bytes are. Raises PictureError for bytes that are not a picture."""
    found = next((ending for magic, ending in _MAGIC if content.startswith(magic)), None)
    if found is not None:
        return found
    name = read(content).format
    return EXTENSIONS.get(name, name)


def extended(name: str, content: bytes) -> str:
    """`name`, with the ending of what the picture is where it has none of a picture."""
    if posixpath.splitext(name)[1][1:].lower() in KNOWN:
        return name
    try:
        return f"{name}.{extension(content)}"
    except PictureError:
        return name


def inside(name: str) -> str:
    """`name` as a relative path that stays in its folder, itself where it is one already."""
    parts = [_ODD.sub("_", part) for part in name.replace("\\", "/").split("/")]
    parts = [_short(part) for part in parts if part not in ("", ".", "..")]
    return "/".join(parts) or "picture"


class PictureFolder:
    """Writes pictures under their names; a name that another picture has gets a hash of the content.

    What is decided depends on the order of calls alone, so an export that was killed decides the same again.
    """

    def __init__(self, root: Path):
        self.root = root
        self._safe: set[str] = set()

    def place(self, name: str, content: bytes) -> str:
        """The path below the folder under which `content` now lies."""
        found = next((one for one in _candidates(inside(name), content) if self._put(one, content)), None)
        assert found is not None, "a name that is the content's hash holds that content"
        return found

    def _put(self, name: str, content: bytes) -> bool:
        """Write, or find, `content` under `name`. False when the place is taken by something else."""
        path = self.root / name
        try:
            size = path.lstat().st_size
        except FileNotFoundError:
            return self._write(path, content)
        except NotADirectoryError:  # a picture has the name of a folder
            return False
        return size == len(content) and path.is_file() and path.read_bytes() == content

    def _write(self, path: Path, content: bytes) -> bool:
        folder = str(path.parent)
        if folder not in self._safe:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                return False
            if not (os.path.realpath(folder) + os.sep).startswith(os.path.realpath(self.root) + os.sep):
                return False  # a link leads out
            self._safe.add(folder)
        partial = path.with_name(f".{hashlib.sha256(path.name.encode()).hexdigest()[:16]}.partial")
        partial.write_bytes(content)
        os.replace(partial, path)
        return True


def _candidates(name: str, content: bytes) -> Iterator[str]:
    yield name
    digest = hashlib.sha256(content).hexdigest()
    stem, ending = posixpath.splitext(name)
    yield f"{stem}-{digest[:8]}{ending}"
    yield f"{stem.replace('/', '_')[:LONGEST]}-{digest[:8]}{ending}"
    yield f"{digest}{ending}"


def _short(part: str) -> str:
    if len(part.encode()) <= LONGEST:
        return part
    stem, ending = posixpath.splitext(part)
    ending = ending[:16]
    cut = stem.encode()[: LONGEST - 24].decode(errors="ignore")
    return f"{cut}-{hashlib.sha256(part.encode()).hexdigest()[:8]}{ending}"
