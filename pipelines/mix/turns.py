"""Transformations of a row's turns: one row per turn, merged rows, shuffling, suffixes. Pure functions.

A *round* is a question with the answers to it. Messages are never changed in place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.mix.recipe import MixSource, Suffix

Message = dict[str, Any]
Round = list[Message]


@dataclass(frozen=True)
class Piece:
    """A row, or a part of one. `mark` tells it from the row's other parts; it shows the first `shown` pictures."""

    messages: list[Message]
    shown: int
    mark: str = ""


def pieces_of(messages: Sequence[Message], source: MixSource, key: str, seed: int) -> list[Piece]:
    """The rows that `source` makes of one conversation: one, or with `turns: one` a row per round."""
    if source.turns != "one" and not source.shuffle_turns and source.suffix is None:
        return [Piece(list(messages), pictures_in([list(messages)]))]
    head, rounds = rounds_of(messages)
    if source.shuffle_turns:
        rounds = shuffled(rounds, key, seed)
    if source.turns == "one" and len(rounds) > 1:
        made = [piece(head, rounds, number, number + 1, f"#t{number + 1}") for number in range(len(rounds))]
    else:
        made = [Piece([*head, *(message for one in rounds for message in one)], pictures_in(rounds))]
    if source.suffix is None:
        return made
    return [Piece(with_suffix(one.messages, source.suffix), one.shown, one.mark) for one in made]


def rounds_of(messages: Sequence[Message]) -> tuple[list[Message], list[Round]]:
    """What precedes the first question (a system message), and the rounds."""
    head: list[Message] = []
    rounds: list[Round] = []
    for message in messages:
        if message["role"] == "user":
            rounds.append([message])
        else:
            (rounds[-1] if rounds else head).append(message)
    return head, rounds


def piece(head: Sequence[Message], rounds: Sequence[Round], start: int, stop: int, mark: str) -> Piece:
    """Rounds `start` to `stop` as a separate row. Its first question shows the pictures of all rounds before it."""
    earlier = pictures_in(rounds[:start])
    own = list(rounds[start:stop])
    own[0] = [_showing(own[0][0], earlier), *own[0][1:]]
    return Piece([*head, *(message for one in own for message in one)], earlier + pictures_in(rounds[start:stop]), mark)


def merged(rows: Sequence[Sequence[Message]]) -> list[Message]:
    """Conversations about the same pictures as one: what is in front of the first, and the rounds of all.

    The pictures are shown once, where the first row shows them.
    """
    head, rounds = rounds_of(rows[0])
    made = [*head, *(message for one in rounds for message in one)]
    for row in rows[1:]:
        made += without_pictures([message for one in rounds_of(row)[1] for message in one])
    return made


def shuffled(rounds: list[Round], key: str, seed: int) -> list[Round]:
    """The rounds in an order that key and seed decide; the pictures move to the first one.

    Rows whose later questions show pictures of their own keep their order: their answers depend on it.
    """
    if len(rounds) < 2 or pictures_in(rounds[1:]):
        return rounds
    pictures = pictures_in(rounds[:1])
    bare = [without_pictures(rounds[0]), *rounds[1:]]
    bare = sorted(bare, key=lambda one: hashlib.blake2b(f"{seed}/{key}/{one}".encode(), digest_size=8).digest())
    return [[_showing(bare[0][0], pictures), *bare[0][1:]], *bare[1:]]


def with_suffix(messages: Sequence[Message], suffix: Suffix) -> list[Message]:
    """The suffix on a separate line after the questions that get it, and after no others."""
    made: list[Message] = []
    asked = 0
    for message in messages:
        if message["role"] != "user":
            made.append(message)
            continue
        asked += 1
        made.append(_ending(message, suffix.text, suffix.where == "every" or asked == 1))
    return made


def without_pictures(messages: Sequence[Message]) -> list[Message]:
    """The same turns as text: pictures go, and with them the blanks between them and the text."""
    return [_as_text(message) for message in messages]


def pictures_in(rounds: Sequence[Round]) -> int:
    return [part["type"] for one in rounds for message in one for part in message["content"]].count("image")


def _showing(message: Message, pictures: int) -> Message:
    """The message with `pictures` more in front of it."""
    if not pictures:
        return message
    shown = [{"type": "image", "text": None} for _ in range(pictures)]
    return {**message, "content": [*shown, *message["content"]]}


def _as_text(message: Message) -> Message:
    parts = message["content"]
    if "image" not in [part["type"] for part in parts]:
        return message
    text = "".join(part["text"] or "" if part["type"] == "text" else "\n" for part in parts).strip()
    return {**message, "content": [{"type": "text", "text": text}]}


def _ending(message: Message, line: str, wanted: bool) -> Message:
    """The question with, or without, the line at its end."""
    texts = [number for number, part in enumerate(message["content"]) if part["type"] == "text"]
    last = texts[-1] if texts else None
    text = (message["content"][last]["text"] or "") if last is not None else ""
    has = text.rstrip() == line or text.rstrip().endswith(f"\n{line}")
    if has == wanted:
        return message
    bare = text.rstrip()[: -len(line)].rstrip() if has else text.rstrip()
    changed = f"{bare}\n{line}" if wanted and bare else line if wanted else bare
    parts = list(message["content"])
    if last is None:
        return {**message, "content": [*parts, {"type": "text", "text": changed}]}
    parts[last] = {**parts[last], "text": changed}
    return {**message, "content": parts}
