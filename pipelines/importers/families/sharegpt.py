"""ShareGPT's conversations as Vicuna filters them before LLaVA-1.5 takes them (arXiv 2310.03744, appendix A.2).

The rules are those of FastChat's clean_sharegpt.py, split_long_conversation.py and filter_wrong_format.py
(github.com/lm-sys/FastChat). Long conversations stay whole: a mix cuts them, as LLaVA does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from pipelines.importers.base import ImportStatus
from pipelines.importers.llava_json import LlavaJson, LlavaJsonConfig

SPEAKERS = {"human": "human", "user": "human"} | dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "assistant"), "gpt")
"""Who is meant by the speakers of raw dumps."""

_LIST_ANEW = re.compile(r"\n1\. [^2]*\n1\. ")
"""A numbered list that begins again before its second item: an extraction that lost the numbers."""

_HTML = re.compile(r"\s*<(?:div|p|span)\b", re.IGNORECASE)


class ShareGptConfig(LlavaJsonConfig):
    """Where the conversations are, and which are left out."""

    images: ClassVar[None] = None  # type: ignore[misc]
    other_endings: ClassVar[bool] = False  # type: ignore[misc]
    source: str | None = Field("sharegpt", description="written into `source`")
    blocked: tuple[str, ...] = Field(
        (), description="words that leave a conversation out, in any case; Vicuna's script has openai and chatgpt"
    )
    keep_system: bool = Field(False, description="keep a system text in front; Vicuna's script drops any turn there")


class Invalid(Exception):
    """Why a conversation is none to train on."""


class ShareGpt(LlavaJson):
    """Text alone. An invalid conversation keeps its row with `bad_conversation`; what a row lost is in its detail."""

    name = "sharegpt"
    version = 1
    Config = ShareGptConfig
    by_columns = False
    config: ShareGptConfig

    def _row(self, values: dict[str, Any], number: int) -> dict[str, Any]:
        try:
            turns, detail = valid_turns(values, self.config.blocked, self.config.keep_system)
        except Invalid as problem:
            row = super()._row({**values, "image": None, "images": None, "conversations": []}, number)
            return {**row, "status": ImportStatus.bad_conversation, "detail": f"row {number}: {problem}"}
        row = super()._row({**values, "conversations": turns}, number)
        return {**row, "detail": detail} if row["status"] == ImportStatus.ok else row


def valid_turns(
    values: Mapping[str, Any], blocked: Sequence[str] = (), keep_system: bool = False
) -> tuple[list[dict[str, str]], str | None]:
    """The turns of a row that Vicuna would train on, from human and gpt in turn, and what was left out of them.

    Raises Invalid, with the reason, for a row that it would not take.
    """
    turns = [_turn(turn, number) for number, turn in enumerate(_listed(values))]
    left_out: list[str] = []
    system = [turns.pop(0)] if keep_system and turns and turns[0]["from"] == "system" else []
    if turns and turns[0]["from"] != "human":
        left_out.append(f"the first turn (from {turns[0]['from']})")
        turns = turns[1:]
    if turns and turns[-1]["from"] == "human":
        left_out.append("the last question, which has no answer")
        turns = turns[:-1]
    if len(turns) < 2:
        raise Invalid("fewer than two turns")
    for number, turn in enumerate(turns):
        expected = ("human", "gpt")[number % 2]
        if turn["from"] != expected:
            raise Invalid(f"turn {number} is from {turn['from']}; expected {expected}")
        _check_text(turn["value"], number, blocked)
    return [*system, *turns], "left out: " + " and ".join(left_out) if left_out else None


def _listed(values: Mapping[str, Any]) -> list[Any]:
    if values.get("image") or values.get("images"):
        raise Invalid("it names a picture, and ShareGPT's conversations have none; import it with llava_json")
    turns = values.get("conversations")
    if not isinstance(turns, list):
        raise Invalid(f"`conversations` is {type(turns).__name__}, expected a list of turns")
    return turns


def _turn(turn: Any, number: int) -> dict[str, str]:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise Invalid(f"turn {number} is {turn!r:.80}; expected {{'from': ..., 'value': text}}")
    speaker = turn.get("from")
    meant = "system" if speaker == "system" else SPEAKERS.get(speaker) if isinstance(speaker, str) else None
    if meant is None:
        raise Invalid(f"turn {number} is from {speaker!r:.40}; expected one of system, {', '.join(SPEAKERS)}")
    return {"from": meant, "value": turn["value"]}


def _check_text(text: str, number: int, blocked: Sequence[str]) -> None:
    if not text.strip():
        raise Invalid(f"turn {number} is empty")
    if _HTML.match(text):
        raise Invalid(f"turn {number} is HTML, as ShareGPT's raw pages; convert it to text first")
    if _LIST_ANEW.search(text):
        raise Invalid(f"turn {number} has a numbered list that begins again before its second item")
    lower = text.lower()
    if found := next((word for word in blocked if word.lower() in lower), None):
        raise Invalid(f"turn {number} has the word {found!r}")
