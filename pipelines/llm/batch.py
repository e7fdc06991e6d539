"""OpenAI's Batch API: the same requests at half the price, answered within a day.

Requests are collected into a file, uploaded, and polled for; results come back by custom id, which is the request's
key. A batch outlives the process that sent it: its claims and its name stay in the cache folder, so a run that was
killed finds it again. (OpenAI API reference, "Batch": at most 50,000 lines and 200 MB per file.)
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import openai

from pipelines.llm.answer import Answer, AnswerStatus, ErrorResponse, MalformedResponse
from pipelines.llm.batch_api import Batch, BatchApi, request_line
from pipelines.llm.batch_lines import read_lines
from pipelines.llm.client import LlmClient
from pipelines.llm.failures import EXPECTED, Failure, explain
from pipelines.llm.ledger import BATCH_OWNER, Spend
from pipelines.llm.request import ChatRequest
from pipelines.llm.settings import EndpointConfig

Result = TypeVar("Result")
Outcome = Answer | Failure | None

_MOST_LINES, _MOST_BYTES = 50_000, 190_000_000
# A file is sent when no request has joined it for this long.
_LINGER_S = 0.5
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})

_NO_ANSWER = Failure(
    AnswerStatus.unavailable, "the batch ended without an answer to it", retry=True, may_be_billed=True
)


class QueueFull(Exception):
    """The provider took no further batch: too many tokens wait in batches already."""

    def __init__(self, reported: str):
        super().__init__(reported)
        self.failure = Failure(AnswerStatus.unavailable, reported)


@dataclass
class Line:
    """One request that waits to be sent, or to be answered."""

    key: str
    request: ChatRequest
    most: Spend
    outcome: asyncio.Future[Outcome]


class BatchClient(LlmClient):
    """An `LlmClient` whose requests travel in batches; everything else, cache and caps included, is the same."""

    def __init__(self, settings: EndpointConfig, budget: str, workers: int = 1):
        super().__init__(settings, budget, workers)
        self.claim_poll_s = settings.batch_poll_s
        self._api = BatchApi(self.http)
        self._model = f"{settings.provider}/{settings.model}"
        self._waiting: list[Line] = []
        self._tasks: set[asyncio.Task] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._looked_for_left = False
        self._resuming: set[str] = set()
        # Set once the provider's limit of tokens in waiting batches was met: smaller files then, one after the other.
        self._most_lines, self._crowded = _MOST_LINES, False
        self._gate = asyncio.Lock()

    async def turn(self, key: str, request: ChatRequest, most: Spend) -> Outcome:
        """Join the next file; the outcome comes with its batch."""
        if not self._looked_for_left:
            self._looked_for_left = True
            self._start(self._resume())
        line = Line(key, request, most, asyncio.get_running_loop().create_future())
        self._waiting.append(line)
        if self._timer is not None:
            self._timer.cancel()
        full = len(self._waiting) >= _MOST_LINES
        self._timer = asyncio.get_running_loop().call_later(0 if full else _LINGER_S, self._flush)
        return await line.outcome

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await super().close()

    def _flush(self) -> None:
        lines, self._waiting, self._timer = self._waiting, [], None
        chosen: list[tuple[Line, str]] = []
        size = 0
        for line in lines:
            body = line.request.body(self.settings.limit_field, self.structured)
            text = request_line(line.key, body)
            if chosen and (size + len(text) > _MOST_BYTES or len(chosen) == self._most_lines):
                self._start(self._send_file(chosen))
                chosen, size = [], 0
            chosen.append((line, text))
            size += len(text)
        self._start(self._send_file(chosen))

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_file(self, lines: list[tuple[Line, str]]) -> None:
        """Hand out an outcome to each line, whatever happens on the way."""
        try:
            async with self._gate if self._crowded else contextlib.nullcontext():
                await self._answer_file(lines)
        except BaseException as error:
            for line, _ in lines:
                if not line.outcome.done():
                    line.outcome.set_exception(error)
            raise

    async def _answer_file(self, lines: list[tuple[Line, str]]) -> None:
        """One file: claim, upload, create, wait, and hand out the results."""
        name = uuid.uuid4().hex
        granted = self._claimed(name, lines)
        if not granted:
            return
        self._remember(name)
        missing, smaller = _NO_ANSWER, False
        try:
            batch_id = await self._create(name, "\n".join(text for _, text in granted.values()).encode())
            self.counts["sent"] += len(granted)
            results = await self._results(batch_id, name)
        except EXPECTED as error:
            missing, results = explain(error), {}
            if missing.may_be_billed or missing.status is AnswerStatus.unauthorized:
                return self._leave(missing, granted)
        except QueueFull as full:
            missing, results, smaller = full.failure, {}, self._makes_room(len(granted))
        for key, (line, _) in granted.items():
            settled = self._settled(name, line.request, key, line.most, results.get(key, missing))
            line.outcome.set_result(None if smaller else settled)
        return self._forget(name)

    def _claimed(self, name: str, lines: list[tuple[Line, str]]) -> dict[str, tuple[Line, str]]:
        """The lines that may be sent, by key; the others look again, also for batches whose process has ended."""
        granted = {}
        for line, text in lines:
            if self.ledger.claim(line.key, self.reserved(line.most), line.request.prompt, BATCH_OWNER + name):
                granted[line.key] = (line, text)
            else:
                line.outcome.set_result(None)
        if len(granted) < len(lines):
            self._start(self._resume())
        return granted

    def _leave(self, failure: Failure, granted: dict[str, tuple[Line, str]]) -> None:
        """A batch that may exist and cannot be read now: its claims and its name stay, the next run reads it."""
        if failure.stops_run:
            self._stopped = failure
        for line, _ in granted.values():
            line.outcome.set_result(replace(failure, retry=False))

    def _makes_room(self, lines: int) -> bool:
        """After a batch of `lines` was too much for the provider's queue: whether smaller ones are worth a try."""
        if lines == 1 and self._crowded:
            return False
        self._crowded, self._most_lines = True, max(1, lines // 2)
        return True

    async def _create(self, name: str, content: bytes) -> str:
        """Upload the file and create the batch, once: a creation whose reply was lost is found by its name."""
        file_id = await self._call(lambda: self._api.upload(content))

        async def found_or_created() -> str:
            return await self._api.find(name) or await self._api.create(file_id, name)

        batch_id = await self._call(found_or_created)
        self.store.connection.execute("UPDATE batches SET batch = ? WHERE name = ?", (batch_id, name))
        return batch_id

    async def _results(self, batch_id: str, name: str) -> dict[str, str | Failure]:
        """Wait for the end of a batch; then the raw response or the failure of each line, by key."""
        results: dict[str, str | Failure] = {}
        asked = self.ledger.claims_of(BATCH_OWNER + name)
        try:
            while (batch := await self._patiently(lambda: self._api.state(batch_id))).status not in _ENDED:
                await asyncio.sleep(self.settings.batch_poll_s)
            for file_id in batch.files:
                content = await self._patiently(
                    lambda file_id=file_id: self._api.file(file_id, len(asked), self.settings.max_reply_bytes)  # type: ignore[misc]
                )
                results.update(read_lines(content, asked.keys(), self.secrets.hide))
        except openai.NotFoundError:
            reported = f"the server no longer knows batch {batch_id}"
            gone = Failure(AnswerStatus.unavailable, reported, retry=True, may_be_billed=True)
            return dict.fromkeys(asked, gone)
        if batch.status == "failed":
            results.update(self._refused(name, batch))
        return results

    def _refused(self, name: str, batch: Batch) -> dict[str, str | Failure]:
        """A batch that the server did not accept: the reason, for each of its lines; raises QueueFull."""
        detail = f"the batch was refused: {batch.code} {batch.message or 'no reason given'}"[:300]
        if "limit" in batch.code:
            raise QueueFull(detail)
        return dict.fromkeys(self.ledger.claims_of(BATCH_OWNER + name), Failure(AnswerStatus.bad_request, detail))

    def _settled(
        self, name: str, request: ChatRequest, key: str, most: Spend, outcome: str | Failure
    ) -> Answer | Failure:
        """End the claim of a line of batch `name` in the books; its answer or failure."""
        owner = BATCH_OWNER + name
        if isinstance(outcome, str):
            try:
                return self.end_answered(key, request, *self.read(outcome), most, owner)
            except (MalformedResponse, ErrorResponse) as error:
                outcome = explain(error)
        self.end_failed(key, outcome, owner)
        return outcome

    async def _resume(self) -> None:
        """Batches of dead processes: fetch what they were paid for, give back what was never sent."""
        rows = self.store.connection.execute(
            "SELECT name, owner, batch FROM batches WHERE model = ?", (self._model,)
        ).fetchall()
        dead = {owner for _, owner, _ in rows if self.store.owner.is_dead(owner)}
        left = [(name, batch_id) for name, owner, batch_id in rows if owner in dead and name not in self._resuming]
        self._resuming.update(name for name, _ in left)
        await asyncio.gather(*(self._resume_one(name, batch_id) for name, batch_id in left))

    async def _resume_one(self, name: str, batch_id: str | None) -> None:
        try:
            found = batch_id or await self._call(lambda: self._api.find(name))
            results = await self._results(found, name) if found else {}
        except QueueFull as full:
            found, results = None, dict.fromkeys(self.ledger.claims_of(BATCH_OWNER + name), full.failure)
        except EXPECTED as error:
            # Its lines wait for it: they end now, and the next run reads it.
            failure = explain(error)
            self._stopped = replace(failure, detail=f"a batch of an earlier run cannot be read: {failure.detail}")
            return
        missing = _NO_ANSWER if found else replace(_NO_ANSWER, may_be_billed=False)
        for key, claim in self.ledger.claims_of(BATCH_OWNER + name).items():
            asked = ChatRequest(self.settings.provider, self.settings.model, (), 0, prompt=claim.prompt)
            self._settled(name, asked, key, claim.most, results.get(key, missing))
        self._forget(name)

    async def _patiently(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """A call about a batch that exists: an outage, however long, is no reason to give up what was paid for.

        A server that is there and answers nonsense is believed after `patience` tries; the next run looks again.
        """
        nonsense = 0
        while True:
            try:
                return await call()
            except EXPECTED as error:
                failure = explain(error)
                nonsense += failure.status is AnswerStatus.malformed
                if not failure.retry or nonsense >= self.settings.patience.attempts:
                    raise
                self.counts[f"failed: {failure.status}"] += 1
                await asyncio.sleep(max(self.settings.batch_poll_s, failure.retry_after or 0))

    async def _call(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """An HTTP call of the batch machinery under the retry policy; raises what is left after it."""
        tries = 0
        while True:
            try:
                return await call()
            except EXPECTED as error:
                failure, tries = explain(error), tries + 1
                wait = self.settings.patience.delay(tries, failure.retry_after) if failure.retry else None
                if wait is None:
                    raise
                await asyncio.sleep(wait)

    def _remember(self, name: str) -> None:
        row = (name, self._model, self.store.owner.name)
        self.store.connection.execute(
            "INSERT INTO batches (name, model, owner) VALUES (?, ?, ?) ON CONFLICT (name) DO NOTHING", row
        )

    def _forget(self, name: str) -> None:
        self.store.connection.execute("DELETE FROM batches WHERE name = ?", (name,))
