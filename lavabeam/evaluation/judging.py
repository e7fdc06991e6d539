"""Send questions to a judge through the request layer; each gets a parsed answer or a status."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import Field

from pipelines.llm.answer import Answer, AnswerStatus, with_answers
from pipelines.llm.pool import Lease
from pipelines.llm.request import ChatRequest, Message
from pipelines.llm.settings import EndpointConfig
from pipelines.llm.structured import ask_until_read
from pipelines.llm.tally import Tally

Value = TypeVar("Value")
MOST_SAMPLES = 100
"""Samples that belong to one run: a run's first one is always the same, however often another run had to ask."""


class _Own(StrEnum):
    unreadable = "unreadable"  # no scores in the asked form, after all repairs
    not_answered = "not_answered"  # the model that is judged gave no answer to this question


JudgementStatus: Any = with_answers(_Own)
"""Why a question has no judgement, beside the request layer's reasons (`AnswerStatus`, which has `ok` too)."""


class JudgeSettings(EndpointConfig):
    """The endpoint that judges, how often, and what it may cost."""

    temperature: float | None = Field(default=0.2, ge=0, le=2)
    """null omits it from the request. 0.2 is what LLaVA's review scripts ask with."""
    repairs: int = Field(default=2, ge=0, lt=MOST_SAMPLES)
    """How often a question is asked again when its answer holds no scores."""
    runs: int = Field(default=1, ge=1, le=100)
    """Judge everything so many times, for the spread."""


@dataclass(frozen=True)
class Asked:
    """One question to the judge: its name, the system's words and the user's, and tokens to expect of the answer."""

    name: str
    prompt: str
    system: str
    text: str
    run: int = 1
    expected_tokens: int = 200


@dataclass(frozen=True)
class Judgement(Generic[Value]):
    """`value` as it was read, or the status and detail of an answer that could not be; what was said and taken."""

    value: Value | None
    status: str
    detail: str | None
    answer: Answer


def requests_of(settings: JudgeSettings, asked: Sequence[Asked]) -> Iterator[tuple[ChatRequest, int]]:
    """Each first request, and the output tokens to expect of its answer: for estimate_requests."""
    for one in asked:
        yield _request(settings, one), one.expected_tokens


@contextmanager
def judge_all(
    settings: JudgeSettings,
    output: Path,
    asked: Sequence[Asked],
    read: Callable[[str], Value],
    tally: Tally,
) -> Iterator[Iterator[Judgement[Value]]]:
    """The judgements on each of `asked`, in their order; `read` raises ValueError for an answer that holds none.

    Answers are kept in the cache as they come: after a kill the same call asks for what is missing. The caps count
    what `output` has cost in all its runs.
    """
    lease = Lease(settings, str(output), workers=1)

    async def judge(one: Asked) -> tuple[Asked, Judgement[Value]]:
        found = await ask_until_read(lease.client, _request(settings, one), read, settings.repairs)
        answer = found.answer
        if found.value is not None:
            return one, Judgement(found.value, AnswerStatus.ok, None, answer)
        if answer.status is AnswerStatus.ok:
            return one, Judgement(None, JudgementStatus.unreadable, found.problem, answer)
        return one, Judgement(None, str(answer.status), answer.detail, answer)

    def judgements() -> Iterator[Judgement[Value]]:
        for one, judgement in lease.in_order(asked, judge):
            tally.add(one.name, settings.model, one.prompt, judgement.answer)
            yield judgement

    try:
        yield judgements()
    finally:  # here, not in the generator: whoever collects an unfinished one may be the client's own thread
        lease.close()


def _request(settings: JudgeSettings, asked: Asked) -> ChatRequest:
    return ChatRequest(
        provider=settings.provider,
        model=settings.model,
        messages=(Message("system", asked.system), Message("user", asked.text)),
        max_output_tokens=settings.max_output_tokens,
        parameters=settings.request_parameters(),
        sample=(asked.run - 1) * MOST_SAMPLES,
        prompt=asked.prompt,
    )
