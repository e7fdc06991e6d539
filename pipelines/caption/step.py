"""The `caption` step: images in, captions with their origin out, with any engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field

from pipelines.caption.endpoint import Endpoint, EndpointCaptionConfig
from pipelines.caption.engine import Caption, CaptionStatus, Engine, Identity, Picture
from pipelines.caption.engines import EngineConfig, build_engine
from pipelines.engine.choosing import NOT_CHOSEN, ChosenRows
from pipelines.engine.step import Context, Needs
from pipelines.llm.answer import TRANSIENT, UNFINISHED, AnswerStatus, with_answers
from pipelines.llm.asks import AsksLlm
from pipelines.llm.request import ChatRequest
from pipelines.llm.tally import Tally, after_rejected, usage_fields, usage_of
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from schemas.standing import EVERY_CHOICE, Use, reasons_in


def _named(value: Any) -> Any:
    """`labels` is short for `{name: labels}`."""
    return {"name": value} if isinstance(value, str) else value


class CaptionConfig(ChosenRows):
    """Who describes which pictures."""

    engine: Annotated[EngineConfig, BeforeValidator(_named)] = Field(
        description="labels, or {name: transformers, model: FOLDER}, or {name: endpoint, ...}"
    )
    only: dict[Literal["source", "license"], list[str]] = Field(
        {}, description="caption only rows with one of these values: {source: [photographs]}"
    )

    def identity(self) -> dict[str, Any]:
        return {"engine": self.engine.identity(), "only": self.only}


_REJECTED = frozenset({AnswerStatus.truncated, AnswerStatus.refused, CaptionStatus.empty})
"""Statuses of an endpoint's answers that another sample may do better."""


@dataclass
class _Pending:
    """A batch on its way: one place per row, filled as captions arrive."""

    captions: list[Caption | None]

    @property
    def complete(self) -> bool:
        return None not in self.captions


