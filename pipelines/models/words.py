"""The text of a row: a text column, a list of captions, or the turns of a conversation."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from schemas.errors import InputError


def text_of(value: Any, column: str) -> str | None:
    """The text in one cell; None where there is none.

    A list of strings (human captions) is its first one that is not empty, as in a mix; of a list of messages it is the
    text of all turns, a line each. Raises InputError for numbers and the like.
    """
    if value is None or isinstance(value, str):
        return value if value and value.strip() else None
    if isinstance(value, list):
        if all(isinstance(one, str | None) for one in value):
            return next((one for one in value if one and one.strip()), None)
        if all(isinstance(one, dict) and "content" in one for one in value):
            parts = (part for message in value for part in message["content"] or ())
            return "\n".join(part["text"] for part in parts if part.get("text")) or None
    raise InputError(
        f"column {column!r} holds {type(value).__name__} values, expected text, a list of texts, or messages. Name "
        "another column."
    )


def check_text(field: pa.Field) -> None:
    """Raise InputError for a column that `text_of` cannot read."""
    kind = field.type
    inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    messages = pa.types.is_struct(inner) and inner is not kind and inner.get_field_index("content") >= 0
    if not (messages or any(test(inner) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null))):
        raise InputError(
            f"column {field.name!r} holds {kind}, expected text, a list of texts, or messages. Name another column."
        )
