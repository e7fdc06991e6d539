"""Rows of `conversations` about pictures of the same file, which another importer makes rows of `images` of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.importers.base import ImportStatus
from schemas.chat.llava_json import from_llava
from schemas.chat.shapes import ABOUT_PICTURES
from schemas.errors import InputError

SOURCES = ("source", "data_source", "dataset")
"""Names of the value that says where a conversation is from."""


def conversation_row(
    values: Mapping[str, Any], pictures: Sequence[str], key: str, kind: str, source: str | None
) -> dict[str, Any]:
    """The row of a conversation of any shape in schemas/chat/shapes.py about the pictures with the keys `pictures`.

    `values` name no pictures themselves. A row that cannot be read keeps its place with `bad_conversation`.
    """
    named = next((values[name] for name in SOURCES if isinstance(values.get(name), str) and values[name]), None)
    row: dict[str, Any] = {"key": key, "kind": kind, "source": source or named, "status": ImportStatus.ok}
    row["image_keys"] = list(pictures)
    try:
        row["messages"], shown = from_llava({**values, "images": list(pictures)}, f"row {key}")
    except InputError as error:
        return {**row, "status": ImportStatus.bad_conversation, "detail": str(error)}
    return {**row, "image_keys": shown}


def without_picture(row: dict[str, Any], shape: str | None) -> dict[str, Any]:
    """The row of a conversation whose place for pictures is empty.

    That is a conversation of text, unless its shape is one of questions about pictures: those are about a lost one.
    """
    if row["status"] != ImportStatus.ok or row["image_keys"] or shape not in ABOUT_PICTURES:
        return row
    detail = f"a row with `{shape}` is about a picture, and the row has none"
    return {**row, "messages": None, "status": ImportStatus.no_image, "detail": detail}
