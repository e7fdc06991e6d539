"""Validation of a chat request's body, field by field (OpenAI API reference, "Create chat completion")."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lavabeam.serving.errors import RequestError
from schemas.config import nearest

IGNORED = frozenset({"user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier"})
IGNORED |= {"prompt_cache_key", "prompt_cache_retention", "reasoning_effort", "verbosity", "prediction"}
"""What changes nothing for one model on one machine."""

_TEXT_ONLY = {"type": "text"}
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": (_TEXT_ONLY,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "n": (1,),
}
"""Fields whose effect there is not here, and the values that ask for none; null always does."""

MOST_STOPS, MOST_MESSAGES = 4, 1024


@dataclass(frozen=True)
class ChatRequest:
    """`messages` as in a samples row; `images`: the addresses of its image parts, in order, and where they stand."""

    model: str
    messages: list[dict[str, Any]]
    images: list[tuple[str, str]]
    stream: bool
    usage: bool
    """Whether a stream ends with a chunk of its usage."""
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]


def parse_request(body: bytes) -> ChatRequest:
    """Raises RequestError, 400, naming the field, what was found and what was expected."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:  # also of bytes that are no UTF-8
        raise RequestError(400, f"the body is not valid JSON: {str(error)[:200]}", code="invalid_json") from error
    if not isinstance(given, dict):
        raise _wrong("body", given, "an object")
    known = {*FIELDS, *IGNORED, *UNSUPPORTED}
    for name, value in given.items():
        if name not in known:
            raise RequestError(
                400, f"unknown field {_shown(name)}. {nearest(name, sorted(known))}", code="unknown_field", param=name
            )
        if name in UNSUPPORTED and value is not None and value not in UNSUPPORTED[name]:
            raise RequestError(
                400,
                f"{name}: {_shown(value)} is not supported here. Leave the field out.",
                code="unsupported_value",
                param=name,
            )
    values = {name: check(name, given.get(name)) for name, check in FIELDS.items()}
    messages, images = _messages(given.get("messages"))
    if values["max_tokens"] is not None and values["max_completion_tokens"] is not None:
        raise _wrong("max_tokens", values["max_tokens"], "it or max_completion_tokens, not both")
    return ChatRequest(
        values["model"],
        messages,
        images,
        bool(values["stream"]),
        values["stream_options"],
        values["max_tokens"] or values["max_completion_tokens"],
        values["temperature"] or 0.0,
        1.0 if values["top_p"] is None else values["top_p"],
        values["seed"],
        values["stop"],
    )


def _messages(given: Any) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    if not isinstance(given, list) or not given or len(given) > MOST_MESSAGES:
        raise _wrong("messages", given, f"a list of 1 to {MOST_MESSAGES} messages")
    made: list[dict[str, Any]] = []
    images: list[tuple[str, str]] = []
    for number, message in enumerate(given):
        where = f"messages.{number}"
        if not isinstance(message, dict):
            raise _wrong(where, message, "an object with role and content")
        role = message.get("role")
        if role not in ("system", "developer", "user", "assistant"):
            raise _wrong(f"{where}.role", role, "system, user or assistant")
        role = "system" if role == "developer" else role
        if role == "system" and number:
            raise _wrong(f"{where}.role", role, "a system message only in front of all others")
        made.append({"role": role, "content": _content(message.get("content"), role, f"{where}.content", images)})
    if made[-1]["role"] != "user":
        raise _wrong(f"messages.{len(made) - 1}.role", made[-1]["role"], "a user message as the last one")
    return made, images


def _content(given: Any, role: str, where: str, images: list[tuple[str, str]]) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [_text(given, where)]
    if given is None and role == "assistant":
        return [_text("", where)]
    if not isinstance(given, list) or not given:
        raise _wrong(where, given, "a string, or a list of parts")
    parts = []
    for number, part in enumerate(given):
        place = f"{where}.{number}"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            parts.append(_text(part.get("text"), f"{place}.text"))
        elif kind == "image_url" and role == "user":
            images.append((_address(part.get("image_url"), f"{place}.image_url"), f"{place}.image_url.url"))
            parts.append({"type": "image", "text": None})
        else:
            expected = "text or image_url" if role == "user" else "text: only a user message shows pictures"
            raise _wrong(f"{place}.type", kind, expected)
    return parts


def _text(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, str):
        raise _wrong(where, given, "a string")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise _wrong(where, given, "text without half of a surrogate pair") from None
    return {"type": "text", "text": given}


def _address(given: Any, where: str) -> str:
    url = given.get("url") if isinstance(given, dict) else given
    if not isinstance(url, str):
        raise _wrong(where, given, 'an object such as {"url": "https://..."}')
    return str(_text(url, where)["text"])


def _number(low: float, high: float, whole: bool) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        if value is None:
            return None
        fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not fits or not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise _wrong(name, value, f"{kind} from {low:g} to {high:g}")
        return value

    return check


def _flag(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _name(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(name, value, "the name of a model: GET /v1/models lists them")
    return value


def _stops(name: str, value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(one, str) and one for one in stops):
        raise _wrong(name, value, f"a string, or a list of at most {MOST_STOPS}, none empty")
    return tuple(_text(one, name)["text"] for one in stops)


def _usage(name: str, value: Any) -> bool:
    if value is None:
        return False
    if not isinstance(value, dict) or not value.keys() <= {"include_usage", "include_obfuscation"}:
        raise _wrong(name, value, '{"include_usage": true}')
    return bool(_flag(f"{name}.include_usage", value.get("include_usage")))


FIELDS: dict[str, Callable[[str, Any], Any]] = {
    "model": _name,
    "messages": lambda name, value: value,
    "stream": _flag,
    "stream_options": _usage,
    "max_tokens": _number(1, 2**31, True),
    "max_completion_tokens": _number(1, 2**31, True),
    "temperature": _number(0, 2, False),
    "top_p": _number(0, 1, False),
    "seed": _number(-(2**63), 2**63 - 1, True),
    "stop": _stops,
}


def _wrong(param: str, value: Any, expected: str) -> RequestError:
    return RequestError(400, f"{param}: found {_shown(value)}; expected {expected}.", code="invalid_value", param=param)


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, list | dict) else f"{type(value).__name__} of {len(value)}"
    return text if len(text) <= 60 else text[:57] + "..."