class CaptionStep(AsksLlm[CaptionConfig]):
    """Adds `caption`, and who wrote it: engine, model and version. Rows left out say why in `caption_status`."""

    name = "caption"
    takes = "images"
    version = 3
    Config = CaptionConfig
    optional = ("alt_text",)
    adds = (
        pa.field("caption", pa.string()),
        pa.field("caption_engine", pa.string()),
        pa.field("caption_model", pa.string()),
        pa.field("caption_version", pa.string()),
        pa.field("caption_score", pa.float64()),
        pa.field("caption_scorer", pa.string()),
        *usage_fields("caption"),
    )
    statuses = with_answers(CaptionStatus)
    transient = TRANSIENT
    unfinished = UNFINISHED | {NOT_CHOSEN}
    passed_over = frozenset(
        {CaptionStatus.not_chosen, CaptionStatus.not_asked, CaptionStatus.no_image, CaptionStatus.skipped_input}
    )
    reads_before = ("caption_request_id", "caption_status")
    former_statuses: ClassVar = {"over_budget": AnswerStatus.budget_exhausted}

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that choose the rows are read like any other, so that their change is noticed."""
        return ("key", "image", *sorted(self.config.only))

    @property
    def asks_by(self) -> tuple[str, ...]:
        return tuple(sorted(self.config.only))

    def would_ask(self, rows: pa.Table) -> pa.ChunkedArray | None:
        """Only about rows that `only` takes."""
        wanted = None
        for name, values in self.config.only.items():
            taken = pc.is_in(rows.column(name), value_set=pa.array(values, pa.string()))
            wanted = taken if wanted is None else pc.and_(wanted, taken)
        return wanted

    @property
    def use(self) -> Use:
        """Copies are captioned: whether a mix takes them is not decided here."""
        return Use(takes=EVERY_CHOICE)

    @property
    def needs(self) -> Needs:
        """An endpoint is waited for; a model is in memory once, and uses all cores or the GPU by itself."""
        return self.config.engine.needs

    def setup(self, context: Context) -> None:
        self._context = context
        self._engine: Engine = build_engine(self.config.engine)
        self._engine.setup(context)

    def teardown(self) -> None:
        self._engine.close()

    def depends_on(self) -> dict[str, Any]:
        """The model's weights or the prompt file: another one under the same name makes other captions."""
        return {"source_version": build_engine(self.config.engine).source_version}

    def fingerprint(self, inputs: dict[str, str]) -> str:
        """Computed as in release 0.1.0, around the rest, so that no caption is made again for the change."""
        own = fingerprint(self.name, self.version, self.config.identity(), inputs)
        return fingerprint(own, self.dependencies["source_version"])

    def estimate(self, dataset: str | Path, target: str | Path | None = None, retry: str = "") -> dict[str, Any] | None:
        """None where another engine than an endpoint captions."""
        asks = isinstance(self.config.engine, EndpointCaptionConfig)
        return super().estimate(dataset, target, retry) if asks else None

    @property
    def endpoint(self) -> EndpointCaptionConfig:
        """Raises InputError when the engine is no endpoint."""
        if not isinstance(self.config.engine, EndpointCaptionConfig):
            raise InputError(
                f"caption: the engine {self.config.engine.name!r} sends nothing; there is no cost to estimate."
            )
        return self.config.engine

    def requests(self, batch: pa.RecordBatch) -> Iterator[tuple[ChatRequest, int]]:
        yield from self._asker.requests(picture for picture, _ in self._chosen(batch) if picture is not None)

    @cached_property
    def _asker(self) -> Endpoint:
        return Endpoint(self.endpoint)

    def process_fragment(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The engine pulls pictures ahead across batches; a batch leaves as soon as all its rows are settled."""
        waiting: deque[_Pending] = deque()
        asked: deque[tuple[_Pending, int, str]] = deque()
        tally = Tally()

        def pictures() -> Iterator[Picture]:
            for batch in batches:
                pending = _Pending([])
                waiting.append(pending)
                for row, (picture, left_out) in enumerate(self._chosen(batch)):
                    pending.captions.append(left_out)
                    if picture is not None:
                        asked.append((pending, row, picture.key))
                        yield picture

        for caption in self._engine.captions(pictures()):
            pending, row, key = asked.popleft()
            tally.add(key, self._engine.identity.model, self._engine.identity.version, caption.answer)
            pending.captions[row] = caption
            # The newest batch may still be growing: its rows are appended as pictures are pulled.
            while len(waiting) > 1 and waiting[0].complete:
                yield self._output(waiting.popleft())
        for pending in waiting:
            yield self._output(pending)
        for event in tally.events():
            self._context.log(event)

    def _chosen(self, batch: pa.RecordBatch) -> Iterator[tuple[Picture | None, Caption | None]]:
        """For each row the picture to describe, or the caption that says why there is none."""
        keys, images = batch.column("key"), batch.column("image")
        before = self._answers_before(batch)
        words = batch.column("alt_text").to_pylist() if "alt_text" in batch.schema.names else [None] * batch.num_rows
        choosing = {name: (batch.column(name), set(values)) for name, values in self.config.only.items()}
        for row, reason in enumerate(reasons_in(batch)):
            if any(column[row].as_py() not in values for column, values in choosing.values()):
                yield None, Caption(CaptionStatus.not_asked)
                continue
            data = (images[row].as_py() or {}).get("bytes")
            if not data:
                yield None, Caption(CaptionStatus.no_image)
            elif reason is not None:
                yield None, Caption(CaptionStatus.skipped_input, detail=reason)
            else:
                yield Picture(keys[row].as_py(), data, words[row], before[row]), None

    def _answers_before(self, batch: pa.RecordBatch) -> list[str | None]:
        """The ids of answers that were no good, of rows that are made again because of that."""
        if not set(self.reads_before) <= set(batch.schema.names):
            return [None] * batch.num_rows
        rows = batch.select(list(self.reads_before)).to_pylist()
        return [after_rejected("caption", _REJECTED, row) for row in rows]

    def _output(self, pending: _Pending) -> pa.RecordBatch:
        rows: list[dict[str, Any]] = []
        for caption in pending.captions:
            assert caption is not None, "the engine returned fewer captions than it got pictures"
            rows.append(_row(caption, self._engine.identity))
        return self.rows_to_batch(rows)


def _row(caption: Caption, who: Identity) -> dict[str, Any]:
    row: dict[str, Any] = {"caption": caption.text, "status": caption.status.value, "detail": caption.detail}
    row |= {"caption_score": caption.score, "caption_scorer": caption.scorer, **usage_of("caption", caption.answer)}
    if caption.status != AnswerStatus.ok:
        return row
    if caption.writer is not None:
        return {**row, "caption_engine": caption.writer}
    return {**row, "caption_engine": who.engine, "caption_model": who.model, "caption_version": who.version}
