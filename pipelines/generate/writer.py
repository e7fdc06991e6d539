"""From one image row to its conversation rows: request, parse, check, and resample if that helps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.generate.checks import check_pairs
from pipelines.generate.config import GenerateConfig, Kind
from pipelines.generate.questions import Question, Questions, Unasked
from pipelines.generate.statuses import REJECTED, GenerateStatus
from pipelines.llm.answer import Answer, AnswerStatus
from pipelines.llm.context import Known
from pipelines.llm.pictures import in_thread_if_redrawn
from pipelines.llm.prompts import Prompt
from pipelines.llm.reading.parsers import (
    Pair,
    QuestionAnswers,
    parse_json,
    parse_pair,
    parse_text,
    parse_turns,
)
from pipelines.llm.reading.refusal import check_refusal
from pipelines.llm.reading.rejected import Rejected
from pipelines.llm.request import ChatRequest
from pipelines.llm.structured import ask_for

if TYPE_CHECKING:
    from pipelines.llm.client import LlmClient


@dataclass(frozen=True)
class Written:
    """A conversation row, and the answer to which prompt it was made of."""

    row: dict[str, Any]
    prompt: str = ""
    answer: Answer | None = None


class Writer:
    """Writes the conversations of single rows; holds no state but its client."""

    def __init__(self, config: GenerateConfig, questions: Questions, client: LlmClient):
        self._config, self._questions, self._client = config, questions, client

    async def write(self, row: Mapping[str, Any], samples: Mapping[str, int]) -> list[Written]:
        """All conversation rows of an `images` row: at least one, also when nothing was asked.

        `samples`: where a conversation may have more than the configured number, by its key.
        """
        found = await in_thread_if_redrawn(self._questions.picture(row), lambda: self._questions.about(row))
        written = await asyncio.gather(*(self._samples(row, one, samples) for one in found))
        return [one for several in written for one in several]

    async def _samples(
        self, row: Mapping[str, Any], question: Question | Unasked, samples: Mapping[str, int]
    ) -> list[Written]:
        """One row per answer that was asked for: rejected ones stay, the last may be the good one."""
        kind, prompt = question.kind, question.prompt
        if isinstance(question, Unasked):
            return [Written(_bare_row(row, kind, prompt, question.status, question.detail))]
        written: list[Written] = []
        most = max(self._config.samples, samples.get(conversation_key(row["key"], question.kind), 0))
        for sample in range(most):
            request = self._questions.request(question, sample)
            written.append(await self._written(row, question, request))
            if written[-1].row["status"] not in REJECTED:
                break
        return written

    async def _written(self, row: Mapping[str, Any], question: Question, request: ChatRequest) -> Written:
        """The answer as a row. Its text stays in a rejected row as well: it was paid for, and explains the status."""
        kind, prompt = question.kind, question.prompt
        answer, pairs, status, detail = await self._answered(question.known, prompt, request)
        made = _bare_row(row, kind, prompt, status, detail)
        made["key"] = conversation_key(row["key"], kind, request.sample)
        if answer.received:
            unread = [(prompt.question(row["key"]) if prompt.questions else "", answer.text)]
            made["messages"] = _messages(pairs or unread, prompt.suffix)
        made["generator"] = _generator(request, prompt, answer)
        return Written(made, request.prompt, answer)

    async def _answered(
        self, known: Known, prompt: Prompt, request: ChatRequest
    ) -> tuple[Answer, list[Pair], str, str | None]:
        pairs: list[Pair] = []
        if prompt.answer == "json_pairs":
            result = await ask_for(self._client, request, _read_pairs, self._config.repairs)
            answer, pairs = result.answer, result.value or []
            if answer.ok and result.value is None:
                return answer, [], GenerateStatus.wrong_schema, result.problem
        else:
            answer = await self._client.ask(request)
        if not answer.ok:
            return answer, [], answer.status, answer.detail
        try:
            check_refusal(answer.text)
            pairs = pairs or _read(prompt, known.key, answer.text)
            if self._config.checks:
                check_pairs(pairs, known, self._config.language, prompt)
        except Rejected as rejected:
            return answer, pairs, rejected.status, rejected.detail
        return answer, pairs, AnswerStatus.ok, None


def _read(prompt: Prompt, key: str, text: str) -> list[Pair]:
    if prompt.answer == "text":
        return [(prompt.question(key), parse_text(text))]
    return parse_pair(text) if prompt.answer == "pair" else parse_turns(text)


def _read_pairs(text: str) -> list[Pair]:
    found = QuestionAnswers.model_validate(parse_json(text)).pairs
    pairs = [(one.question.strip(), one.answer.strip()) for one in found]
    if not pairs or not all(question and answer for question, answer in pairs):
        raise ValueError("pairs: at least one, each with a question and an answer")
    return pairs


def _bare_row(
    row: Mapping[str, Any], kind: Kind | None, prompt: Prompt | None, status: str, detail: str | None
) -> dict[str, Any]:
    return {
        "key": conversation_key(row["key"], kind),
        "image_keys": [row["key"]],
        "kind": prompt.kind if prompt else None,
        "source": row.get("source"),
        "status": str(status),
        "detail": detail,
    }


def conversation_key(key: str, kind: Kind | None, sample: int = 0) -> str:
    """`photo-7/detail`, and `photo-7/detail~1` for the second sample; unique within the dataset."""
    return (f"{key}/{kind.kind}" if kind else key) + (f"~{sample}" if sample else "")


def split_key(key: str) -> tuple[str, int]:
    """`photo-7/detail~1` -> (`photo-7/detail`, 1)."""
    conversation, mark, sample = key.rpartition("~")
    return (conversation, int(sample)) if mark and sample.isdecimal() else (key, 0)


def _messages(pairs: list[Pair], suffix: str) -> list[dict[str, Any]]:
    """User and assistant in turn; the picture stands before the first question."""
    messages = []
    for number, (question, answer) in enumerate(pairs):
        text = {"type": "text", "text": f"{question}\n{suffix}" if suffix else question}
        picture = [{"type": "image", "text": None}] if number == 0 else []
        messages.append({"role": "user", "content": [*picture, text]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages


def _generator(request: ChatRequest, prompt: Prompt, answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    parameters = {**request.parameters, "max_output_tokens": request.max_output_tokens}
    if request.sample:
        parameters["seed"] = request.sample
    return {
        "provider": request.provider,
        "model": request.model,
        "prompt_id": prompt.id,
        "prompt_version": prompt.version,
        "prompt_hash": prompt.hash,
        "parameters": json.dumps(parameters, sort_keys=True),
        "request_id": answer.request_id,
        "input_tokens": usage.input if usage else None,
        "output_tokens": usage.output if usage else None,
        "cost": answer.cost,
    }
