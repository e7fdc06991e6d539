"""What a run would ask and cost, from the real prompts of the real rows, before a cent is spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.generate.config import GenerateConfig
from pipelines.generate.context import known_from
from pipelines.generate.writer import build_request, unusable
from pipelines.llm.answer import Usage
from pipelines.llm.cache import AnswerCache
from pipelines.llm.request import ChatRequest
from pipelines.llm.store import FILE, CacheStore, check_folder
from pipelines.prompts import Prompt
from schemas import Dataset

# English text has about four characters per token with the tokenizers of current models (OpenAI, "What are tokens").
_CHARACTERS_PER_TOKEN = 4


def estimate(config: GenerateConfig, images: str | Path) -> dict[str, Any]:
    """Requests, tokens and USD that `generate` would take for the dataset `images`; sends nothing.

    `cost` is what to expect: input by its characters, output by what this model and prompt gave so far (from the
    cache), else by what the prompt file expects. `most` is the bound that a cap reserves: input by its bytes, every
    answer at the output limit. Rejected answers asked again (`samples`) and repairs come on top. None without a price.
    """
    store = CacheStore(config.cache) if (check_folder(config.cache) / FILE).is_file() else None
    try:
        seen = _lengths_seen(store, config) if store else {}
        cache = AnswerCache(store) if store else None
        prompts: dict[str, dict[str, Any]] = {}
        for prompt, request in _requests(config, images):
            told = prompts.setdefault(
                request.prompt, {"requests": 0, "cached": 0, "input_tokens": 0, "output_tokens": 0, "most_tokens": 0}
            )
            if cache is not None and cache.holds(request.key()):
                told["cached"] += 1
                continue
            told["requests"] += 1
            told["input_tokens"] += _likely_input(request, config.tokens_per_image)
            told["output_tokens"] += seen.get(request.prompt, prompt.expected_output_tokens)
            told["most_tokens"] += request.most_input_tokens(config.tokens_per_image) + request.max_output_tokens
    finally:
        if store is not None:
            store.close()
    return _priced(config, prompts)


def _requests(config: GenerateConfig, images: str | Path) -> Iterator[tuple[Prompt, ChatRequest]]:
    from pipelines.generate.step import Generate

    kinds, dataset = config.prompts(), Dataset.open(images)
    step = Generate(config)
    present = [name for name in (*step.reads, *step.optional) if name in dataset.columns]
    for fragment in dataset.fragments:
        for batch in fragment.batches(present):
            for row in batch.to_pylist():
                yield from _asked(config, kinds, row)


def _asked(config: GenerateConfig, kinds: list, row: Mapping[str, Any]) -> Iterator[tuple[Prompt, ChatRequest]]:
    if unusable(row, config.skip_duplicates):
        return
    known = known_from(row, config.caption_columns)
    for kind, prompt in kinds:
        image = (row.get("image") or {}).get("bytes") if prompt.image else None
        if (kind.sources and row.get("source") not in kind.sources) or not known.has(prompt.needs):
            continue
        if image or not prompt.image:
            yield prompt, build_request(config, prompt, known, image)


def _likely_input(request: ChatRequest, tokens_per_image: int) -> int:
    characters = sum(len(message.text) for message in request.messages)
    images = sum(len(message.images) for message in request.messages)
    return characters // _CHARACTERS_PER_TOKEN + images * tokens_per_image


def _lengths_seen(store: CacheStore, config: GenerateConfig) -> dict[str, int]:
    """Mean output tokens by prompt, of this model's answers in the cache."""
    rows = store.connection.execute(
        "SELECT prompt, AVG(output_tokens) FROM answers WHERE provider = ? AND model = ? AND output_tokens IS NOT NULL "
        "GROUP BY prompt",
        (config.provider, config.model),
    ).fetchall()
    return {prompt: round(mean) for prompt, mean in rows}


def _priced(config: GenerateConfig, prompts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    price = config.price.scaled(0.5) if config.price and config.mode == "batch" else config.price
    for told in prompts.values():
        outputs = told["requests"] * config.max_output_tokens
        likely = Usage(told["input_tokens"], told["output_tokens"])
        most = Usage(told["most_tokens"] - outputs, outputs)
        told["cost"], told["most"] = (price.cost(likely), price.cost(most)) if price else (None, None)
    names = ("requests", "cached", "input_tokens", "output_tokens", "most_tokens")
    totals = {name: sum(told[name] for told in prompts.values()) for name in names}
    costs = {name: sum(told[name] for told in prompts.values()) if price else None for name in ("cost", "most")}
    return {"model": config.model, "provider": config.provider, **totals, **costs, "by_prompt": prompts}
