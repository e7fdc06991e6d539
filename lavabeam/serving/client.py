"""Client of a gateway or any other OpenAI-compatible server: model names and streamed answers.

In: an address. Out: names of models and pieces of text. Errors are the server's own words, as an `InputError`.
"""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
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


class Cut(Exception):
    """A stream that ended before its answer did."""


class GatewayClient:
    """One server, asked from one event loop; close it there.

    `key` is by default that of the environment variable LAVABEAM_API_KEY, which may be absent.
    """

    def __init__(self, address: str, key: str | None = None):
        """Raises InputError for an address that is not http."""
        self.address = server_address(address)
        self._client = open_client(self.address, key or os.environ.get(KEY_VARIABLE), READ_S)

    async def close(self) -> None:
        await self._client.close()

    async def models(self) -> list[Served]:
        """What is served now. Raises InputError."""
        return [_served(one) for one in await listed_models(self._client, self.address)]

    async def stream(
        self, model: str, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], into: Answer
    ) -> AsyncGenerator[str, None]:
        """The pieces of an answer as they come, gathered `into`; leaving early closes the connection.

        `messages` are OpenAI's. Raises InputError: with the server's words, or when the answer was cut off.
        """
        from httpx2 import HTTPError
        from openai import OpenAIError

        body = {"model": model, "messages": list(messages), **settings}
        try:
            async with aclosing(answer_pieces(self._client, body, into)) as pieces:
                async for text in pieces:
                    yield text
        except (HTTPError, Cut) as error:
            raise InputError(f"{model}: the answer was cut off. Ask again.") from error
        except OpenAIError as error:
            raise InputError(error_words(error, self.address)) from error
        except ValueError as error:  # neither UTF-8 nor JSON
            raise InputError(f"{model}: {self.address} sends what is not OpenAI's stream ({error}).") from error


def open_client(address: str, key: str | None, timeout_s: float) -> Any:
    """An AsyncOpenAI for the server at `address`. It tries nothing twice; plain http goes through no proxy."""
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

    limit = Timeout(timeout_s, connect=CONNECT_S)
    http = DefaultAsyncHttpxClient(trust_env=address.startswith("https://"), timeout=limit)
    return AsyncOpenAI(base_url=f"{address}/v1", api_key=key or "none", timeout=limit, max_retries=0, http_client=http)


async def listed_models(client: Any, address: str) -> list[Any]:
    """The models that a server lists. Raises InputError."""
    from openai import OpenAIError

    try:
        found = list((await client.models.list()).data)
        return [one for one in found if isinstance(one.id, str)]
    except OpenAIError as error:
        raise InputError(error_words(error, address)) from error
    except (ValueError, TypeError, AttributeError) as error:  # a page of HTML, another JSON
        raise InputError(f"{address}/v1/models is not a list of models. Check the address.") from error


async def answer_pieces(client: Any, body: Mapping[str, Any], into: Answer) -> AsyncGenerator[str, None]:
    """The texts of one streamed answer; what is known at its end is put `into`.

    Raises OpenAIError for what the server says, httpx2's errors for what happens on the way, and Cut.
    """
    chunks = await client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
    async with chunks:
        async for chunk in chunks:
            into.request_id = chunk.id or into.request_id
            if chunk.usage:
                into.input_tokens, into.output_tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
            for choice in (chunk.choices or [])[:1]:
                into.finish_reason = choice.finish_reason or into.finish_reason
                if choice.delta.content:
                    into.text += choice.delta.content
                    yield choice.delta.content
    if not into.finish_reason:
        raise Cut("the answer was cut off")


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
    if isinstance(error, Cut):
        return f"{address} ended in the middle of an answer."
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
