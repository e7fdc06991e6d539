"""The records of inference: prompts in, answers or reasons for failure out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from schemas.chat.llava_json import split_placeholders
from schemas.chat.shapes import PLACEHOLDER

Source = bytes | Path
"""A picture: encoded, or a file that is read when it is needed."""


class AnswerStatus(StrEnum):
    """How asking one prompt ended. A prompt that cannot be asked ends no other."""

    ok = "ok"
    no_picture = "no_picture"  # it names a file that is not there
    bad_picture = "bad_picture"  # one of its pictures cannot be decoded
    bad_question = "bad_question"  # it shows another number of pictures than it names
    too_long = "too_long"  # it leaves no room for an answer in the model's positions
    refused = "refused"  # a server would not answer it: its filter, or the model's own refusal


@dataclass(frozen=True)
class Answer:
    """`text`: without control tokens or surrounding blanks, empty unless `status` is ok. `detail`: the reason, with the
    prompt's name."""

    text: str = ""
    status: AnswerStatus = AnswerStatus.ok
    detail: str = ""


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with a user turn, and the pictures of its image parts, in order.

    `name`: for messages. `refused`: why it is not asked, where that is known already.
    """

    messages: Sequence[dict[str, Any]]
    images: tuple[Source, ...] = ()
    name: str = "prompt"
    refused: Answer | None = field(default=None, compare=False)


def question(text: str, images: tuple[Source, ...] = (), name: str = "prompt") -> Prompt:
    """One user turn with its pictures where `<image>` is in `text`, or in front of it if there is none.

    Without pictures `<image>` is text like any other.
    """
    if images and PLACEHOLDER in text:
        parts = split_placeholders(text)
        shown = sum(part["type"] == "image" for part in parts)
        if shown != len(images):
            detail = f"{name}: {shown} {PLACEHOLDER} in its text, and {len(images)} pictures. Every picture needs one."
            return refusal(name, AnswerStatus.bad_question, detail)
    else:
        parts = [*({"type": "image", "text": None} for _ in images), {"type": "text", "text": text}]
    return Prompt([{"role": "user", "content": parts}], images, name)


def refusal(name: str, status: AnswerStatus, detail: str) -> Prompt:
    """A prompt that keeps its place among others and is not asked."""
    return Prompt([], (), name, Answer("", status, detail))
