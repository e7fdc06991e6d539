"""Cells that hold an image: bytes, Hugging Face's `{bytes, path}`, base64 text, a path, a URL, or lists of these."""

from __future__ import annotations

import base64
import binascii
import re
from contextlib import suppress
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from schemas.pictureheader import MAGIC_BYTES, check_magic
from schemas.pictures import PictureError
from schemas.store import leads_outside

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)


class Cell(NamedTuple):
    """What a cell holds: the bytes of a picture, its name, and why there are no bytes."""

    data: bytes | None
    name: str | None
    problem: str = ""


def picture_in(value: Any, folder: str) -> Cell:
    """The picture of a cell. Relative paths are below `folder`; none of them may lead out of it.

    An address is not read: what fetches URLs, behind its guard, is `download`.
    """
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        if not isinstance(data, bytes | str) or not data:
            return picture_in(path if isinstance(path, str) else None, folder)
        return picture_in(data, folder)._replace(name=_last(path) if isinstance(path, str) and path else None)
    if isinstance(value, str) and value:
        data = _decoded(value)
        return _named(value, folder) if data is None else Cell(data, None)
    if isinstance(value, bytes) and value:
        return Cell(value, None)
    kind = type(value).__name__
    return Cell(None, None, f"a picture is expected, and the cell holds {kind}" if value else "the row has no picture")


def key_of(value: Any) -> str | None:
    """The path or address that a cell names; None for one that holds the picture itself, or nothing."""
    path = value.get("path") if isinstance(value, dict) else value
    return path if isinstance(path, str) and path and _decoded(path) is None else None


def is_address(text: str) -> bool:
    return "://" in text or "::" in text


def is_list(kind: pa.DataType) -> bool:
    """Whether a column has a list of pictures per row."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def holds_pictures(kind: pa.DataType) -> bool:
    """Whether cells of this type may hold pictures (text may), or lists of them."""
    if is_list(kind):
        return not is_list(kind.value_type) and holds_pictures(kind.value_type)
    if pa.types.is_dictionary(kind):
        return holds_pictures(kind.value_type)
    if pa.types.is_struct(kind):
        return any(kind.get_field_index(name) >= 0 for name in ("bytes", "path"))
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(text or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind))


def without_bytes(column: pa.Array) -> list[Any]:
    """The cells of a column of pictures as Python values, but for bytes, which are b"" where there are some."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return without_bytes(column.dictionary_decode())
    if is_list(kind):
        sizes = pc.list_value_length(column).to_pylist()
        inner = iter(without_bytes(column.flatten()))
        return [None if size is None else [next(inner) for _ in range(size)] for size in sizes]
    if pa.types.is_struct(kind):
        path = kind.get_field_index("path")
        paths = column.flatten()[path].to_pylist() if path >= 0 else [None] * len(column)
        there = column.is_valid().to_pylist()
        return [{"path": one} if known else None for one, known in zip(paths, there, strict=True)]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [b"" if known else None for known in column.is_valid().to_pylist()]
    return column.to_pylist()


def _decoded(text: str) -> bytes | None:
    """The picture that base64 text holds, with or without `data:image/...;base64,`; None for other text."""
    url = _DATA_URL.match(text)
    if url is None and (len(text) < 2 * MAGIC_BYTES or not _is_picture(text[: 4 * MAGIC_BYTES])):
        return None
    body = text[url.end() :] if url else text
    if not _BASE64.fullmatch(body):
        return None
    with suppress(binascii.Error, ValueError):
        return base64.b64decode("".join(body.split()) + "==")
    return None


def _is_picture(text: str) -> bool:
    """Whether the beginning of a text is the beginning of a picture in base64: paths are in that alphabet too."""
    head = "".join(text.split())
    try:
        check_magic(base64.b64decode(head[: len(head) // 4 * 4], validate=True))
    except (binascii.Error, ValueError, PictureError) as error:
        return isinstance(error, PictureError) and error.defect == "unsupported_format"
    return True


def _named(path: str, folder: str) -> Cell:
    """The picture that a path names. One that cannot be read (no such file, not allowed) gives no bytes."""
    if is_address(path):
        how = "importers fetch nothing: import the addresses as a list (url_list), then download"
        return Cell(None, _last(path), f"{path!r:.200} is an address, and {how}")
    full = path
    if not path.startswith("/"):
        if leads_outside(path.removeprefix("./")):
            return Cell(None, _last(path), f"{path!r:.200} is outside the folder {folder}")
        full = f"{folder.rstrip('/')}/{path.removeprefix('./')}" if folder else path
    with suppress(OSError, ValueError):
        fs, local = fsspec.core.url_to_fs(full)
        if fs.isfile(local):
            data = fs.cat_file(local)
            return Cell(data, _last(path), "" if data else f"{path!r:.200} is empty")
    return Cell(None, _last(path), f"there is no file {full!r:.200}, or it cannot be read")


def _last(path: str) -> str:
    return path.rsplit("/", 1)[-1]
