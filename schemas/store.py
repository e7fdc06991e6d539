"""Dataset storage: a local folder, or any fsspec location (gs://, s3://, memory://).

Local files are memory-mapped and written by rename; other places are read and written whole.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa

from schemas.errors import CorruptError, StorageError
from schemas.exclusive import check_exclusive, create

TEMPORARY = ".tmp-"
"""Names with this part are unfinished: `<final name>.tmp-<token of the writer>-<random>`."""

_TOKEN = uuid.uuid4().hex[:12]


class Store:
    """One root folder. Paths given to its methods are relative to it, with `/` between their parts.

    `token` names the run that writes, as its lease does (`schemas/lease.py`); it is part of temporary names.
    `checked`: the sha256 of a column file is compared before the first read of it.

    No method leaves the folder: a path that leads out of it, as it is written or by way of a link, is a CorruptError.
    """

    def __init__(self, root: str | Path, token: str = "", checked: bool = False):
        self.token = token or _TOKEN
        self.checked = checked
        self.found_good: set[tuple[str, str]] = set()
        """(path, sha256) of the column files that were compared with the manifest."""
        self.root = str(root).rstrip("/")
        self.local = "://" not in self.root or self.root.startswith("file://")
        self.root = self.root.removeprefix("file://")
        self._fs: Any = None

    @property
    def fs(self) -> Any:
        if self._fs is None:
            self._fs = fsspec.core.url_to_fs(self.root)[0]
        return self._fs

    @property
    def shared(self) -> bool:
        """Whether other processes see the same files: not in fsspec's memory://."""
        return not self.root.startswith("memory://")

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_fs": None, "found_good": set()}

    def path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def inside(self, name: str) -> str:
        """`path` of something in the folder. Raises CorruptError when the path leads out of it."""
        if leads_outside(name):
            raise CorruptError(_outside(self.root, f"the path {name!r}"), kind="foreign")
        path = self.path(name)
        if self.local and (link := self._link_out(name)):
            raise CorruptError(_outside(self.root, f"the link {link}"), kind="foreign")
        return path

    def _link_out(self, name: str) -> str | None:
        """The first link on the way to `name` that is outside the folder."""
        at = self.root
        for part in name.split("/"):
            at = f"{at}/{part}"
            try:
                linked = stat.S_ISLNK(os.lstat(at).st_mode)
            except OSError:  # what is not there yet is no link
                return None
            if linked and not os.path.realpath(at).startswith(os.path.realpath(self.root) + os.sep):
                return at
        return None

    def exists(self, name: str) -> bool:
        return os.path.exists(self.path(name)) if self.local else bool(self.fs.exists(self.path(name)))

    def size(self, name: str) -> int:
        """Bytes of a file. Raises FileNotFoundError, and CorruptError for a place that is not a file."""
        if not self.local:
            return int(self.fs.size(self.inside(name)))
        found = os.stat(self.inside(name))
        if not stat.S_ISREG(found.st_mode):
            raise CorruptError(f"{self.path(name)}: this is not a file, expected one. Restore it.", kind="foreign")
        return found.st_size

    def list(self, folder: str = "") -> list[str]:
        """Names (files and folders) directly inside `folder`, sorted; none when it does not exist."""
        if self.local:
            return sorted(os.listdir(self.path(folder))) if os.path.isdir(self.path(folder)) else []
        self.fs.invalidate_cache()
        if not self.fs.exists(self.path(folder)):
            return []
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in self.fs.ls(self.path(folder), detail=False))

    def read(self, name: str, start: int = 0) -> bytes:
        """The bytes of a file from `start` on; none when it has no more."""
        if not self.local:
            if start and start >= self.size(name):  # object stores refuse a range that begins at the end
                return b""
            return self.fs.cat_file(self.inside(name), start=start)
        self.size(name)
        with open(self.path(name), "rb") as file:
            file.seek(start)
            return file.read()

    def open_arrow(self, name: str) -> pa.NativeFile:
        """The file as an Arrow input: memory-mapped when local, so that reading a column copies nothing."""
        try:
            if not self.local:
                return pa.BufferReader(self.read(name))
            # A mapping of no bytes fails.
            return pa.memory_map(self.path(name)) if self.size(name) else pa.BufferReader(b"")
        except FileNotFoundError as error:
            raise CorruptError(
                f"{self.path(name)}: missing, though the manifest lists it. Run the step that made it again.",
                kind="missing",
            ) from error

    def sha256(self, name: str) -> str:
        if not self.local:
            return hashlib.sha256(self.read(name)).hexdigest()
        self.size(name)
        with open(self.path(name), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def age(self, name: str) -> float:
        """Seconds since a local file was last written."""
        return time.time() - os.path.getmtime(self.path(name))

    @contextmanager
    def write(self, name: str, durable: bool = False) -> Iterator[BinaryIO]:
        """A file that appears under `name` when the block ends well, and not at all otherwise.

        `durable`: it is on the disk before it appears, so that what is written later may name it. Raises StorageError
        when the place is full or must not be written.
        """
        self.inside(name)
        if not self.local:
            buffer = io.BytesIO()
            yield buffer
            self.fs.makedirs(self.path(name).rsplit("/", 1)[0], exist_ok=True)
            self.fs.pipe_file(self.path(name), buffer.getvalue())
            return
        with in_our_words(self.root):
            temporary = self.temporary(name)
            try:
                with open(temporary, "wb") as file:
                    yield file
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                os.replace(temporary, self.path(name))
            finally:
                Path(temporary).unlink(missing_ok=True)

    def append(self, name: str, content: bytes) -> None:
        """Add to a local file, which appears when it is not there: for logs, which one process writes line by line."""
        self.inside(name)
        with in_our_words(self.root):
            os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
            with open(self.path(name), "ab") as file:
                file.write(content)

    def put_if_absent(self, name: str, content: bytes) -> bool:
        """Write `content` unless `name` exists: True when we wrote it. Atomic among concurrent writers.

        Local: a hard link to a finished file, which fails when the name is taken. Elsewhere: schemas/exclusive.py.
        Raises StorageError for a place that cannot do that.
        """
        self.inside(name)
        if not self.local:
            self.check_exclusive()
            self.fs.makedirs(self.path(name).rsplit("/", 1)[0], exist_ok=True)
            return create(self.fs, self.path(name), content)
        with in_our_words(self.root):
            temporary = self.temporary(name)
            try:
                with open(temporary, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(temporary, self.path(name))
            except FileExistsError:
                return False
            finally:
                Path(temporary).unlink(missing_ok=True)
        return True

    def check_exclusive(self) -> None:
        """Raises StorageError for a place that has no `put_if_absent`. Local disks have it."""
        if not self.local:
            check_exclusive(self.root)

    def move(self, name: str, target: str) -> None:
        """Give a finished file its final name, which only its content decides."""
        self.inside(name), self.inside(target)
        if self.local:
            os.makedirs(os.path.dirname(self.path(target)), exist_ok=True)
            os.replace(self.path(name), self.path(target))
        else:
            self.fs.mv(self.path(name), self.path(target))

    def remove(self, name: str) -> None:
        folder = name.rpartition("/")[0]
        if leads_outside(name) or (folder and self.local and self._link_out(folder)):
            self.inside(name)
        if self.local:
            Path(self.path(name)).unlink(missing_ok=True)
        else:
            self.fs.rm_file(self.path(name))

    def walk(self, folder: str) -> Iterator[tuple[str, int]]:
        """(name, bytes) of every file below `folder`; those that vanish meanwhile are left out."""
        if not self.local:
            self.fs.invalidate_cache()
            inside = self.fs.find(self.path(folder), detail=True) if self.fs.exists(self.path(folder)) else {}
            prefix = len(self.fs._strip_protocol(self.root).rstrip("/")) + 1
            yield from ((name[prefix:], int(found["size"] or 0)) for name, found in inside.items())
            return
        for folder_path, _, names in os.walk(self.path(folder)):
            inner = os.path.relpath(folder_path, self.root).replace(os.sep, "/")
            for name in names:
                with suppress(FileNotFoundError):
                    yield (
                        (name if inner == "." else f"{inner}/{name}"),
                        os.lstat(os.path.join(folder_path, name)).st_size,
                    )

    def temporaries(self) -> Iterator[tuple[str, str, int]]:
        """(name, token of its writer, bytes) of every unfinished file. Local only: elsewhere a file is put whole."""
        for name, size in self.walk("") if self.local else ():
            if TEMPORARY in name:
                yield name, name.rsplit(TEMPORARY, 1)[1].rpartition("-")[0], size

    def remove_empty_folders(self, folder: str) -> None:
        """Remove the empty folders below `folder`; object stores have none."""
        for folder_path, _, names in os.walk(self.path(folder), topdown=False) if self.local else ():
            if not names:
                with suppress(OSError):  # not empty
                    os.rmdir(folder_path)

    def temporary(self, name: str) -> str:
        """The path of a new unfinished file that will be `name`."""
        self.inside(name)
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        return f"{self.path(name)}{TEMPORARY}{self.token}-{uuid.uuid4().hex[:8]}"


def leads_outside(name: str) -> bool:
    """Whether a path relative to a dataset could name something that is not below it."""
    if not name or name.startswith("/") or "\\" in name or "\0" in name:
        return True
    return ".." in name and ".." in name.split("/")


def _outside(root: str, what: str) -> str:
    return (
        f"{root}: {what!s} is outside the dataset's folder; expected a name inside it. Do not use this dataset, or "
        "restore its manifest."
    )


@contextmanager
def in_our_words(root: str) -> Iterator[None]:
    """Turns the errors of a full disk, and of a path under `root` that cannot be written, into StorageError."""
    try:
        yield
    except OSError as error:
        again = "then run the same command again: it continues where it stopped."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"{root}: {error.strerror}. Free some space, {again}") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and str(error.filename).startswith(root):
            raise StorageError(f"{root}: {error.strerror}. Make it writable, {again}") from error
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR) and str(error.filename).startswith(root):
            what = f"{error.filename}: {error.strerror}: a file where a folder belongs, or the reverse"
            raise StorageError(f"{what}. Move it away, {again}") from error
        raise


def server_of(path: str) -> str:
    """`gs://bucket` of an fsspec URL, `` of a local path."""
    return "/".join(path.split("/")[:3]) if "://" in path else ""
