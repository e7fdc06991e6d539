"""What comes back: an answer with its usage and cost, or the reason why there is none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class AnswerStatus(StrEnum):
    """Why a request has its answer, or has none."""

    ok = "ok"
    truncated = "truncated"  # the answer ran into the output limit
    refused = "refused"  # the model's own refusal field is set
    content_policy = "content_policy"  # the provider's filter stopped the question or the answer
    context_length = "context_length"  # the question is longer than the model reads
    bad_request = "bad_request"  # the server does not accept the request as it is
    unauthorized = "unauthorized"  # wrong key, no permission, or no credit left
    unknown_model = "unknown_model"  # the server does not know the model or the address
    unavailable = "unavailable"  # busy, down, reset or stalled, until the tries were used up
    malformed = "malformed"  # the server answered with something that is no chat completion
    budget_exhausted = "budget_exhausted"  # sending it could have passed the spend cap


TRANSIENT = frozenset(
    {AnswerStatus.unauthorized, AnswerStatus.unknown_model, AnswerStatus.unavailable, AnswerStatus.malformed}
)
"""Statuses that another run may turn into an answer."""

UNFINISHED = frozenset({AnswerStatus.budget_exhausted})
"""Statuses that the next run tries again by itself."""


@dataclass(frozen=True)
class Usage:
    """Tokens as the server counted them; `cached_input` is the part of `input` that it had cached."""

    input: int
    output: int
    cached_input: int = 0


@dataclass(frozen=True)
class Answer:
    """What became of a request. `cached` is True when nothing was sent for it (it must not enter a column)."""

    status: AnswerStatus
    text: str = ""
    request_id: str | None = None
    usage: Usage | None = None
    cost: float | None = None
    detail: str | None = None
    cached: bool = False

    @property
    def ok(self) -> bool:
        return self.status is AnswerStatus.ok


class MalformedResponse(Exception):
    """The server's reply is no chat completion: not JSON, no choices, or no message. `usage` if it told one."""

    def __init__(self, message: str, usage: Usage | None = None):
        super().__init__(message)
        self.usage = usage


def read_response(raw: str | bytes) -> Answer:
    """The server's reply as an Answer without its cost; raises MalformedResponse."""
    try:
        response = json.loads(raw)
    except ValueError as error:
        raise MalformedResponse(f"the reply is not JSON ({error}): {_shortened(raw)}") from error
    if not isinstance(response, dict):
        raise MalformedResponse(f"the reply is not a JSON object: {_shortened(raw)}")
    usage = _usage(response.get("usage"))
    choices = response.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, dict):
        raise MalformedResponse(f"the reply has no choice with a message: {_shortened(raw)}", usage)
    text, refusal = message.get("content"), message.get("refusal")
    if text is not None and not isinstance(text, str):
        raise MalformedResponse(f"the message's content is no text: {_shortened(raw)}", usage)
    identity = response.get("id")
    request_id = identity if isinstance(identity, str) else None
    status, detail = _status(choice.get("finish_reason"), refusal)
    return Answer(status, text or "", request_id, usage, detail=detail)


def _status(finish_reason: Any, refusal: Any) -> tuple[AnswerStatus, str | None]:
    if isinstance(refusal, str) and refusal:
        return AnswerStatus.refused, refusal[:200]
    if finish_reason == "length":
        return AnswerStatus.truncated, "the answer reached max_output_tokens"
    if finish_reason == "content_filter":
        return AnswerStatus.content_policy, "the provider's filter stopped the answer"
    return AnswerStatus.ok, None


def _usage(told: Any) -> Usage | None:
    if not isinstance(told, dict):
        return None
    details = told.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    counts = (told.get("prompt_tokens"), told.get("completion_tokens"), cached or 0)
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        return None
    return Usage(*counts)  # type: ignore[arg-type]


def _shortened(raw: str | bytes) -> str:
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
    return repr(text if len(text) <= 120 else text[:117] + "...")
