"""Parsed responses: an answer with its usage and cost, or the reason why there is none."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipelines.llm.masking import shown


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


def with_answers(own: type[StrEnum]) -> type[StrEnum]:
    """Every status of a step that asks an LLM: those of `AnswerStatus`, followed by the step's `own` ones.

    So a reason is called the same in every step, and `--retry` takes it everywhere.
    """
    members = {status.name: status.value for status in (*AnswerStatus, *own)}
    return StrEnum(own.__name__, members)  # type: ignore[return-value]


TRANSIENT = frozenset(
    {AnswerStatus.unauthorized, AnswerStatus.unknown_model, AnswerStatus.unavailable, AnswerStatus.malformed}
)
"""Statuses that another run may turn into an answer."""

UNFINISHED = frozenset({AnswerStatus.budget_exhausted, AnswerStatus.unauthorized, AnswerStatus.unknown_model})
"""Statuses that the next run tries again by itself: they are about the account, not about the question."""

# Why the text ended, beside OpenAI's own words those of servers that pass on their engine's.
_AT_THE_LIMIT = frozenset({"length", "max_tokens", "max_output_tokens"})
_FILTERED = frozenset({"content_filter", "safety", "recitation"})
_BROKEN_OFF = frozenset({"error", "abort"})
# Columns of token counts are 32 bits wide; a server that says more miscounts.
_MOST_TOKENS = 2**31 - 1
_HTTP_ERROR = re.compile("[45][0-9]{2}")
# An id is for asking the provider about a request; theirs have 30 to 60 characters.
_LONGEST_ID = 200
# Enough for the words of any error that people wrote.
_LONGEST_ERROR = 2_000
# Half of a character that UTF-16 writes in two: no text, and no encoding takes it.
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Usage:
    """Tokens as the server counted them; `cached_input` is the part of `input` that it had cached."""

    input: int
    output: int
    cached_input: int = 0


@dataclass(frozen=True)
class Answer:
    """The outcome of a request. `cached` is True when nothing was sent for it (it must not enter a column).

    `received` is True when the server wrote something, whatever it is worth: then `text`, `usage` and `cost` tell it.
    """

    status: AnswerStatus
    text: str = ""
    request_id: str | None = None
    usage: Usage | None = None
    cost: float | None = None
    detail: str | None = None
    cached: bool = False
    received: bool = False

    @property
    def ok(self) -> bool:
        return self.status is AnswerStatus.ok


class MalformedResponse(Exception):
    """The server's reply is no chat completion: not JSON, no choices, or no message. `usage` if it sent one."""

    def __init__(self, message: str, usage: Usage | None = None):
        super().__init__(message)
        self.usage = usage


class ErrorResponse(Exception):
    """The server's reply is an error, sent with status 200; `status` is the HTTP status it means, if it says so."""

    def __init__(self, reported: str, status: int | None):
        super().__init__(reported)
        self.reported, self.status = reported, status


def read_response(raw: str | bytes) -> Answer:
    """The server's reply as an Answer without its cost; raises MalformedResponse or ErrorResponse."""
    response = read_json(raw)
    usage = _usage(response.get("usage"))
    choices = response.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    if choice is None and response.get("error"):
        raise _error(response["error"])
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, dict):
        raise MalformedResponse(f"the reply has no choice with a message: {_shortened(raw)}", usage)
    text = _text(message.get("content"))
    if text is None:
        raise MalformedResponse(f"the message's content is not text: {_shortened(raw)}", usage)
    finished = choice.get("finish_reason")
    reason = finished.lower() if isinstance(finished, str) else ""
    if reason in _BROKEN_OFF:
        raise MalformedResponse(f"the server aborted the answer ({reason}): {_shortened(raw)}", usage)
    identity = response.get("id")
    request_id = _clean(identity)[:_LONGEST_ID] if isinstance(identity, str) else None
    status, detail = _status(reason, message.get("refusal"))
    return Answer(status, text, request_id, usage, detail=detail, received=True)


def error_text(error: Any) -> str:
    """Code, type and message of an error as servers tell it, on one line without credentials; else all that it says."""
    if isinstance(error, dict):
        parts = [error.get("code"), error.get("type"), error.get("message")]
        words = " ".join(_words(part) for part in (parts if any(parts) else error.values()) if part)
    else:
        words = _words(error) if error else ""
    return shown(_clean(" ".join(words[:_LONGEST_ERROR].split())))


