"""Resolves image names in a folder (schemas/picturenames.py)."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import fsspec

from schemas.errors import InputError
from schemas.picturenames import meant_by, plain_name, stem

TRIED = 1000
"""Names of which one must be found: with none of so many, it is the folder that is wrong."""

_LISTED = 8
"""Folders whose listing is kept; names that are in the folder as written need none."""


class Found(NamedTuple):
    """The picture that a name means. `key`: what `image_folder` calls it; `path`: the file; `problem`: why there is
    none, as half a sentence that names it."""

    key: str
    path: str = ""
    problem: str = ""


class PictureFolder:
    """One folder, here or anywhere that fsspec reaches. Raises InputError when there is no such folder.

    other_endings: take `a.png` for `a.jpg` where the folder has no `a.jpg`.
    """

    def __init__(self, path: str, other_endings: bool = False):
        self.path, self.other_endings = path, other_endings
        self._fs, root = fsspec.core.url_to_fs(path)
        self._root = root.rstrip("/")
        self.is_local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))
        if not self._fs.isdir(root):
            raise InputError(f"{path}: no such folder of pictures. Give the folder that their names start from.")
        self._listing = lru_cache(_LISTED)(self._list)

    def find(self, name: str) -> Found:
        """The file that `name` means, in step with the keys of `image_folder`."""
        inside = self._below(name)
        plain, shown = plain_name(inside), _shown(name)
        if "://" in plain:
            return Found(plain, problem=f"{shown} is a URL; URLs are fetched by `download`")
        if plain == ".." or plain.startswith("../"):
            return Found(plain, problem=f"{shown} is outside the image folder")
        size = self._size(plain)
        if inside != plain and not {"", ".", ".."} & {*inside.split("/")} and (own := self._size(inside)) is not None:
            return self._found(plain if size is None else inside, inside, own)
        return self._near(shown, plain) if size is None else self._found(plain, plain, size)

    def content(self, found: Found) -> bytes:
        """The bytes of a file that `find` gave. Raises OSError when it cannot be read."""
        return self._fs.cat_file(found.path)

    def wrong(self, tried: Collection[str], named_by: str) -> InputError:
        """What to say when the folder has none of the names that were `tried`. named_by: the file that holds them."""
        first = next(iter(tried))
        which = f"the picture {first!r}" if len(tried) == 1 else f"any of {len(tried)} pictures (first: {first!r})"
        return InputError(f"{self.path}: does not hold {which}, named in {named_by}. {self._remedy(first)}")

    def _near(self, shown: str, plain: str) -> Found:
        """What is found by looking through the folder: another ending, another form of Unicode."""
        folder, _, base = plain.rpartition("/")
        actual = self._folder(folder)
        near = self._listing(actual).get(stem(base), []) if actual is not None else []
        files = [one for one in near if self._size(_joined(actual, one)) is not None]
        chosen = meant_by(base, files, self.other_endings)
        if len(chosen) == 1:
            written = _joined(actual, chosen[0])
            return self._found(plain_name(written), written, self._size(written) or 0)
        if chosen:
            return Found(plain, problem=f"{shown} may be {' or '.join(sorted(chosen))}: the image folder has both")
        if files:
            other = f"; {sorted(files)[0]} is: `other_endings` takes it"
            return Found(plain, problem=f"{shown} is not in the image folder{other}")
        return Found(plain, problem=f"{shown} is not in the image folder")

    def _found(self, key: str, written: str, size: int) -> Found:
        path = f"{self._root}/{written}"
        return Found(key, path) if size else Found(key, path, f"{written} is an empty file")

    def _below(self, name: str) -> str:
        """A name without the path of the folder in front of it."""
        roots = [self.path, self._root, self._fs.unstrip_protocol(self._root)]
        roots += [os.path.abspath(self._root), os.path.realpath(self._root)] if self.is_local else []
        for root in roots:
            if name.startswith(root.rstrip("/") + "/") and (os.path.isabs(root) or "://" in root):
                return name[len(root.rstrip("/")) + 1 :]
        return name

    def _folder(self, folder: str) -> str | None:
        """Where a folder inside the folder is, in the spelling of the disk; None for one that is not there."""
        if not folder or self._fs.isdir(f"{self._root}/{folder}"):
            return folder
        parent, _, base = folder.rpartition("/")
        actual = self._folder(parent)
        names = self._listing(actual).get(stem(base), []) if actual is not None else []
        paths = [_joined(actual, one) for one in names if plain_name(one) == base]
        paths = [one for one in paths if self._fs.isdir(f"{self._root}/{one}")]
        return paths[0] if len(paths) == 1 else None

    def _list(self, folder: str) -> dict[str, list[str]]:
        """The names in a folder, by their stem."""
        names: dict[str, list[str]] = {}
        for path in self._fs.ls(_joined(self._root, folder) if folder else self._root, detail=False):
            base = path.rstrip("/").rpartition("/")[2]
            names.setdefault(stem(base), []).append(base)
        return names

    def _size(self, name: str) -> int | None:
        """Bytes of a file in the folder; None where there is none."""
        try:
            if self.is_local:
                found = os.stat(f"{self._root}/{name}")
                return found.st_size if stat.S_ISREG(found.st_mode) else None
            info = self._fs.info(f"{self._root}/{name}")
        except (OSError, ValueError):  # not there, too long, a zero byte
            return None
        return info["size"] if info["type"] == "file" else None

    def _remedy(self, name: str) -> str:
        parts = plain_name(self._below(name)).split("/")
        for number in range(1, len(parts)):
            if not self.find("/".join(parts[number:])).problem:
                up = "/".join(parts[:number])
                return f"It holds {'/'.join(parts[number:])!r}: give the folder that has {up!r} in it."
        here = sorted(path.rstrip("/").rpartition("/")[2] for path in self._fs.ls(self._root, detail=False))
        shown = ", ".join(islice(here, 5)) + (", ..." if len(here) > 5 else "")
        return f"It holds {shown or 'nothing'}. Give the folder that the names start from."


class FolderTrial:
    """Whether a folder is the right one: decided by the first TRIED different names, of which one must be found."""

    def __init__(self, folder: PictureFolder, named_by: str):
        self.folder, self.named_by = folder, named_by
        self._tried: dict[str, None] | None = {}

    @property
    def passed(self) -> bool:
        """Whether one was found; `see` has nothing to do then."""
        return self._tried is None

    def see(self, names: Iterable[str]) -> None:
        """Raises InputError when these names are the last of TRIED without a picture."""
        for name in names if self._tried is not None else ():
            if self._tried is None or name in self._tried:
                continue
            if not self.folder.find(name).problem:
                self._tried = None
            elif len(self._tried) == TRIED - 1:
                raise self.folder.wrong({**self._tried, name: None}, self.named_by)
            else:
                self._tried[name] = None

    def end(self) -> None:
        """There are no more names. Raises InputError when there were some, and none was found."""
        if self._tried:
            raise self.folder.wrong(self._tried, self.named_by)


def _shown(name: str) -> str:
    """A name for a message: quoted where blanks or control characters would hide what it is."""
    short = name if len(name) <= 200 else f"{name[:200]}..."
    return short if name.isprintable() and name.strip() == name != "" else repr(short)


def _joined(folder: str | None, name: str) -> str:
    return f"{folder}/{name}" if folder else name
