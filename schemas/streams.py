"""A text file as UTF-8 bytes that can be read from any offset, whatever its compression and encoding.

Both are recognised by the file's first bytes, never by its name. Offsets count the bytes of the UTF-8 text, so
that a slice's offsets mean the same for a file and for its compressed copy.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow as pa

from schemas.errors import InputError

_CHUNK = 1 << 20

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}

_UTF8_MARK = codecs.BOM_UTF8
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark is the first half of it
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}

_DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException)


_ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")
"""Behind the ending that names the format."""


def plain_suffix(path: str) -> str:
    """The ending that says how the text of a file is written, in lower case: `.json` of `rows.JSON.gz`."""
    name = path.rsplit("/", 1)[-1].lower()
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return "." + name.rpartition(".")[2] if "." in name else ""


def zipped_name(path: str) -> str | None:
    """The name of the only file in a zip archive; None for another file. Raises InputError as `open_text` does."""
    with _opened(path) as file:
        if _compression(_head(file)) != "zip":
            return None
        try:
            return _only_name(zipfile.ZipFile(file), path)
        except _DAMAGE as error:
            raise InputError(f"{path}: the zip data is truncated or damaged ({error}). Get the file again.") from error


@contextmanager
def open_text(path: str) -> Iterator[BinaryIO]:
    """The file's text from its start, without a byte order mark.

    Raises InputError for a file that is not there, and, when it is read, for one that is truncated or damaged.
    """
    with _opened(path) as file:
        start = _plain_from(file)
        if start is not None:
            file.seek(start)
            yield file
            return
    with io.BufferedReader(_Decoded(path), _CHUNK) as file:
        yield cast(BinaryIO, file)


def read_text(path: str, offset: int, length: int) -> bytes:
    """`length` bytes of the file's text from `offset` on; raises as `open_text` does.

    A plain UTF-8 file is sought. Any other one is decoded from its start, or from where this thread left off when
    that is not behind `offset`: a worker that reads slices in order decodes the file once.
    """
    with _opened(path) as file:
        start = _plain_from(file)
        if start is not None:
            file.seek(start + offset)
            return file.read(length)
    stream = _resumed(path, offset)
    stream.read_exactly(offset - stream.position)
    content = stream.read_exactly(length)
    _kept.stream = stream
    return content


class _Decoded(io.RawIOBase):
    """UTF-8 bytes of a compressed or re-encoded file, forward only; `position` counts them."""

    def __init__(self, path: str):
        self.path, self.position = path, 0
        self._source = fsspec.open(path, "rb").open()
        self.version = _version(path)
        head = _head(self._source)
        self._what = _compression(head) or "text"
        self._decode: Callable[[bytes, bool], bytes] = _same
        try:
            self._file = _decompressed(self._source, _compression(head), path)
            self._rest = self._start()
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def _start(self) -> bytes:
        """The first bytes, which say how the text is encoded."""
        first = self._file.read(4)
        mark = next((mark for mark in _MARKS if first.startswith(mark)), b"")
        if mark:
            decoder = codecs.getincrementaldecoder(_MARKS[mark])()
            self._decode = lambda data, final: decoder.decode(data, final).encode()
            return self._transcode(first[len(mark) :], False)
        return first.removeprefix(_UTF8_MARK)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            try:
                data = self._file.read(_CHUNK)
            except _DAMAGE as error:
                raise self._damaged(error) from error
            self._rest = self._transcode(data, not data)
            if not data:
                break
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self.position += count
        return count

    def read_exactly(self, length: int) -> bytes:
        """`length` bytes, fewer only at the end, and none ahead of them."""
        parts = []
        while length > 0 and (part := self.read(min(length, _CHUNK))):
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            self._source.close()
        super().close()

    def _transcode(self, data: bytes, final: bool) -> bytes:
        try:
            return self._decode(data, final)
        except UnicodeError as error:
            raise InputError(
                f"{self.path}: its byte order mark promises {getattr(error, 'encoding', 'UTF-16')}, but the data "
                f"after byte {self.position} is not. Convert the file to UTF-8."
            ) from error

    def _damaged(self, error: BaseException) -> InputError:
        return InputError(
            f"{self.path}: the {self._what} data is truncated or damaged after byte {self.position} of the text "
            f"({' '.join(str(error).split()) or type(error).__name__}). Get the file again."
        )


_kept = threading.local()
"""The stream that this thread read last: the next slice usually begins where it stopped."""


def _resumed(path: str, offset: int) -> _Decoded:
    stream: _Decoded | None = getattr(_kept, "stream", None)
    _kept.stream = None
    if stream is not None:
        if stream.path == path and stream.position <= offset and stream.version == _version(path):
            return stream
        stream.close()
    return _Decoded(path)


def _version(path: str) -> str:
    fs, name = fsspec.core.url_to_fs(path)
    return str(fs.checksum(name))


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    try:
        with fsspec.open(path, "rb") as file:
            yield file
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Check the path.") from error


def _plain_from(file: BinaryIO) -> int | None:
    """Where the text of a plain UTF-8 file begins; None for a file that has to be decoded."""
    head = _head(file)
    if _compression(head) is not None or head.startswith(tuple(_MARKS)):
        return None
    return len(_UTF8_MARK) if head.startswith(_UTF8_MARK) else 0


def _head(file: BinaryIO) -> bytes:
    head = file.read(8)
    file.seek(0)
    return head


def _compression(head: bytes) -> str | None:
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def _same(data: bytes, final: bool) -> bytes:
    return data


def _decompressed(file: BinaryIO, compression: str | None, path: str) -> BinaryIO:
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if compression == "bzip2":
        return cast(BinaryIO, bz2.BZ2File(file))
    if compression == "xz":
        return cast(BinaryIO, lzma.LZMAFile(file))
    if compression == "zstd":
        return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
    return _only_member(zipfile.ZipFile(file), path) if compression == "zip" else file


def _only_member(archive: zipfile.ZipFile, path: str) -> BinaryIO:
    return cast(BinaryIO, archive.open(_only_name(archive, path)))


def _only_name(archive: zipfile.ZipFile, path: str) -> str:
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    names = [name for name in names if not name.startswith("__MACOSX/")]
    if len(names) != 1:
        raise InputError(
            f"{path}: a zip archive of one file is read here; this one holds {len(names)} ({', '.join(names[:5])}"
            f"{', ...' if len(names) > 5 else ''}). Unpack it, and give the files or a pattern."
        )
    return names[0]
