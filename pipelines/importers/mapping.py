"""Maps a source's column names and loosely typed values to the columns of the `images` schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from pipelines.importers.base import ImportStatus
from pipelines.importers.boxes import BoxUnit, Size, boxes_of
from pipelines.importers.extra import text
from schemas.errors import InputError
from schemas.records import BASE

TARGETS = tuple(BASE["images"].names)

NONE: Mapping[str, Any] = MappingProxyType({})

LONGEST_URL = 16_384
"""Characters. RFC 9110 (4.1) asks recipients for 8,000 octets at least; servers and proxies refuse what is much longer.
What a list has beyond that is a picture inside the list, or a cell that swallowed its neighbours."""

ALIASES: dict[str, tuple[str, ...]] = {
    "url": ("url", "image_url", "URL", "link", "src"),
    "alt_text": ("alt_text", "caption", "text", "alt", "TEXT", "description"),
}
"""Names that well-known url lists (LAION, CC3M, COYO, DataComp) use for these columns; the first one found counts."""


SIZES = (
    ("original_width", "original_height"),
    ("width", "height"),
    ("WIDTH", "HEIGHT"),
    ("image_width", "image_height"),
)
"""Columns with the size of a picture before anybody resized it, in the order in which they count."""


def match(columns: Mapping[Any, str | None], found: Iterable[str]) -> dict[str, str]:
    """Our column -> the source's column, from the given mapping and, for the rest, equal or well-known names.

    `columns` may name columns besides `TARGETS`; None leaves a column empty, whatever the source has.
    """
    names = set(found)
    matched = {}
    for target in dict.fromkeys((*TARGETS, *columns)):
        given = columns.get(target)
        if target in columns and given is None:
            continue
        candidates = (given,) if given is not None else ALIASES.get(target, (target,))
        first = next((name for name in candidates if name in names), None)
        if first is not None:
            matched[target] = first
    return matched


def resolve(columns: Mapping[Any, str | None], found: Iterable[str], where: str) -> dict[str, str]:
    """`match`, raising InputError when a mapped column is not there, or when nothing gives the url."""
    names = list(found)
    resolved = match(columns, names)
    for target, name in columns.items():
        if name is not None and target not in resolved:
            raise InputError(
                f"{where}: there is no column {name!r}, which is to become {target!r}. "
                f"Columns found: {', '.join(names) or 'none'}."
            )
    if "url" not in resolved:
        raise InputError(
            f"{where}: no column with the image URLs. Columns found: {', '.join(names) or 'none'}. "
            "Select it with `columns: {url: NAME}`."
        )
    return resolved


def lacking(matched: Mapping[str, set[str]]) -> list[str]:
    """A note for each file of a source, given our columns that it has, that lacks some which another one has."""
    known = [name for name in TARGETS if any(name in one for one in matched.values())]
    missing = {path: [name for name in known if name not in one] for path, one in matched.items()}
    short = [f"{path} ({', '.join(names)})" for path, names in missing.items() if names]
    more = f" and {len(short) - 5} more" if len(short) > 5 else ""
    return [f"files without columns that others have, left empty: {', '.join(short[:5])}{more}."] if short else []


def check_key(key: object, where: str, seen: set[str]) -> None:
    """Remember a key; raises InputError when an earlier row has it."""
    if key in (None, ""):
        return
    if str(key) in seen:
        raise InputError(
            f"{where}: the key {str(key)!r} also appears in an earlier row. Keys must be unique: "
            "remove one of the two rows, or map another column to `key`."
        )
    seen.add(str(key))


def image_row(
    values: Mapping[str, Any],
    columns: Mapping[str, str],
    needs_url: bool = True,
    *,
    extra: Mapping[str, Callable[[Any], Any]] = NONE,
    boxes: BoxUnit | None = None,
    size: Size = (None, None),
) -> dict[str, Any]:
    """One row of the `images` schema with its import status. A cell of the wrong type is left empty and named.

    extra: how the cells of further columns are read. Boxes in pixels are of the picture that the row's own width and
    height describe, else of one of `size`.
    """
    row: dict[str, Any] = {"import_status": ImportStatus.ok, "import_detail": None}
    problems: dict[str, str] = {}
    for target, name in columns.items():
        try:
            if target == "boxes":
                row[target] = boxes_of(_parsed(values.get(name)), boxes, _size(values, size))
            else:
                row[target] = (CONVERT.get(target) or extra.get(target, _text))(values.get(name))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            row[target] = None
            problems[target] = f"{name}: {' '.join(str(error).split()) or type(error).__name__}"
    if problems:
        row["import_status"] = ImportStatus.bad_value
    if needs_url and not row.get("url"):
        row.update(url=None, import_status=ImportStatus.no_url)
        problems.setdefault("url", "the row has no URL")
    row["import_detail"] = "; ".join(problems.values()) or None
    return row


def _size(values: Mapping[str, Any], size: Size) -> Size:
    """Width and height of the picture that a row's boxes refer to, in pixels."""
    for names in SIZES:
        if all(values.get(name) not in (None, "") for name in names):
            width, height = (float(values[name]) for name in names)
            return width, height
    return size


def key_text(value: object) -> str | None:
    """What a cell of a key column says; None where it says nothing that can be a key."""
    try:
        return _text(value)
    except ValueError:
        return None


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value.strip() or None if value else None
    if isinstance(value, bytes):
        return text(value)
    if isinstance(value, (bool, int, float)):
        return str(value)
    raise ValueError(f"expected text, found {type(value).__name__}")


def _url(value: object) -> str | None:
    url = _text(value)
    if url is not None and len(url) > LONGEST_URL:
        raise ValueError(f"a URL of {len(url)} characters; at most {LONGEST_URL} are taken")
    return url


def _parsed(value: Any) -> Any:
    """Cells of csv files hold lists and objects as JSON text, some parquet files text as bytes."""
    value = text(value) if isinstance(value, bytes) else value
    return json.loads(value) if isinstance(value, str) and value.strip()[:1] in ("[", "{") else value


def _captions(value: Any) -> list[str] | None:
    value = _parsed(value)
    if isinstance(value, str):
        value = [value]
    if value is None or value == []:
        return None
    value = [text(item) if isinstance(item, bytes) else item for item in value] if isinstance(value, list) else value
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("expected text or a list of texts")
    return [item.strip() for item in value if item.strip()] or None


def _facts(value: Any) -> list[dict[str, str]] | None:
    """`{"color": "teal"}` or `[{"name": "color", "value": "teal"}]`."""
    value = _parsed(value)
    if not value:
        return None
    if isinstance(value, Mapping):
        return [{"name": str(name), "value": str(fact)} for name, fact in value.items()]
    return [{"name": str(fact["name"]), "value": str(fact["value"])} for fact in value]


CONVERT = dict.fromkeys(TARGETS, _text) | {"url": _url, "captions": _captions, "facts": _facts}
