"""A chat request: its content, its cache key, and its wire format."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Parameters = Mapping[str, Any]

_RESAMPLE_TEMPERATURE = 0.7
"""Another sample is asked for with at least this: at 0 the same would come back."""
# Overhead that chat templates add around a message and a request; generous, because it bounds what is reserved.
_TOKENS_PER_MESSAGE = 16
_TOKENS_PER_REQUEST = 64


@dataclass(frozen=True)
class Message:
    """One turn: the role, the text, and the pictures (encoded bytes) that come before the text."""

    role: str
    text: str
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class AnswerSchema:
    """The JSON schema that an answer must obey."""

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class ChatRequest:
    """One question. `key` covers all that can change the answer, and nothing else (not the server's address).

    `sample` tells apart several answers to the same question: 0 is the first, 1 another try, and so on.
    """

    provider: str
    model: str
    messages: tuple[Message, ...]
    max_output_tokens: int
    parameters: Parameters = field(default_factory=dict)
    schema: AnswerSchema | None = None
    sample: int = 0
    after: str | None = None
    """The id of an answer that was of no use (empty where its server gives none): the next sample is requested
    (`AnswerCache.next_sample`). No part of the key, which that sample's number is."""
    prompt: str = ""
    """The prompt's name, for summaries; its text is in the messages, so it is no part of the key."""

    def key(self) -> str:
        """sha256 (64 hexadecimal digits) of the content; an image counts by its own sha256."""
        content = {
            "provider": self.provider,
            "model": self.model,
            "parameters": dict(self.parameters),
            "max_output_tokens": self.max_output_tokens,
            "messages": [
                [message.role, message.text, [hashlib.sha256(image).hexdigest() for image in message.images]]
                for message in self.messages
            ],
            "schema": None if self.schema is None else [self.schema.name, dict(self.schema.schema)],
            "sample": self.sample,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def body(self, limit_field: str = "max_tokens", structured: str = "json_schema") -> dict[str, Any]:
        """The chat completions body (OpenAI API reference, "Create chat completion").

        `limit_field` is what the server calls the output limit; `structured` is how an answer schema is asked for:
        `json_schema`, `json_object`, or `prompt` (the schema is put into words at the end of the last message).
        """
        asked = self if self.schema is None or structured == "json_schema" else self._schema_in_words()
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": message.role, "content": _content(message)} for message in asked.messages],
            limit_field: self.max_output_tokens,
            **self.parameters,
        }
        if self.sample:
            body["seed"] = self.sample
        if self.schema is not None and structured == "json_schema":
            shape = {"name": self.schema.name, "schema": dict(self.schema.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        elif self.schema is not None and structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body

    def sampled(self, sample: int) -> ChatRequest:
        """The same question for its answer number `sample`; 0 is the first."""
        parameters = dict(self.parameters)
        if sample and parameters.get("temperature") is not None:
            parameters["temperature"] = max(parameters["temperature"], _RESAMPLE_TEMPERATURE)
        return replace(self, sample=sample, parameters=parameters, after=None)

    def with_turns(self, *turns: Message) -> ChatRequest:
        """The same conversation, continued."""
        return replace(self, messages=(*self.messages, *turns), after=None)

    def most_input_tokens(self, tokens_per_image: int) -> int:
        """An upper bound of the input tokens: a byte-level tokenizer makes at most one token of each byte."""
        parts = [message.text for message in self.messages]
        if self.schema is not None:
            parts.append(json.dumps(dict(self.schema.schema)))
        words = sum(len(part.encode()) for part in parts)
        images = sum(len(message.images) for message in self.messages)
        return words + images * tokens_per_image + len(self.messages) * _TOKENS_PER_MESSAGE + _TOKENS_PER_REQUEST

    def _schema_in_words(self) -> ChatRequest:
        assert self.schema is not None
        last = self.messages[-1]
        words = f"{last.text}\n\nAnswer with one JSON value that obeys this JSON schema, and nothing else:\n"
        text = words + json.dumps(dict(self.schema.schema), sort_keys=True)
        return replace(self, messages=(*self.messages[:-1], replace(last, text=text)))


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.text
    images = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in message.images]
    return [*images, {"type": "text", "text": message.text}]


def _data_url(image: bytes) -> str:
    return f"data:{_media_type(image)};base64,{base64.b64encode(image).decode()}"


def _media_type(image: bytes) -> str:
    """The media type by the file's first bytes (WHATWG MIME Sniffing, section 6.1); JPEG when it is none of them."""
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if image.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    return "image/jpeg"
