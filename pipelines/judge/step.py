"""`judge`: an LLM scores conversations from 1 to 5 on four axes. In: `conversations` rows. Out: score columns.

Scores, not deletions: a mix decides which scores are good enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field, PrivateAttr, model_validator

from pipelines.engine.choosing import NOT_CHOSEN, ChosenRows
from pipelines.engine.step import Context, Needs
from pipelines.judge.scores import AXES, Scores, doubt_about, in_order_of, read_scores, schema_of
from pipelines.llm.answer import TRANSIENT, UNFINISHED, Answer, AnswerStatus, with_answers
from pipelines.llm.asks import AsksLlm
from pipelines.llm.context import CAPTION_COLUMNS, Known, known_from
from pipelines.llm.pool import Lease
from pipelines.llm.prompts import Prompt, load_prompt
from pipelines.llm.request import ChatRequest
from pipelines.llm.settings import EndpointConfig
from pipelines.llm.structured import Structured, ask_for
from pipelines.llm.tally import Tally, after_rejected, usage_fields, usage_of
from schemas import Dataset
from schemas.lookup import PicturesByName
from schemas.standing import LEFT_OUT, Use

_CONTEXT_COLUMNS = ("key", *CAPTION_COLUMNS, "boxes", "facts")


class JudgeStatus(StrEnum):
    """Why a conversation has no scores, beside the request layer's reasons (`AnswerStatus`, which has `ok` too)."""

    not_chosen = NOT_CHOSEN  # limit or sample leaves this row for a later run
    not_asked = "not_asked"  # an earlier step left the conversation out
    wrong_schema = "wrong_schema"  # no scores of the asked form, after all repairs


_REJECTED = frozenset({AnswerStatus.truncated, AnswerStatus.refused, JudgeStatus.wrong_schema})
"""Statuses of answers that another sample may do better."""


class JudgeConfig(EndpointConfig, ChosenRows):
    """The endpoint that judges, and where the pictures' context lies."""

    images: str = Field(description="the images dataset that the conversations were made from")
    prompt: str = "judge"
    """The name of a prompt that asks for scores, or the path of your own file."""
    repairs: int = Field(1, ge=0)
    """How often an answer without valid scores is requested again."""
    temperature: float | None = Field(0.0, ge=0, le=2)
    """null omits it from the request."""
    max_output_tokens: int = Field(200, ge=1)
    """Maximum tokens of one answer."""
    _loaded: Prompt = PrivateAttr()

    @model_validator(mode="after")
    def _prompt_needs_no_picture(self) -> JudgeConfig:
        self._loaded = load_prompt(self.prompt)
        if self._loaded.image:
            raise ValueError(f"prompt {self.prompt} asks for the picture, but a judge sees only its metadata")
        return self

    @property
    def loaded_prompt(self) -> Prompt:
        """As its file was when the configuration was made: workers get it with the configuration."""
        return self._loaded


