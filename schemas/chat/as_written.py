"""What a row of LLaVA's JSON says beside its conversation, kept so that the row can be written again as it was.

`left_over` is taken when a row is imported and stored as JSON text in the column `extra`; `as_written` makes the row
from messages, pictures, `id` and `extra`. What is left over is never trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.chat.llava_json import SPEAKERS, encodes, from_llava, to_llava, written
from schemas.chat.shapes import read_keys
from schemas.chat.templates import Message
from schemas.errors import InputError
from schemas.picturenames import meant_by, plain_name

TURNS = "conversations"
"""In `extra`: what turns hold beside what `to_llava` writes. A list with an object per turn, or null for nothing."""

PICTURES = ("image", "images")
SYSTEM = ("system", "system_prompt")
_LLAVA, _OPENAI = {"from", "value"}, {"role", "content"}


def id_and_extra(
    row: Mapping[str, Any], messages: Sequence[Message] | None, images: Sequence[str]
) -> tuple[str | None, str]:
    """The columns `id` and `extra` of an imported row; messages: None where they could not be read.

    An id that is not text, or that UTF-8 cannot hold, is in `extra` too, with its type.
    """
    known = read_keys(row)
    extra = {key: value for key, value in row.items() if key not in known}
    if messages is not None:
        extra |= left_over(row, messages, images)
    found = row.get("id")
    if "id" in row and not (isinstance(found, str) and encodes(found)):
        extra["id"] = found
    text = found if found is None or isinstance(found, str) else json.dumps(found)
    return None if text is None else text.encode(errors="backslashreplace").decode(), _json(extra)


def left_over(row: Mapping[str, Any], messages: Sequence[Message], images: Sequence[str]) -> dict[str, Any]:
    """What `to_llava(messages, images)` does not write as `row`, a row of LLaVA's own shape, has it.

    That is: pictures under names or in a form of their own, a system text beside the turns, and of turns what `TURNS`
    says. Of rows of other shapes nothing: they are written as LLaVA's.
    """
    turns = row.get(TURNS)
    if not isinstance(turns, list):
        return {}
    beside = {key: row[key] for key in SYSTEM if key in row}
    named = {key: row[key] for key in PICTURES if row.get(key) not in (None, "", [])}
    if named and named != {"image": images[0] if len(images) == 1 else list(images)}:
        beside |= named
    said = messages[len(messages) - len(turns) :]  # a system text next to the turns is a separate message
    if _all_plain(turns, said, bool(images)):
        return beside
    found = [_of_turn(turn, message, bool(images)) for turn, message in zip(turns, said, strict=True)]
    if any(found):
        beside[TURNS] = [one or None for one in found]
    return beside


def as_written(
    messages: Sequence[Message], images: Sequence[str], key: str, id: str | None = None, extra: str | None = None
) -> dict[str, Any]:
    """The row of LLaVA's JSON, as its source had it where `extra` says so and messages and pictures are unchanged.

    A mix may have changed messages since: then they are written as `to_llava` does, with the row's other keys. extra:
    None for a row that came from no JSON; its `id` is then `id`, else `key`. Raises InputError for an `extra` that is
    not a JSON object, and for a role that LLaVA's JSON has no speaker for.
    """
    odd = next((one["role"] for one in messages if one["role"] not in SPEAKERS), None)
    if odd is not None:
        raise InputError(f"row {key!r}: a message of role {odd!r}; LLaVA's JSON has {', '.join(SPEAKERS)}.")
    if extra is None:
        return to_llava(messages, images, key if id is None else id)
    kept = _parsed(extra, key)
    own = {"id": kept.pop("id")} if "id" in kept else {} if id is None else {"id": id}
    beside = {name: kept.pop(name) for name in (*PICTURES, *SYSTEM, TURNS) if name in kept}
    plain = to_llava(messages, images)
    if beside:
        written = _restored(plain, beside)
        if _means(written, messages, images):
            plain = written
    return own | plain | kept


def _all_plain(turns: Sequence[Mapping[str, Any]], said: Sequence[Message], shown: bool) -> bool:
    """Whether `_of_turn` finds nothing in any turn, as in nearly all rows."""
    return (
        set(map(len, turns)) == {2}
        and [turn.get("from") for turn in turns] == [SPEAKERS[one["role"]] for one in said]
        and {type(turn.get("value")) for turn in turns} == {str}
        and not (
            shown
            and any(
                len(one["content"]) > 1 and written(one["content"]) != turn["value"]
                for turn, one in zip(turns, said, strict=True)
            )
        )
    )


def _of_turn(turn: Mapping[str, Any], message: Message, shown: bool) -> dict[str, Any] | None:
    value = turn.get("value")
    # Only beside pictures does the text of a turn differ from its parts.
    same = type(value) is str and (not shown or len(message["content"]) == 1 or written(message["content"]) == value)
    if same and len(turn) == 2 and turn.get("from") == SPEAKERS[message["role"]]:
        return None
    if not turn.keys() >= _LLAVA:
        return {key: value for key, value in turn.items() if key not in _OPENAI}
    found = {key: turn[key] for key in turn if key not in _LLAVA}
    if SPEAKERS[message["role"]] != turn["from"]:
        found["from"] = turn["from"]
    if written(message["content"]) != value:
        found["value"] = value
    return found


def _restored(plain: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
    named = {key: beside[key] for key in PICTURES if key in beside} or {
        key: plain[key] for key in ("image",) if key in plain
    }
    system = {key: beside[key] for key in SYSTEM if key in beside}
    turns = plain[TURNS]
    apart = next((text for text in system.values() if text), None)
    if isinstance(apart, str) and turns and turns[0] == {"from": "system", "value": apart}:
        turns = turns[1:]
    held = beside.get(TURNS) or [None] * len(turns)
    if len(held) == len(turns):
        turns = [turn | (own or {}) for turn, own in zip(turns, held, strict=True)]
    return {**named, TURNS: turns, **system}


def _means(row: dict[str, Any], messages: Sequence[Message], images: Sequence[str]) -> bool:
    """Whether an import of `row` gives these messages, and its names mean these pictures (schemas/picturenames.py)."""
    try:
        read, names = from_llava(row, strict=False)
    except InputError:
        return False
    if len(names) != len(images) or [_plain(one) for one in read] != [_plain(one) for one in messages]:
        return False
    return all(map(same_picture, names, images))


def same_picture(written: str, key: str) -> bool:
    """Whether a name as a row has it can be the picture with that key: names may differ (schemas/picturenames.py), and
    an import cuts absolute ones at the image folder."""
    return bool(meant_by(written, [key], other_endings=True)) or plain_name(written).endswith(f"/{plain_name(key)}")


def _plain(message: Message) -> tuple[str, list[tuple[str, str | None]]]:
    return message["role"], [(part["type"], part.get("text")) for part in message["content"]]


def _parsed(extra: str, key: str) -> dict[str, Any]:
    try:
        kept = json.loads(extra)
    except json.JSONDecodeError as error:
        raise InputError(f"row {key!r}: its `extra` is {extra!r:.80}; expected a JSON object ({error}).") from error
    if not isinstance(kept, dict):
        raise InputError(f"row {key!r}: its `extra` is {extra!r:.80}; expected a JSON object.")
    return kept


def _json(value: dict[str, Any]) -> str:
    if not value:
        return "{}"
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if encodes(text) else json.dumps(value, separators=(",", ":"))