def as_response(answer: Answer) -> str:
    """A reply that `read_response` reads as `answer` (without its cost)."""
    ended = {AnswerStatus.truncated: "length", AnswerStatus.content_policy: "content_filter"}.get(answer.status, "stop")
    message = {"content": answer.text}
    if answer.status is AnswerStatus.refused:
        message["refusal"] = answer.detail or "refused"
    response: dict[str, Any] = {"id": answer.request_id, "choices": [{"finish_reason": ended, "message": message}]}
    if answer.usage is not None:
        counts = {"prompt_tokens": answer.usage.input, "completion_tokens": answer.usage.output}
        response["usage"] = {**counts, "prompt_tokens_details": {"cached_tokens": answer.usage.cached_input}}
    return json.dumps(response)


def read_json(raw: str | bytes) -> dict[str, Any]:
    """The JSON object that a server sent; raises MalformedResponse for anything else."""
    try:
        response = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise MalformedResponse(f"the reply is not JSON ({_in_short(error)}): {_shortened(raw)}") from error
    if not isinstance(response, dict):
        raise MalformedResponse(f"the reply is not a JSON object: {_shortened(raw)}")
    return response


def _in_short(error: Exception) -> str:
    return str(error)[:120]


def _words(part: Any) -> str:
    """A part of an error as text. Python limits how deep it writes and how long a number: then its kind."""
    if isinstance(part, str):
        return part
    try:
        return json.dumps(part)
    except (ValueError, RecursionError):
        return f"({type(part).__name__})"


def _error(reported: Any) -> ErrorResponse:
    code = reported.get("code") if isinstance(reported, dict) else None
    status = int(code) if isinstance(code, int | str) and _HTTP_ERROR.fullmatch(_words(code)) else None
    return ErrorResponse(error_text(reported), status)


def _text(content: object) -> str | None:
    """The words of a message: a string, nothing, or parts of which some are text; None for anything else."""
    if isinstance(content, list):
        words = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
        content = "".join(words) if words else content
    if content is not None and not isinstance(content, str):
        return None
    return _without_thoughts(_clean(content or ""))


def _without_thoughts(text: str) -> str:
    """What models write in front of the answer where their server does not take it out: `<think>...</think>`.

    Chat templates of some open the tag themselves, so that only its end is in the text.
    """
    thoughts, end, answer = text.partition("</think>")
    if end:
        return answer.strip()
    return "" if thoughts.lstrip().startswith("<think>") else text


def _status(finish_reason: str, refusal: object) -> tuple[AnswerStatus, str | None]:
    if isinstance(refusal, str) and refusal:
        return AnswerStatus.refused, shown(_clean(refusal)[:200])
    if finish_reason in _AT_THE_LIMIT:
        return AnswerStatus.truncated, "the answer reached max_output_tokens"
    if finish_reason in _FILTERED:
        return AnswerStatus.content_policy, "the provider's filter stopped the answer"
    return AnswerStatus.ok, None


def _usage(reported: Any) -> Usage | None:
    """What the server counted. Some count what a model thinks in the total only: it is output, and paid for."""
    if not isinstance(reported, dict):
        return None
    prompt, completion = _count(reported.get("prompt_tokens")), _count(reported.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    completion = max(completion, (_count(reported.get("total_tokens")) or 0) - prompt)
    details = reported.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(prompt, completion, min(cached or 0, prompt))


def _count(reported: Any) -> int | None:
    whole = isinstance(reported, int) or (isinstance(reported, float) and reported.is_integer())
    return int(reported) if whole and 0 <= reported <= _MOST_TOKENS else None


def _clean(text: str) -> str:
    return _SURROGATES.sub("\ufffd", text)


def _shortened(raw: str | bytes) -> str:
    """The beginning of a reply, for a message; credentials are masked before it is cut."""
    beginning = raw[:1_000]
    text = shown(beginning.decode(errors="replace") if isinstance(beginning, bytes) else beginning)
    return repr(_clean(text if len(text) <= 120 else text[:117] + "..."))
