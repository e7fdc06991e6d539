"""What one browser has asked: a conversation per model, side by side.

A picture is a file of Gradio's upload folder or an address; its bytes are read when a question is sent.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavabeam.serving.client import Answer, picture_url, user_message

COLUMNS = 4
"""Models beside each other, at most: more do not fit a screen."""


@dataclass(frozen=True)
class Picture:
    """One of `path` (an uploaded file) and `url`."""

    path: str = ""
    url: str = ""

    def address(self) -> str:
        """What a request names it by: an address as it is, so that the gateway's guard decides; a file as data."""
        return self.url or picture_url(Path(self.path).read_bytes())

    def bytes(self) -> bytes:
        return Path(self.path).read_bytes()


@dataclass
class Turn:
    """A question, and the answer or the error that came. `key` names it in what is recorded."""

    question: str
    pictures: tuple[Picture, ...]
    answer: Answer = field(default_factory=Answer)
    error: str = ""
    vote: int = 0
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    recorded: bool = False
    """Whether its answer is a row, to which a vote can be added."""

    @property
    def is_answered(self) -> bool:
        """Whether there is a whole answer: it goes along with the next question, and is recorded."""
        return bool(self.answer.finish_reason and self.answer.text) and not self.error


@dataclass
class Column:
    """The conversation with one model."""

    model: str
    turns: list[Turn] = field(default_factory=list)

    def messages(self, turn: Turn) -> list[dict[str, Any]]:
        """The request for `turn`, with the answered turns before it."""
        made: list[dict[str, Any]] = []
        for one in self.turns:
            if one is turn:
                break
            if one.is_answered:
                made.append(_question(one))
                made.append({"role": "assistant", "content": one.answer.text})
        return [*made, _question(turn)]


@dataclass
class Session:
    """All columns of one browser, in the order of the chosen models."""

    columns: list[Column] = field(default_factory=list)
    touched: bool = False
    """Whether somebody chose models; until then the page does."""
    view: Any = None
    """What the lists on the page show, so that they are sent again only when that changed."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    """The requests that are running."""

    @property
    def chosen(self) -> list[str]:
        return [column.model for column in self.columns]

    def stop(self) -> None:
        """End what is running; its turns keep what had come."""
        for task in self.tasks:
            task.cancel()

    def choose(self, models: Sequence[str]) -> None:
        """Show these models; those that were shown before keep their conversation."""
        known = {column.model: column for column in self.columns}
        self.columns = [known.get(name) or Column(name) for name in models[:COLUMNS]]

    def ask(self, question: str, pictures: tuple[Picture, ...]) -> list[tuple[Column, Turn]]:
        """A new turn in every column."""
        asked = [(column, Turn(question, pictures)) for column in self.columns]
        for column, turn in asked:
            column.turns.append(turn)
        return asked

    def again(self) -> list[tuple[Column, Turn, Turn]]:
        """The last question of every column, to be answered anew: (column, new turn, the one that it replaces)."""
        replaced = []
        for column in self.columns:
            if column.turns:
                old = column.turns.pop()
                column.turns.append(Turn(old.question, old.pictures))
                replaced.append((column, column.turns[-1], old))
        return replaced

    def clear(self) -> None:
        """Forget what was asked; the models stay."""
        self.stop()
        self.columns = [Column(column.model) for column in self.columns]


def shown(column: Column) -> list[dict[str, Any]]:
    """The conversation as Gradio's Chatbot shows it: two messages a turn, so that message n is of turn n // 2."""
    messages: list[dict[str, Any]] = []
    for turn in column.turns:
        pictures = [_shown(picture) for picture in turn.pictures]
        messages.append({"role": "user", "content": [*pictures, {"type": "text", "text": turn.question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": _reply(turn)}]})
    return messages


def _question(turn: Turn) -> dict[str, Any]:
    return user_message(turn.question, [picture.address() for picture in turn.pictures])


def _shown(picture: Picture) -> dict[str, Any]:
    """A file as a picture; an address as text: nothing but the gateway fetches it, not this page and no browser."""
    return {"path": picture.path} if picture.path else {"type": "text", "text": picture.url}


def _reply(turn: Turn) -> str:
    """The answer so far, what went wrong below it, or a sign that something is coming."""
    parts = [turn.answer.text, f"⚠️ {turn.error}" if turn.error else ""]
    if turn.answer.finish_reason == "length":
        parts.append("(cut at the token limit)")
    return "\n\n".join(part for part in parts if part) or "…"
