"""Structured answers: requested with a JSON schema, validated here, and repaired by the model if invalid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import ValidationError

from pipelines.llm.answer import Answer, AnswerStatus, Usage
from pipelines.llm.request import ChatRequest, Message

if TYPE_CHECKING:
    from pipelines.llm.client import LlmClient

Value = TypeVar("Value")


@dataclass(frozen=True)
class Structured(Generic[Value]):
    """The last answer, with the usage and cost of all rounds, and its value or the reason why it has none."""

    answer: Answer
    value: Value | None
    problem: str | None = None


async def ask_for(
    client: LlmClient, request: ChatRequest, read: Callable[[str], Value], repairs: int
) -> Structured[Value]:
    """Ask, and `read` the answer; what `read` refuses (ValueError) goes back to the model, at most `repairs` times."""
    answer = await client.ask(request)
    for round_number in range(repairs + 1):
        if not answer.ok:
            return Structured(answer, None)
        try:
            return Structured(answer, read(answer.text))
        except (ValueError, ValidationError) as error:
            problem = _in_short(error)
        if round_number == repairs:
            break
        complaint = f"This is not valid: {problem}. Answer again with the corrected JSON and nothing else."
        request = request.with_turns(Message("assistant", answer.text), Message("user", complaint))
        answer = _summed(answer, await client.ask(request))
    return Structured(answer, None, problem)


async def ask_until_read(
    client: LlmClient, request: ChatRequest, read: Callable[[str], Value], repairs: int
) -> Structured[Value]:
    """Ask, and `read` the answer; where `read` refuses it (ValueError) or the model does, the same question is asked
    for another sample, at most `repairs` times. Of an answer that was cut at its limit the complete lines are read.

    For answers that are compared with each other: no judge sees its own earlier words, as with `ask_for`.
    """
    answer, problem = None, None
    for more in range(repairs + 1):
        one = await client.ask(request if more == 0 else request.sampled(request.sample + more))
        answer = one if answer is None else _summed(answer, one)
        if answer.status not in _READ_ANYWAY:
            return Structured(answer, None)
        try:
            if answer.status is not AnswerStatus.refused:
                text = one.text if one.ok else one.text.rpartition("\n")[0]
                return Structured(answer, read(text))
        except (ValueError, ValidationError) as error:
            problem = _in_short(error)
    assert answer is not None
    return Structured(answer, None, problem)


_READ_ANYWAY = frozenset({AnswerStatus.ok, AnswerStatus.truncated, AnswerStatus.refused})


def _summed(before: Answer, after: Answer) -> Answer:
    """`after`, with the usage and cost of both; cached only when both were. The text is the last that came."""
    usage, cost = after.usage or before.usage, after.cost
    if before.usage is not None and after.usage is not None:
        discounted = before.usage.cached_input + after.usage.cached_input
        usage = Usage(before.usage.input + after.usage.input, before.usage.output + after.usage.output, discounted)
    if before.cost is not None:
        cost = before.cost + (after.cost or 0.0)
    text, received = after.text or before.text, before.received or after.received
    cached = before.cached and after.cached
    return replace(after, text=text, usage=usage, cost=cost, cached=cached, received=received)


def _in_short(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        problems = [f"{'.'.join(map(str, part['loc'])) or 'value'}: {part['msg']}" for part in error.errors()[:3]]
        return "; ".join(problems)
    return " ".join(str(error).split())[:200]
