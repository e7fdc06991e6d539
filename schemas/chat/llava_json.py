"""LLaVA's JSON rows to messages and back: `{id, image, conversations: [{from, value}]}`, `<image>` inside a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.chat.templates import Message, content_parts
from schemas.errors import InputError

PLACEHOLDER = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}


def from_llava(
    row: dict[str, Any], where: str = "row", strict: bool = True, any_speaker: bool = False
) -> tuple[list[Message], list[str]]:
    """Messages and image paths of one row. `to_llava` returns the same conversations, character by character, except
    for text right after pictures that open a turn: there it starts a new line, as LLaVA's data do.

    A row without `image` has no pictures: `<image>` in its values stays text. Raises InputError, starting with `where`,
    for a row of another shape, an unknown speaker and, when `strict`, different numbers of `<image>` and images (the
    original trains such rows on the wrong picture, or on none). any_speaker: keep unknown speakers as roles.
    """
    turns = _turns(row, where)
    images = image_paths(row, where)
    messages: list[Message] = [
        {"role": _role(turn, where, number, any_speaker), "content": _parts(turn["value"], bool(images))}
        for number, turn in enumerate(turns)
    ]
    problem = mismatch(messages, images) if strict else None
    if problem is not None:
        raise InputError(f"{where}: {problem}")
    return messages, images


def mismatch(messages: Sequence[Message], images: Sequence[str]) -> str | None:
    """The message for a row that shows a different number of pictures than it names; None where they agree."""
    shown = sum(part["type"] == "image" for message in messages for part in message["content"])
    if shown == len(images):
        return None
    return (
        f"{len(images)} images and {shown} {PLACEHOLDER} in its conversations. Every image needs one {PLACEHOLDER} "
        "where it is shown; otherwise remove `image` from the row."
    )


def to_llava(messages: Sequence[Message], images: Sequence[str] = (), key: str | None = None) -> dict[str, Any]:
    """The row of a conversation; `image` is a path, a list of several, or missing when there is none."""
    row: dict[str, Any] = {} if key is None else {"id": key}
    if images:
        row["image"] = images[0] if len(images) == 1 else list(images)
    row["conversations"] = [
        {"from": SPEAKERS[message["role"]], "value": _value(content_parts(message))} for message in messages
    ]
    return row


def image_paths(row: dict[str, Any], where: str = "row") -> list[str]:
    """The images a row names: `image` is a path, a list of paths, null, or missing."""
    image = row.get("image")
    if image is None and row.get("images"):
        raise InputError(f"{where}: its images are in `images`; LLaVA's rows name them in `image`. Rename the key.")
    if image is None or image == "":
        return []
    found = [image] if isinstance(image, str) else image
    if not isinstance(found, list) or not all(isinstance(path, str) for path in found):
        raise InputError(f"{where}: image is {image!r:.80}; expected a path or a list of paths.")
    return found


def _turns(row: dict[str, Any], where: str) -> list[dict[str, Any]]:
    turns = row.get("conversations") if isinstance(row, dict) else None
    if turns == []:
        raise InputError(f"{where}: its `conversations` are empty. Leave the row out.")
    if not isinstance(turns, list):
        found = f"keys {sorted(row)}" if isinstance(row, dict) else type(row).__name__
        raise InputError(f"{where}: no list `conversations` ({found}). Expected a row of LLaVA's JSON format.")
    return turns


def _role(turn: Any, where: str, number: int, any_speaker: bool) -> str:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str) or "from" not in turn:
        raise InputError(f"{where}: turn {number} is {turn!r:.80}; expected {{'from': ..., 'value': text}}.")
    speaker = turn["from"]
    if not isinstance(speaker, str) or (speaker not in ROLES and not any_speaker):
        raise InputError(f"{where}: turn {number} is from {speaker!r}; expected human or gpt.")
    try:
        turn["value"].isascii() or turn["value"].encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: turn {number} has an unpaired surrogate ({error}). Correct its text.") from error
    return ROLES.get(speaker, speaker)


def _parts(value: str, has_image: bool) -> list[Message]:
    if not has_image or PLACEHOLDER not in value:
        return [{"type": "text", "text": value}]
    parts: list[Message] = []
    for number, piece in enumerate(value.split(PLACEHOLDER)):
        if number:
            parts.append({"type": "image", "text": None})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts or [{"type": "text", "text": ""}]


def _value(parts: list[Message]) -> str:
    """Parts as one text. A new line starts after pictures that open a turn, as in LLaVA's data."""
    value = ""
    only_pictures = True
    for part in parts:
        is_picture = part["type"] == "image"
        text = PLACEHOLDER if is_picture else part.get("text") or ""
        if value and only_pictures and text and not text[0].isspace():
            value += "\n"
        value += text
        only_pictures &= is_picture or not text
    return value
