"""The step: an `images` dataset in, a `conversations` dataset out, fragment by fragment."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.engine.choosing import NOT_CHOSEN
from pipelines.engine.step import Context, Derive, Needs
from pipelines.generate.checks import VERSION
from pipelines.generate.config import GenerateConfig
from pipelines.generate.questions import Question, Questions
from pipelines.generate.statuses import PASSED_OVER, REJECTED, GenerateStatus
from pipelines.generate.writer import Writer, conversation_key, split_key
from pipelines.llm.answer import TRANSIENT, UNFINISHED, with_answers
from pipelines.llm.asks import AsksLlm
from pipelines.llm.pool import Lease
from pipelines.llm.request import ChatRequest
from pipelines.llm.tally import Tally
from schemas.records import CONVERSATIONS
from schemas.standing import EVERY_CHOICE, LEFT_OUT, NOT_OK, Use

_READ_IF_PRESENT: tuple[str, ...] = (
    "source",
    "captions",
    "alt_text",
    "caption",
    "boxes",
    "facts",
)


class Generate(Derive[GenerateConfig], AsksLlm[GenerateConfig]):
    """Asks the LLM for conversations about every row, and keeps each answer with its status, usage and cost.

    Rows are worked on concurrently across batches; the order of rows is the source's. All fragments and threads of a
    process share one event loop and one client.
    """

    name = "generate"
    takes = "images"
    version = 1
    Config = GenerateConfig
    reads = ("key",)
    statuses = with_answers(GenerateStatus)
    transient = TRANSIENT
    unfinished = UNFINISHED | {NOT_CHOSEN}
    passed_over = PASSED_OVER
    leaves_out = NOT_OK
    schema = CONVERSATIONS
    chosen_by = ("image_keys",)

    @cached_property
    def optional(self) -> tuple[str, ...]:
        """Pictures are read only where a prompt sends them."""
        shown = any(prompt.image for _, prompt in self.config.prompts())
        return (*_READ_IF_PRESENT, "image") if shown else _READ_IF_PRESENT

    def depends_on(self) -> dict[str, Any]:
        """The prompts: a changed one is asked again. The checks: answers are read again, from the cache."""
        hashes = {"prompt_hashes": [prompt.hash for _, prompt in self.config.prompts()]}
        if not self.config.checks:
            return hashes
        least = [[prompt.least_exchanges, prompt.least_words] for _, prompt in self.config.prompts()]
        return {**hashes, "checks": [VERSION, least]}

    @property
    def use(self) -> Use:
        """No row without a picture is left out: a prompt that needs the picture says so itself."""
        return Use(takes=frozenset() if self.config.skip_duplicates else EVERY_CHOICE)

    @property
    def needs(self) -> Needs:
        """In batch mode it waits, unless pictures go along: those of many fragments do not fit in memory."""
        waits = self.config.mode == "batch" and "image" not in self.optional
        return Needs(threads=True, waits=waits, divides_rates=True, one_machine=self.config.one_machine)

    def setup(self, context: Context) -> None:
        self._context = context
        self._lease = Lease(self.config, context.dataset, context.workers)
        self._writer = Writer(self.config, self._questions, self._lease.client)

    def teardown(self) -> None:
        self._lease.close()

    @property
    def endpoint(self) -> GenerateConfig:
        return self.config

    def requests(self, batch: pa.RecordBatch) -> Iterator[tuple[ChatRequest, int]]:
        for question in (one for row in batch.to_pylist() for one in self._questions.about(row)):
            if isinstance(question, Question):
                yield self._questions.request(question), question.prompt.expected_output_tokens

    def requests_again(
        self, batch: pa.RecordBatch, previous: pa.Table, retry: tuple[str, ...]
    ) -> Iterator[tuple[ChatRequest, int]]:
        """With every sample that a conversation has had: those answers are in the cache."""
        wanted = samples_wanted(previous, retry)
        for row in self._as_chosen_before(batch, previous).to_pylist():
            for question in self._questions.about(row):
                if isinstance(question, Question):
                    for sample in range(max(1, wanted.get(conversation_key(row["key"], question.kind), 1))):
                        yield self._questions.request(question, sample), question.prompt.expected_output_tokens

    @cached_property
    def _questions(self) -> Questions:
        return Questions(self.config)

    def process_fragment(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return self._written(batches, {})

    def process_again(
        self, batches: Iterator[pa.RecordBatch], previous: pa.Table, retry: tuple[str, ...]
    ) -> Iterator[pa.RecordBatch]:
        """Answers come from the cache again; a rejected one with a status of `retry` gets one more sample."""
        chosen = (self._as_chosen_before(batch, previous) for batch in batches)
        return self._written(chosen, samples_wanted(previous, retry))

    @property
    def asks_by(self) -> tuple[str, ...]:
        return self._questions.columns

    def would_ask(self, rows: pa.Table) -> pa.Array:
        """Not about rows that no kind is for, by their source and by what is known. Pictures are not looked at: that
        would read them all."""
        present = [name for name in ("key", *self.asks_by) if name in rows.schema.names]
        return pa.array(map(self._questions.has_any, rows.select(present).to_pylist()), pa.bool_())

    def keys_of(self, made: pa.Table) -> pa.ChunkedArray:
        return pc.list_element(made.column("image_keys"), 0)

    def _as_chosen_before(self, batch: pa.RecordBatch, previous: pa.Table) -> pa.RecordBatch:
        """`batch` with rows that an earlier run has finished counted as chosen: a smaller choice unmakes nothing."""
        if self.choice is None:
            return batch
        open_ = pc.is_in(previous.column("status"), value_set=pa.array(sorted(self.unfinished), pa.string()))
        finished = pc.unique(self.keys_of(previous.filter(pc.invert(open_))))
        reasons = batch.column(LEFT_OUT)
        kept = pc.and_(pc.equal(reasons, NOT_CHOSEN), pc.is_in(batch.column("key"), value_set=finished))
        reasons = pc.if_else(pc.fill_null(kept, False), pa.scalar(None, pa.string()), reasons)
        return batch.set_column(batch.schema.get_field_index(LEFT_OUT), LEFT_OUT, reasons)

    def source_rows(self, batch: pa.RecordBatch) -> int:
        """As many as there are pictures: all that is made of one picture is in one batch."""
        return len({keys[0] for keys in batch.column("image_keys").to_pylist()})

    def _written(self, batches: Iterator[pa.RecordBatch], samples: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
        rows = (row for batch in batches for row in batch.to_pylist())
        tally = Tally()
        pending: list[dict[str, Any]] = []
        for written in self._lease.in_order(rows, partial(self._writer.write, samples=samples)):
            for one in written:
                made = one.row.get("generator") or {}
                tally.add(one.row["key"], made.get("model", ""), one.prompt, one.answer)
                pending.append(one.row)
            if len(pending) >= self.batch_rows:
                yield self.rows_to_batch(pending)
                pending = []
        if pending:
            yield self.rows_to_batch(pending)
        for event in tally.events():
            self._context.log(event)


def samples_wanted(previous: pa.Table, retry: Collection[str]) -> dict[str, int]:
    """Samples by conversation (its key without `~2`): as many as `previous` has, and one more for a rejected last one.

    So an answer that an earlier retry brought is not forgotten by the next.
    """
    last: dict[str, tuple[int, str]] = {}
    for key, status in zip(previous["key"].to_pylist(), previous["status"].to_pylist(), strict=True):
        conversation, sample = split_key(key)
        last[conversation] = max(last.get(conversation, (-1, "")), (sample, status))
    again = REJECTED.intersection(retry)
    return {conversation: sample + 1 + (status in again) for conversation, (sample, status) in last.items()}
