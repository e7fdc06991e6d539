"""Estimates requests and cost of a run from its real requests, without sending any."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipelines.llm.answer import Usage
from pipelines.llm.cache import AnswerCache
from pipelines.llm.picturetokens import rule_for
from pipelines.llm.request import ChatRequest
from pipelines.llm.settings import EndpointConfig
from pipelines.llm.stores import AnswerStore, open_if_there
from schemas.pictures import PictureError, read

# English text has about four characters per token with the tokenizers of current models (OpenAI, "What are tokens").
_CHARACTERS_PER_TOKEN = 4


def estimate_requests(settings: EndpointConfig, requests: Iterable[tuple[ChatRequest, int]]) -> dict[str, Any]:
    """Requests, tokens and USD that `requests` (each with its expected output tokens) would take; sends nothing.

    `cost` is what to expect, from what this model and prompt took so far (in the cache); else input by its characters
    and what its provider documents for a picture of that size (picturetokens.py; `tokens_per_image` for other models),
    output by what the prompt file expects. `most` is the bound that a cap reserves: input by
    its bytes, every answer at the output limit. None without a price.
    """
    store = open_if_there(settings.cache)
    try:
        seen = _lengths_seen(store, settings) if store else {}
        cache = AnswerCache(store) if store else None
        prompts: dict[str, dict[str, Any]] = {}
        for first, expected in requests:
            request = first if cache is None else cache.next_sample(first)
            sums = prompts.setdefault(
                request.prompt, {"requests": 0, "cached": 0, "input_tokens": 0, "output_tokens": 0, "most_tokens": 0}
            )
            if cache is not None and cache.holds(request.key()):
                sums["cached"] += 1
                continue
            sums["requests"] += 1
            seen_input, seen_output = seen.get(request.prompt, (None, expected))
            pictures = any(message.images for message in request.messages)
            likely = _likely_input(request, settings)
            sums["input_tokens"] += seen_input if pictures and seen_input is not None else likely
            sums["output_tokens"] += seen_output
            sums["most_tokens"] += request.most_input_tokens(settings.image_tokens) + request.max_output_tokens
    finally:
        if store is not None:
            store.close()
    return _priced(settings, prompts)


def _likely_input(request: ChatRequest, settings: EndpointConfig) -> int:
    characters = sum(len(message.text) for message in request.messages)
    images = [image for message in request.messages for image in message.images]
    return characters // _CHARACTERS_PER_TOKEN + sum(_picture_tokens(image, settings) for image in images)


def _picture_tokens(image: bytes, settings: EndpointConfig) -> int:
    rule = rule_for(settings.model)
    if rule is None:
        return settings.image_tokens
    try:
        header = read(image)
    except PictureError:
        return settings.image_tokens
    return min(rule(header.width, header.height), settings.image_tokens)


def _lengths_seen(store: AnswerStore, settings: EndpointConfig) -> dict[str, tuple[int, int]]:
    """Mean input and output tokens by prompt, of this model's answers in the cache."""
    rows = store.connection.execute(
        "SELECT prompt, AVG(input_tokens), AVG(output_tokens) FROM answers WHERE provider = ? AND model = ? "
        "AND input_tokens IS NOT NULL AND output_tokens IS NOT NULL GROUP BY prompt",
        (settings.provider, settings.model),
    ).fetchall()
    return {prompt: (round(taken), round(given)) for prompt, taken, given in rows}


def _priced(settings: EndpointConfig, prompts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    price = settings.price.scaled(0.5) if settings.price and settings.mode == "batch" else settings.price
    for sums in prompts.values():
        outputs = sums["requests"] * settings.max_output_tokens
        likely = Usage(sums["input_tokens"], sums["output_tokens"])
        most = Usage(sums["most_tokens"] - outputs, outputs)
        sums["cost"], sums["most"] = (price.cost(likely), price.cost(most)) if price else (None, None)
    names = ("requests", "cached", "input_tokens", "output_tokens", "most_tokens")
    totals = {name: sum(sums[name] for sums in prompts.values()) for name in names}
    costs = {name: sum(sums[name] for sums in prompts.values()) if price else None for name in ("cost", "most")}
    return {"model": settings.model, "provider": settings.provider, **totals, **costs, "by_prompt": prompts}
