"""OpenAI's Batch API: the same questions at half the price, answered within a day.

Requests are collected into a file, uploaded, and polled for; results come back by custom id, which is the request's
key. A batch outlives the process that sent it: its claims and its name stay in the cache folder, so a run that was
killed finds it again. (OpenAI API reference, "Batch": at most 50,000 lines and 200 MB per file.)
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pipelines.llm.answer import Answer, AnswerStatus, MalformedResponse, read_response
from pipelines.llm.client import LlmClient
from pipelines.llm.failures import EXPECTED, Failure, explain, explain_http
from pipelines.llm.ledger import BATCH_OWNER, Spend
from pipelines.llm.request import ChatRequest
from pipelines.llm.settings import EndpointConfig

Result = TypeVar("Result")
Outcome = Answer | Failure | None

_MOST_LINES, _MOST_BYTES = 50_000, 190_000_000
# A file is sent when no request has joined it for this long.
_LINGER_S = 0.5
_ENDPOINT: Final = "/v1/chat/completions"
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


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
        self._model = f"{settings.provider}/{settings.model}"
        self._waiting: list[Line] = []
        self._tasks: set[asyncio.Task] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._resumed = False

    async def turn(self, key: str, request: ChatRequest, most: Spend) -> Outcome:
        """Join the next file; the outcome comes with its batch."""
        if not self._resumed:
            self._resumed = True
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
            text = json.dumps({"custom_id": line.key, "method": "POST", "url": _ENDPOINT, "body": body})
            if chosen and (size + len(text) > _MOST_BYTES or len(chosen) == _MOST_LINES):
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
        """One file: claim, upload, create, wait, and hand out the results."""
        name = uuid.uuid4().hex
        granted = {}
        for line, text in lines:
            if self.ledger.claim(line.key, line.most, line.request.prompt, BATCH_OWNER + name):
                granted[line.key] = (line, text)
            else:
                line.outcome.set_result(None)
        if not granted:
            return
        self._remember(name)
        content = "\n".join(text for _, text in granted.values()).encode()
        outcomes: dict[str, str | Failure] = {}
        failure = Failure(AnswerStatus.unavailable, "the batch ended without an answer to it", retry=True)
        try:
            batch_id = await self._create(name, content)
            self.counts["sent"] += len(granted)
            outcomes = await self._results(batch_id, name)
        except EXPECTED as error:
            failure = explain(error)
        for key, (line, _) in granted.items():
            line.outcome.set_result(self._settled(line.request, key, line.most, outcomes.get(key, failure)))
        self._forget(name)

    async def _create(self, name: str, content: bytes) -> str:
        """Upload the file and create the batch, once: a creation whose reply was lost is found by its name."""
        file = await self._call(lambda: self.http.files.create(file=("requests.jsonl", content), purpose="batch"))

        async def found_or_created() -> str:
            found = await self._find(name)
            if found is not None:
                return found
            batch = await self.http.batches.create(
                input_file_id=file.id, endpoint=_ENDPOINT, completion_window="24h", metadata={"lavabeam": name}
            )
            return batch.id

        batch_id = await self._call(found_or_created)
        self.store.connection.execute("UPDATE batches SET batch = ? WHERE name = ?", (batch_id, name))
        return batch_id

    async def _results(self, batch_id: str, name: str) -> dict[str, str | Failure]:
        """Wait for the end of a batch; then the raw response or the failure of each line, by key."""
        while (batch := await self._call(lambda: self.http.batches.retrieve(batch_id))).status not in _ENDED:
            await asyncio.sleep(self.settings.batch_poll_s)
        results: dict[str, str | Failure] = {}
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            content = await self._call(lambda file_id=file_id: self.http.files.content(file_id))  # type: ignore[misc]
            for text in content.text.splitlines():
                key, result = _read_line(text)
                results[key] = result
        if batch.status == "failed":
            results.update(self._refused(name, batch))
        return results

    def _refused(self, name: str, batch: Any) -> dict[str, str | Failure]:
        """A batch that the server did not accept: the reason, for each of its lines."""
        told = batch.errors.data[0] if batch.errors and batch.errors.data else None
        code, message = (told.code or "", told.message or "") if told else ("", "no reason given")
        full = "limit" in code
        status = AnswerStatus.unavailable if full else AnswerStatus.bad_request
        failure = Failure(status, f"the batch was refused: {code} {message}"[:300], retry=full)
        return dict.fromkeys(self.ledger.claims_of(BATCH_OWNER + name), failure)

    def _settled(self, request: ChatRequest, key: str, most: Spend, outcome: str | Failure) -> Answer | Failure:
        """End the claim of a line in the books; its answer or failure."""
        if isinstance(outcome, str):
            try:
                return self.end_answered(key, request, outcome, read_response(outcome), most)
            except MalformedResponse as error:
                outcome = explain(error)
        self.end_failed(key, outcome)
        return outcome

    async def _resume(self) -> None:
        """Batches of processes that are gone: fetch what they were paid for, give back what was never sent."""
        rows = self.store.connection.execute(
            "SELECT name, owner, batch FROM batches WHERE model = ?", (self._model,)
        ).fetchall()
        left = [(name, batch_id) for name, owner, batch_id in rows if self.store.owner.is_dead(owner)]
        await asyncio.gather(*(self._resume_one(name, batch_id) for name, batch_id in left))

    async def _resume_one(self, name: str, batch_id: str | None) -> None:
        try:
            found = batch_id or await self._call(lambda: self._find(name))
            results = await self._results(found, name) if found else {}
        except EXPECTED as error:
            self.counts[f"failed: {explain(error).status}"] += 1
            return
        missing = Failure(AnswerStatus.unavailable, "the batch ended without an answer to it", retry=True)
        for key, claim in self.ledger.claims_of(BATCH_OWNER + name).items():
            asked = ChatRequest(self.settings.provider, self.settings.model, (), 0, prompt=claim.prompt)
            self._settled(asked, key, claim.most, results.get(key, missing))
        self._forget(name)

    async def _find(self, name: str) -> str | None:
        """The id of a batch that was created, when its sender was killed before it wrote the id down."""
        async for batch in self.http.batches.list(limit=100):
            if (batch.metadata or {}).get("lavabeam") == name:
                return batch.id
        return None

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
        self.store.connection.execute("INSERT INTO batches (name, model, owner) VALUES (?, ?, ?)", row)

    def _forget(self, name: str) -> None:
        self.store.connection.execute("DELETE FROM batches WHERE name = ?", (name,))


def _read_line(text: str) -> tuple[str, str | Failure]:
    """One line of an output or error file: the request's key, and its raw response or its failure."""
    line = json.loads(text)
    response, error = line.get("response") or {}, line.get("error") or {}
    if response.get("status_code") == 200:
        return line["custom_id"], json.dumps(response["body"])
    if response:
        told = (response.get("body") or {}).get("error") or {}
        words = " ".join(str(told[part]) for part in ("code", "type", "message") if told.get(part))
        return line["custom_id"], explain_http(response["status_code"], {}, words)
    detail = f"{error.get('code')}: {error.get('message')}"
    return line["custom_id"], Failure(AnswerStatus.unavailable, detail, retry=True)