class Judge(AsksLlm[JudgeConfig]):
    """Adds a score per axis and the judge's reason. Only conversations with status ok are asked about."""

    name = "judge"
    takes = "conversations"
    version = 3
    Config = JudgeConfig
    reads = ("key", "image_keys", "messages")
    adds = (
        *(pa.field(f"judge_{axis}", pa.int8()) for axis in AXES),
        pa.field("judge_reason", pa.string()),
        pa.field("judge_model", pa.string()),
        *usage_fields("judge"),
    )
    statuses = with_answers(JudgeStatus)
    transient = TRANSIENT
    unfinished = UNFINISHED | {NOT_CHOSEN}
    passed_over = frozenset({JudgeStatus.not_chosen, JudgeStatus.not_asked})
    datasets = ("images",)
    reads_before = ("judge_request_id", "judge_status")

    def depends_on(self) -> dict[str, Any]:
        return {"prompt_hash": self._prompt.hash}

    def setup(self, context: Context) -> None:
        self._context = context
        # A separate budget: what the conversations themselves cost is no reason not to judge them.
        self._lease = Lease(self.config, f"{context.dataset}#judge", context.workers)
        _ = self._images  # before several threads ask for it

    @property
    def endpoint(self) -> JudgeConfig:
        return self.config

    def requests(self, batch: pa.RecordBatch) -> Iterator[tuple[ChatRequest, int]]:
        for request in map(self._request, batch.to_pylist()):
            if request is not None:
                yield request, self._prompt.expected_output_tokens

    @property
    def _prompt(self) -> Prompt:
        return self.config.loaded_prompt

    @cached_property
    def _images(self) -> Images:
        return Images(self.config.images, self.dataset_versions["images"])

    @property
    def use(self) -> Use:
        return Use()

    @property
    def needs(self) -> Needs:
        waits = self.config.mode == "batch"
        return Needs(threads=True, waits=waits, divides_rates=True, one_machine=self.config.one_machine)

    def teardown(self) -> None:
        self._lease.close()

    def process_fragment(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = (row for batch in batches for row in batch.to_pylist())
        pending: list[dict[str, Any]] = []
        tally, prompt = Tally(), f"{self._prompt.id}/{self._prompt.version}"
        for key, judged, answer in self._lease.in_order(rows, self._judge):
            tally.add(key, self.config.model, prompt, answer)
            pending.append(judged)
            if len(pending) == self.batch_rows:
                yield self.rows_to_batch(pending)
                pending = []
        if pending:
            yield self.rows_to_batch(pending)
        for event in tally.events():
            self._context.log(event)

    def doubt(self, dataset: Dataset) -> str:
        """Equal scores everywhere say nothing about the conversations."""
        return doubt_about(dataset)

    async def _judge(self, row: Mapping[str, Any]) -> tuple[str, dict[str, Any], Answer | None]:
        """The row's key, its columns, and the answer that they were read from."""
        request = self._request(row)
        if request is None:
            reason = row[LEFT_OUT]
            detail = f"the conversation is {reason.partition('=')[2] or reason}"
            return row["key"], {"status": str(JudgeStatus.not_asked), "detail": detail}, None
        result = await ask_for(self._lease.client, request, read_scores, self.config.repairs)
        return row["key"], self._columns(result), result.answer

    def _columns(self, result: Structured[Scores]) -> dict[str, Any]:
        made = usage_of("judge", result.answer)
        if made:
            made["judge_model"] = self.config.model
        if result.value is not None:
            scores = {f"judge_{axis}": getattr(result.value, axis) for axis in AXES}
            return {**made, **scores, "judge_reason": result.value.reason, "status": str(AnswerStatus.ok)}
        if result.answer.ok:
            return {**made, "status": str(JudgeStatus.wrong_schema), "detail": result.problem}
        return {**made, "status": str(result.answer.status), "detail": result.answer.detail}

    def _request(self, row: Mapping[str, Any]) -> ChatRequest | None:
        """The question about one conversation; None for one that an earlier step left out."""
        if row.get(LEFT_OUT):
            return None
        turns = [
            {"role": turn["role"], "text": " ".join(part["text"] or "" for part in turn["content"]).strip()}
            for turn in row["messages"]
        ]
        known = self._images.known(row["image_keys"][0]) if row["image_keys"] else Known(row["key"])
        axes = in_order_of(row["key"])
        return ChatRequest(
            provider=self.config.provider,
            model=self.config.model,
            messages=self._prompt.messages({**known.values(), "turns": turns, "axes": axes}),
            max_output_tokens=self.config.max_output_tokens,
            parameters=self.config.request_parameters(),
            schema=schema_of(axes),
            prompt=f"{self._prompt.id}/{self._prompt.version}",
            after=after_rejected("judge", _REJECTED, row),
        )


class Images:
    """The context of pictures by key; a row is read when it is asked for."""

    def __init__(self, path: str | Path, manifest: int):
        self._dataset = Dataset.open(path, at=manifest)
        self._columns = [name for name in _CONTEXT_COLUMNS if name in self._dataset.columns]
        self._rows = PicturesByName(self._dataset)

    def known(self, key: str) -> Known:
        """What is known about a picture; nothing for a key that the dataset does not have."""
        number = self._rows.find(key)
        if number is None:
            return Known(key)
        (row,) = self._dataset.take([number], self._columns)
        return known_from(row, CAPTION_COLUMNS)
