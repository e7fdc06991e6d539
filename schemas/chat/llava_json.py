"""LLaVA's JSON rows to messages and back: `{id, image, conversations: [{from, value}]}`, `<image>` inside a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.chat.shapes import (
    MEDIA_KEYS,
    PICTURE_KEYS,
    PLACEHOLDER,
    Turn,
    image_paths,
    loose,
    parts_of,
    pictures_in,
    turns_of,
)
from schemas.chat.templates import Message, content_parts
from schemas.errors import InputError

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_ODD_KEYS = frozenset((*MEDIA_KEYS, *PICTURE_KEYS, "images", "system", "system_prompt"))
SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}


def from_llava(
    row: dict[str, Any], where: str = "row", strict: bool = True, any_speaker: bool = False
) -> tuple[list[Message], list[str]]:
    """Messages and image paths of one row, of any shape in schemas/chat/shapes.py.

    `to_llava` returns the same conversations, character by character, except for text right after pictures that open
    a turn: there it starts a new line, as LLaVA's data do. A row without pictures keeps `<image>` as text.

    Raises InputError, starting with `where`, for a row of another shape, an unknown speaker and, when `strict`, for
    different numbers of `<image>` and images (the original trains such rows on the wrong picture, or on none) and for
    a question with a placeholder that shows nothing. any_speaker: keep unknown speakers as roles.
    """
    if not isinstance(row, dict):
        raise InputError(f"{where}: {type(row).__name__}; expected a row of LLaVA's JSON format.")
    plain = _plain(row)
    if plain is not None:
        return plain
    turns, images = turns_of(row, where), image_paths(row, where)
    named: list[str] = []
    messages = [_message(turn, where, number, any_speaker, bool(images), named) for number, turn in enumerate(turns)]
    images = images or named
    problem = (mismatch(messages, images) or loose(messages)) if strict else None
    if problem is not None:
        raise InputError(f"{where}: {problem}")
    return messages, images


def _plain(row: dict[str, Any]) -> tuple[list[Message], list[str]] | None:
    """What `from_llava` returns for a row of LLaVA's own shape, at a third of the cost; None for one that is odd in any
    way. Most rows of most files are plain."""
    turns, image = row.get("conversations"), row.get("image")
    if type(turns) is not list or not _ODD_KEYS.isdisjoint(row) or not (image is None or type(image) is str):
        return None
    has_image, shown, messages, marked = bool(image), 0, list[Message](), list[Message]()
    for turn in turns:
        if type(turn) is not dict or type(speaker := turn.get("from")) is not str:
            return None
        role, value = ROLES.get(speaker), turn.get("value")
        if role is None or type(value) is not str or not (value.isascii() or encodes(value)):
            return None
        if "<" not in value:
            messages.append({"role": role, "content": [{"type": "text", "text": value}]})
            continue
        if "<img>" in value:
            return None
        marked.append({"role": role, "content": _parts(value, has_image)})
        messages.append(marked[-1])
        shown += value.count(PLACEHOLDER) if has_image else 0
    if shown != has_image or not messages or (image and image.startswith("data:")) or loose(marked):
        return None
    return messages, [image] if image else []


def _message(turn: Turn, where: str, number: int, any_speaker: bool, has_image: bool, named: list[str]) -> Message:
    """A turn as a message; paths of pictures that its own parts name are added to `named`."""
    role = _role(turn, where, number, any_speaker)
    if isinstance(turn.content, str):
        text = turn.content
        if role == "user" and not has_image and "<img>" in text:
            text, paths = pictures_in(text)
            named += paths
            has_image = bool(paths)
        return {"role": role, "content": _parts(text, has_image)}
    parts, paths = parts_of(turn.content, where)
    named += paths
    content: list[Message] = [{"type": kind, "text": text if kind == "text" else None} for kind, text in parts]
    return {"role": role, "content": content or [{"type": "text", "text": ""}]}


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
        {"from": SPEAKERS[message["role"]], "value": written(content_parts(message))} for message in messages
    ]
    return row


def _role(turn: Turn, where: str, number: int, any_speaker: bool) -> str:
    speaker, content = turn
    if not isinstance(content, str | list):
        raise InputError(f"{where}: turn {number} is {content!r:.80}; expected text.")
    if not isinstance(speaker, str) or (speaker not in ROLES and not any_speaker):
        raise InputError(f"{where}: turn {number} is from {speaker!r}; expected human or gpt.")
    if isinstance(content, str) and not (content.isascii() or encodes(content)):
        raise InputError(f"{where}: turn {number} has an unpaired surrogate. Correct its text.")
    return ROLES.get(speaker, speaker)


def encodes(text: str) -> bool:
    """Whether UTF-8 can hold the text: half a surrogate pair it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parts(value: str, has_image: bool) -> list[Message]:
    if not has_image or PLACEHOLDER not in value:
        return [{"type": "text", "text": value}]
    return split_placeholders(value)


def split_placeholders(value: str) -> list[Message]:
    """The parts of a text: a picture for every `<image>`, and the text between them."""
    parts: list[Message] = []
    for number, piece in enumerate(value.split(PLACEHOLDER)):
        if number:
            parts.append({"type": "image", "text": None})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts or [{"type": "text", "text": ""}]


def written(parts: Sequence[Message]) -> str:
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
