"""Responses in OpenAI's format: one object, or server-sent events that end with [DONE]."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from lavabeam.serving.worker import Piece

DONE = b"data: [DONE]\n\n"


class Completion:
    """One answer (OpenAI API reference, "The chat completion object" and "The chat completion chunk object")."""

    def __init__(self, model: str):
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, text: str, last: Piece) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage(last)}

    def first(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""}, None)

    def piece(self, text: str) -> bytes:
        return self._chunk({"content": text}, None)

    def last(self, piece: Piece, with_usage: bool) -> bytes:
        made = self._chunk({}, piece.finish)
        if with_usage:
            made += event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage(piece)})
        return made + DONE

    def _chunk(self, delta: dict[str, Any], finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**self._head, "object": "chat.completion.chunk", "choices": [choice]})


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event (HTML standard, section 9.2)."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def usage(last: Piece) -> dict[str, int]:
    total = last.prompt_tokens + last.answer_tokens
    return {"prompt_tokens": last.prompt_tokens, "completion_tokens": last.answer_tokens, "total_tokens": total}
