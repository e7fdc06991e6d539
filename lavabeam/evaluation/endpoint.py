"""Answers from an OpenAI-compatible server, through the request layer: cache, caps, retries, concurrency.

In: LLaVA's file of questions. Out: LLaVA's file of answers, whole or not at all; what was answered before an
interruption is in the cache beside it, and is not asked again.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydantic

from lavabeam.evaluation.answers import write_jsonl
from pipelines.llm.answer import TRANSIENT, UNFINISHED
from pipelines.llm.answer import Answer as Reply
from pipelines.llm.answer import AnswerStatus as ReplyStatus
from pipelines.llm.pictures import in_thread_if_redrawn, sendable
from pipelines.llm.pool import Lease
from pipelines.llm.request import ChatRequest, Message
from pipelines.llm.settings import EndpointConfig
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from schemas.picturefolder import PictureFolder
from schemas.pictures import PictureError
from trainer.inference.prompts import Answer, AnswerStatus, Prompt
from trainer.inference.questionfile import llava_answer, prompts_of, read_questions

_TRY_AGAIN = TRANSIENT | UNFINISHED
"""Reasons that another run may turn into an answer; a score over them would be of the server, not of the model."""
_OPENAI = "api.openai.com"
_STATUSES = {
    ReplyStatus.context_length: AnswerStatus.too_long,
    ReplyStatus.bad_request: AnswerStatus.bad_question,
}


def is_endpoint(target: str) -> bool:
    """Whether a target is the address of a server."""
    return target.startswith(("http://", "https://"))


def api_address(url: str) -> str:
    """The address that requests go below: `url`, with /v1 where it has no path."""
    return url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/v1"


def endpoint_settings(
    url: str, model: str | None, max_tokens: int, cache: Path, given: dict[str, Any] | None = None
) -> EndpointConfig:
    """The request layer's settings for `url` (with /v1, where it has no path), greedy. given: fields to override.

    Raises InputError for an unknown field, or one with a wrong value.
    """
    if not model:
        raise InputError(f"{url}: give the name of the model with --model; the server lists it at /v1/models.")
    parts = urlsplit(url)
    own = {
        "model": model,
        "base_url": api_address(url),
        "provider": "openai" if parts.hostname == _OPENAI else parts.netloc.rpartition("@")[2],
        "temperature": 0.0,
        "max_output_tokens": max_tokens,
        "cache": str(cache),
    }
    try:
        return EndpointConfig(**{**own, **(given or {})})
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        known = ", ".join(sorted(EndpointConfig.model_fields))
        raise InputError(f"--set {name}: {first['msg']}. The settings of an endpoint are {known}.") from error


def answer_endpoint(settings: EndpointConfig, questions: Path, output: Path, images: Path | None) -> dict[str, int]:
    """Ask every question of a file once, and write LLaVA's answers; returns how many have each status, and `cached`.

    Raises InputError when some have no answer for a reason of the server (away, wrong key, a cap): nothing is written
    then, and the same command asks the remaining ones.
    """
    asked = read_questions(questions)
    if output.exists() and output.samefile(questions):
        raise InputError(f"{output}: the answers would overwrite their questions. Choose another file.")
    prompts = prompts_of(asked, questions, PictureFolder(str(images or questions.parent)))
    mark = fingerprint(settings.identity(), [row for _, row in asked])
    lease = Lease(settings, str(output.resolve()), 1)
    lines, counts, open_ = [], Counter[str](), list[Reply]()
    try:
        replies = lease.in_order(prompts, lambda prompt: _ask(lease, settings, prompt))
        for (_, row), (answer, reply) in zip(asked, replies, strict=True):
            if reply is not None and reply.status in _TRY_AGAIN:
                open_.append(reply)
            counts[answer.status.value] += 1
            counts["cached"] += reply is not None and reply.cached
            lines.append(llava_answer(row, answer, settings.model, mark))
    finally:
        lease.close()
    if open_:
        reasons = Counter(str(reply.status) for reply in open_)
        listed = ", ".join(f"{count} {status}" for status, count in reasons.most_common())
        raise InputError(
            f"{settings.base_url}: {len(open_)} of {len(asked)} questions have no answer ({listed}), for example: "
            f"{open_[0].detail}. The other answers are kept; the same command asks the remaining questions."
        )
    write_jsonl(output, lines)
    return dict(counts)


async def _ask(lease: Lease, settings: EndpointConfig, prompt: Prompt) -> tuple[Answer, Reply | None]:
    """The answer as a file has it, and what the server said, where it was asked."""
    if prompt.refused is not None:
        return prompt.refused, None
    try:
        pictures = [await _picture(source) for source in prompt.images]
    except (PictureError, OSError) as error:
        return Answer("", AnswerStatus.bad_picture, f"{prompt.name}: {error}"), None
    parts = [part for message in prompt.messages for part in message["content"]]
    kinds = [part["type"] for part in parts if part["type"] == "image" or part["text"].strip()]
    if "text" in kinds and "image" in kinds[kinds.index("text") :]:
        detail = f"{prompt.name}: a picture follows text; a server expects pictures before it."
        return Answer("", AnswerStatus.bad_question, detail), None
    words = "".join(part["text"] for part in parts if part["type"] == "text").strip()
    reply = await lease.client.ask(
        ChatRequest(
            provider=settings.provider,
            model=settings.model,
            messages=(Message("user", words, tuple(pictures)),),
            max_output_tokens=settings.max_output_tokens,
            parameters=settings.request_parameters(),
            prompt="evaluate",
        )
    )
    if reply.status in (ReplyStatus.ok, ReplyStatus.truncated):  # an answer that is cut is one: LLaVA's are, too
        return Answer(reply.text.strip()), reply
    status = _STATUSES.get(reply.status, AnswerStatus.refused)
    return Answer("", status, f"{prompt.name}: {reply.status}: {reply.detail}"), reply


async def _picture(source: Any) -> bytes:
    data = source if isinstance(source, bytes) else source.read_bytes()
    return await in_thread_if_redrawn(data, lambda: sendable(data))
