"""Someone who asks a gateway, or any other OpenAI-compatible server: its models, and answers as they come.

In: an address. Out: names of models and pieces of text. Errors are the server's own words, as an `InputError`.
"""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.errors import InputError

KEY_VARIABLE = "LAVABEAM_API_KEY"
CONNECT_S, READ_S = 10.0, 300.0
"""Seconds until a server that does not answer is given up, and between two pieces of an answer."""


@dataclass(frozen=True)
class Served:
    """A model as /v1/models lists it. Other servers say no more than its name."""

    name: str
    state: str = ""
    family: str = ""
    precision: str = ""


@dataclass
class Answer:
    """One answer, filled as it comes: `text` grows, the rest is known at its end."""

    text: str = ""
    finish_reason: str = ""
    request_id: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None


class GatewayClient:
    """One server, asked from one event loop; close it there.

    `key` is by default that of the environment variable LAVABEAM_API_KEY, which may be absent.
    """

    def __init__(self, address: str, key: str | None = None):
        """Raises InputError for an address that is not http."""
        from openai import AsyncOpenAI, Timeout

        self.address = server_address(address)
        key = key or os.environ.get(KEY_VARIABLE) or "none"
        limit = Timeout(READ_S, connect=CONNECT_S)
        self._client = AsyncOpenAI(base_url=f"{self.address}/v1", api_key=key, timeout=limit, max_retries=0)

    async def close(self) -> None:
        await self._client.close()

    async def models(self) -> list[Served]:
        """What is served now. Raises InputError."""
        from openai import OpenAIError

        try:
            listed = (await self._client.models.list()).data
        except OpenAIError as error:
            raise InputError(self._words(error)) from error
        except (ValueError, TypeError, AttributeError) as error:  # a page of HTML, another JSON
            raise InputError(f"{self.address}/v1/models is not a list of models. Check the address.") from error
        return [_served(one) for one in listed]

    async def stream(
        self, model: str, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], into: Answer
    ) -> AsyncIterator[str]:
        """The pieces of an answer as they come, gathered `into`; leaving early closes the connection.

        `messages` are OpenAI's. Raises InputError: with the server's words, or when the answer was cut off.
        """
        from httpx2 import HTTPError
        from openai import OpenAIError

        given: Any = {"model": model, "messages": list(messages), **settings}
        try:
            chunks = await self._client.chat.completions.create(
                **given, stream=True, stream_options={"include_usage": True}
            )
            async with chunks:
                async for chunk in chunks:
                    into.request_id = chunk.id or into.request_id
                    if chunk.usage:
                        into.input_tokens = chunk.usage.prompt_tokens
                        into.output_tokens = chunk.usage.completion_tokens
                    for choice in chunk.choices[:1]:
                        into.finish_reason = choice.finish_reason or into.finish_reason
                        if choice.delta.content:
                            into.text += choice.delta.content
                            yield choice.delta.content
        except OpenAIError as error:
            raise InputError(self._words(error)) from error
        except HTTPError as error:  # openai lets those pass that come while a stream is read
            raise InputError(f"{model}: the connection ended in the middle of the answer. Ask again.") from error
        if not into.finish_reason:
            raise InputError(f"{model}: the answer was cut off. Ask again.")

    def _words(self, error: Exception) -> str:
        return error_words(error, self.address)


def server_address(address: str) -> str:
    """`http://host:port` of an address as users write it, with or without `/v1`. Raises InputError."""
    plain = address.strip().rstrip("/").removesuffix("/v1").rstrip("/")
    if not plain.startswith(("http://", "https://")):
        raise InputError(f"{address}: expected the http or https address of a server, such as http://127.0.0.1:8000.")
    return plain


def error_words(error: Exception, address: str) -> str:
    """What the server said, in its own words; else what happened on the way to it."""
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    if isinstance(error, APITimeoutError):
        return f"{address} did not answer in time. Ask again, or see what it is doing."
    if isinstance(error, APIConnectionError):
        return f"{address} cannot be reached. Start it with `lavabeam serve`, or correct the address."
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    if said:
        return str(said)
    status = f"status {error.status_code}" if isinstance(error, APIStatusError) else "an error"
    return f"{address} answered with {status} and no reason. Check the address."


def picture_url(data: bytes) -> str:
    """Bytes as a data URL. Whether they are a picture is the server's to say."""
    from schemas.pictures import PictureError, read

    try:
        kind = f"image/{read(data).format}"
    except PictureError:
        kind = "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def user_message(question: str, pictures: Sequence[str]) -> dict[str, Any]:
    """A question about pictures, which are URLs, in OpenAI's form: the pictures come first, as LLaVA was trained."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    return {"role": "user", "content": [*parts, {"type": "text", "text": question}]}


def _served(model: Any) -> Served:
    known = {name: str(getattr(model, name, None) or "") for name in ("state", "family", "precision")}
    return Served(name=model.id, **known)

