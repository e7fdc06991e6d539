"""Maps exceptions of the HTTP client to the outcome of a request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx2
import openai

from pipelines.engine.retry import is_transient_http, parse_retry_after
from pipelines.llm.answer import AnswerStatus, ErrorResponse, MalformedResponse, Usage, error_text
from pipelines.llm.masking import shown

EXPECTED = (
    openai.OpenAIError,
    httpx2.HTTPError,
    asyncio.TimeoutError,
    MalformedResponse,
    ErrorResponse,
    OSError,
)
"""What sending a request may raise; anything else is a defect of ours and is not caught."""

# HTTP statuses (RFC 9110 section 15.5) that will not change by asking again, apart from 400, whose code tells more.
_PERMANENT = {
    401: AnswerStatus.unauthorized,
    402: AnswerStatus.unauthorized,
    403: AnswerStatus.unauthorized,
    404: AnswerStatus.unknown_model,
    413: AnswerStatus.context_length,
}
# OpenAI's and Azure's error codes ("Error codes" guide; Azure OpenAI "Content filtering"), and what vLLM says in words.
_POLICY_SIGNS = ("content_policy", "content_filter", "responsibleaipolicy", "safety system", "moderation")
_LENGTH_SIGNS = ("context_length_exceeded", "maximum context length", "string_above_max_length", "too many tokens")
_CREDIT_SIGNS = ("insufficient_quota", "billing_hard_limit", "billing_not_active")
# A field of the request that the model does not take: no other request would pass either.
_SETTING_SIGNS = ("unsupported_parameter", "unsupported_value", "unknown_parameter")
_SCHEMA_SIGNS = ("response_format", "json_schema", "structured output", "guided")
# An error that came with status 200 and names no other: most likely the server's own.
_UNTOLD = 500
_NEVER_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout, ConnectionRefusedError)
"""openai's aiohttp transport calls a refused connection a ConnectTimeout, which openai calls a timeout."""


@dataclass(frozen=True)
class Failure:
    """Why a request brought no answer, and what follows from it."""

    status: AnswerStatus
    detail: str
    retry: bool = False
    overload: bool = False  # a sign to the rate control to send less
    stops_run: bool = False  # every other request would fail in the same way
    may_be_billed: bool = False  # the server may have worked for it: its reservation counts as spent
    usage: Usage | None = None
    retry_after: float | None = None  # seconds that the server asked to wait
    schema_unsupported: bool = False


def explain(error: BaseException) -> Failure:
    """One of the `EXPECTED` exceptions as a Failure."""
    if isinstance(error, openai.APIStatusError):
        reported = error_text(error.body) or error_text(str(error.message))
        return explain_http(error.status_code, dict(error.response.headers), reported)
    if isinstance(error, ErrorResponse):
        return explain_http(error.status or _UNTOLD, {}, error.reported)
    if isinstance(error, MalformedResponse):
        return Failure(AnswerStatus.malformed, str(error), retry=True, may_be_billed=True, usage=error.usage)
    causes = _causes(error)
    if any(isinstance(cause, _NEVER_CONNECTED) for cause in causes):
        detail = f"cannot connect: {type(causes[-1]).__name__}"
        return Failure(AnswerStatus.unavailable, detail, retry=True, overload=True)
    if isinstance(error, (openai.APITimeoutError, asyncio.TimeoutError, httpx2.TimeoutException)):
        detail = "no answer within the timeout"
    else:
        detail = f"connection failed: {type(causes[min(1, len(causes) - 1)]).__name__}"
    return Failure(AnswerStatus.unavailable, detail, retry=True, overload=True, may_be_billed=True)


def _causes(error: BaseException) -> list[BaseException]:
    """`error` and what it was raised from, the first cause last."""
    found = [error]
    while found[-1].__cause__ is not None:
        found.append(found[-1].__cause__)
    return found


def explain_http(status: int, headers: dict[str, str], reported: str) -> Failure:
    """An HTTP status other than 200, with the code and message of its body in `reported`."""
    if not 400 <= status <= 599:
        return _no_answer(status, headers)
    signs, detail = reported.lower(), f"HTTP {status}: {reported}"[:300]
    if any(sign in signs for sign in _CREDIT_SIGNS):
        return Failure(AnswerStatus.unauthorized, detail, stops_run=True)
    if is_transient_http(status) or status == 409:
        wait = parse_retry_after(headers)
        return Failure(AnswerStatus.unavailable, detail, retry=True, overload=True, retry_after=wait)
    if status in (400, 422) or (status == 403 and any(sign in signs for sign in _POLICY_SIGNS)):
        return _bad_request(signs, detail)
    meaning = _PERMANENT.get(status, AnswerStatus.bad_request)
    stops = meaning in (AnswerStatus.unauthorized, AnswerStatus.unknown_model)
    return Failure(meaning, detail, stops_run=stops)


def _no_answer(status: int, headers: dict[str, str]) -> Failure:
    """A status that is neither an answer nor an error. Redirects are not followed: the key goes to `base_url` only."""
    location = headers.get("location")
    detail = f"HTTP {status}"
    if location:
        detail += f": a redirect to {shown(location)[:200]}, not followed: `base_url` must be the final address"
    return Failure(AnswerStatus.malformed, detail, retry=True)


def _bad_request(signs: str, detail: str) -> Failure:
    if any(sign in signs for sign in _POLICY_SIGNS):
        return Failure(AnswerStatus.content_policy, detail)
    if any(sign in signs for sign in _LENGTH_SIGNS):
        return Failure(AnswerStatus.context_length, detail)
    unsupported = any(sign in signs for sign in _SCHEMA_SIGNS)
    stops = not unsupported and any(sign in signs for sign in _SETTING_SIGNS)
    return Failure(AnswerStatus.bad_request, detail, stops_run=stops, schema_unsupported=unsupported)
