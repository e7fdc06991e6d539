"""The Batch API over real HTTP: files, polling, a kill in the middle, expired and refused lines."""

import asyncio
import json

import pytest
from aiohttp import web

from lavabeam.demo.teacher import complete, refusal
from pipelines.engine.retry import RetryPolicy
from pipelines.llm.answer import AnswerStatus
from pipelines.llm.batch import BatchClient
from pipelines.llm.cache import summary
from pipelines.llm.prices import Price
from pipelines.llm.request import ChatRequest, Message
from pipelines.llm.settings import EndpointConfig
from tests.pipelines.llm.faulty import FaultyServer

PRICE = Price(input=1000.0, output=2000.0)


class BatchServer(FaultyServer):
    """Files and batches; `script(question, arrival)` decides each line: ok, busy, policy, or expired.

    A batch completes when it was polled `polls` times. `lines` counts lines by question, `refuse` refuses batches.
    """

    def __init__(self, polls=2, refuse=None, **options):
        super().__init__(**options)
        self.polls, self.refuse = polls, refuse
        self.files, self.batches = {}, {}
        self.lose_reply = self.locked = False
        self.failing_polls, self.most_lines = 0, 50_000
        self.gone: set[str] = set()
        self.separator = self.rubbish = ""

    def routes(self):
        return [
            web.post("/v1/files", self._upload),
            web.get("/v1/files/{id}/content", self._content),
            web.post("/v1/batches", self._create),
            web.get("/v1/batches", self._list),
            web.get("/v1/batches/{id}", self._poll),
        ]

    async def _upload(self, request):
        form = await request.post()
        assert form["purpose"] == "batch"
        return web.json_response(self._file(form["file"].file.read().decode()))

    def _file(self, text):
        identity = f"file-{len(self.files)}"
        self.files[identity] = text
        return {
            "id": identity,
            "object": "file",
            "bytes": len(text),
            "created_at": 0,
            "filename": "f",
            "purpose": "batch",
        }

    async def _content(self, request):
        return web.Response(text=self.rubbish + self.files[request.match_info["id"]])

    async def _create(self, request):
        asked = await request.json()
        identity = f"batch-{len(self.batches)}"
        batch = {"id": identity, "object": "batch", "created_at": 0, "status": "in_progress", "polled": 0, **asked}
        self.batches[identity] = batch
        if self.lose_reply:
            self.lose_reply = False
            request.transport.abort()
        return web.json_response(batch)

    async def _list(self, request):
        return web.json_response({"object": "list", "data": list(self.batches.values()), "has_more": False})

    async def _poll(self, request):
        batch = self.batches[request.match_info["id"]]
        if self.failing_polls:
            self.failing_polls -= 1
            return refusal(503, "server_error", "away")
        if self.locked:
            return refusal(401, "invalid_api_key", "incorrect API key")
        if batch["id"] in self.gone:
            return refusal(404, "not_found", "no such batch")
        batch["polled"] += 1
        if len(self.files[batch["input_file_id"]].splitlines()) > self.most_lines:
            reported = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None}
            return web.json_response(batch | {"status": "failed", "errors": {"object": "list", "data": [reported]}})
        if batch["polled"] == self.polls and self.refuse:
            batch |= {"status": "failed", "errors": {"object": "list", "data": [self.refuse]}}
        elif batch["polled"] == self.polls:
            self._finish(batch)
        return web.json_response(batch)

    def _finish(self, batch):
        answers, errors = [], []
        for text in self.files[batch["input_file_id"]].splitlines():
            line = json.loads(text)
            question = line["body"]["messages"][-1]["content"]
            self.arrivals[question] += 1
            fault = self.script(question, self.arrivals[question])
            if fault == "ok":
                answer = complete(line["body"])
                answer["choices"][0]["message"]["content"] += self.separator
                self.record(answer)
                self.answered[question] += 1
                answers.append({"custom_id": line["custom_id"], "response": {"status_code": 200, "body": answer}})
            elif fault == "policy":
                body = {"error": {"code": "content_policy_violation", "message": "no"}}
                errors.append({"custom_id": line["custom_id"], "response": {"status_code": 400, "body": body}})
            elif fault == "expired":
                error = {"code": "batch_expired", "message": "too late"}
                errors.append({"custom_id": line["custom_id"], "response": None, "error": error})
        # Results come in any order.
        for name, lines in (("output_file_id", answers[::-1]), ("error_file_id", errors)):
            if lines:
                batch[name] = self._file("\n".join(json.dumps(one, ensure_ascii=False) for one in lines))["id"]
        batch["status"] = "completed"


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch):
    monkeypatch.setattr("pipelines.llm.batch._LINGER_S", 0.05)


def settings(server, tmp_path, **changes):
    quick = RetryPolicy(attempts=3, base_s=0.01, cap_s=0.02)
    values = {"model": "m", "provider": "test", "base_url": server.base_url, "cache": str(tmp_path / "cache")}
    values |= {"patience": quick, "mode": "batch", "batch_poll_s": 0.02, "price": PRICE}
    return EndpointConfig(**{**values, **changes})


def requests(texts):
    return [ChatRequest("test", "m", (Message("user", text),), max_output_tokens=40, prompt="q/1") for text in texts]


def ask(config, texts):
    async def run():
        client = BatchClient(config, "b")
        try:
            answers = await asyncio.wait_for(asyncio.gather(*map(client.ask, requests(texts))), timeout=120)
            return answers, client.ledger.report()
        finally:
            await client.close()

    return asyncio.run(run())


QUESTIONS = [f"Captions:\n- Picture {number} shows a red house.\n\nTask: describe" for number in range(12)]


def test_all_questions_travel_in_one_file_at_half_the_price(tmp_path):
    with BatchServer() as server:
        answers, report = ask(settings(server, tmp_path), QUESTIONS)
        assert [answer.text for answer in answers] == [f"Picture {number} shows a red house." for number in range(12)]
        assert len(server.batches) == 1
        # 13 tokens in at 0.0005, 7 out at 0.001 USD.
        assert [answer.cost for answer in answers] == [pytest.approx(0.0135)] * 12
        assert report["spent"].cost == pytest.approx(12 * 0.0135)
        again, _ = ask(settings(server, tmp_path), QUESTIONS)
        assert all(answer.cached for answer in again)
        assert len(server.batches) == 1


def test_expired_lines_are_sent_again_and_refused_ones_are_not(tmp_path):
    def script(question, arrival):
        if "Picture 1 " in question:
            return "policy"
        return "expired" if "Picture 2 " in question and arrival == 1 else "ok"

    with BatchServer() as server:
        server.script = script
        answers, report = ask(settings(server, tmp_path), QUESTIONS)
        statuses = [answer.status for answer in answers]
        assert statuses == [AnswerStatus.ok, AnswerStatus.content_policy] + [AnswerStatus.ok] * 10
        assert sorted(server.arrivals.values()) == [1] * 11 + [2]
        assert (report["spent"].requests, report["reserved"].requests) == (11, 0)


def test_a_refused_batch_is_a_reason_on_every_line(tmp_path):
    with BatchServer(refuse={"code": "invalid_json_line", "message": "line 1", "line": 1}) as server:
        answers, report = ask(settings(server, tmp_path), QUESTIONS[:3])
        assert {answer.status for answer in answers} == {AnswerStatus.bad_request}
        assert "invalid_json_line" in answers[0].detail
        assert report["spent"].requests == report["reserved"].requests == 0


def killed(config, texts, after):
    """A client that dies without closing when `after` returns True."""

    async def run():
        client = BatchClient(config, "b")
        asking = [asyncio.ensure_future(client.ask(request)) for request in requests(texts)]
        while not after():
            await asyncio.sleep(0.005)
        for task in [*asking, *client._tasks, *client._asking.values()]:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await client.http.close()
        # What the death of the process does: its lock is free, its claims and its batch stay.
        client.store.connection.close()
        client.store.owner.close()

    asyncio.run(run())


def test_a_killed_run_finds_its_batch_again(tmp_path):
    with BatchServer(polls=10) as server:
        config = settings(server, tmp_path)
        killed(config, QUESTIONS, after=lambda: any(batch["polled"] >= 2 for batch in server.batches.values()))
        answers, report = ask(config, QUESTIONS)
        assert all(answer.ok for answer in answers)
        assert len(server.batches) == 1
        assert set(server.answered.values()) == {1}
        assert (report["spent"].requests, report["lost"].requests) == (12, 0)
        (reported,) = summary(config.cache)["by_prompt"]
        assert (reported["prompt"], reported["answers"]) == ("q/1", 12)


def test_a_run_killed_before_it_knew_its_batch_finds_it_by_name(tmp_path):
    with BatchServer(polls=10) as server:
        config = settings(server, tmp_path)
        killed(config, QUESTIONS, after=lambda: server.batches)
        client = BatchClient(config, "b")
        client.store.connection.execute("UPDATE batches SET batch = NULL")
        asyncio.run(client.close())
        answers, _ = ask(config, QUESTIONS)
        assert all(answer.ok for answer in answers)
        assert len(server.batches) == 1


def test_a_creation_whose_reply_was_lost_is_not_repeated(tmp_path):
    with BatchServer() as server:
        server.lose_reply = True
        answers, _ = ask(settings(server, tmp_path), QUESTIONS)
        assert all(answer.ok for answer in answers)
        assert len(server.batches) == 1


def test_the_cap_holds(tmp_path):
    with BatchServer() as server:
        answers, report = ask(settings(server, tmp_path, max_requests=5), QUESTIONS)
        statuses = [answer.status for answer in answers]
        assert statuses.count(AnswerStatus.ok) == server.answered.total() == report["spent"].requests == 5
        assert statuses.count(AnswerStatus.budget_exhausted) == 7


def test_an_outage_while_a_batch_is_polled_gives_nothing_up(tmp_path):
    """Longer than the patience with a request: what was paid for is waited for."""
    with BatchServer(polls=3) as server:
        server.failing_polls = 10
        answers, report = ask(settings(server, tmp_path), QUESTIONS)
        assert all(answer.ok for answer in answers)
        assert (len(server.batches), report["lost"].requests) == (1, 0)


def test_a_line_with_unusual_ends_of_lines_is_one_line(tmp_path):
    with BatchServer() as server:
        server.separator = "\u2028"
        answers, _ = ask(settings(server, tmp_path), QUESTIONS[:2])
        assert [answer.text for answer in answers] == [f"Picture {n} shows a red house.\u2028" for n in range(2)]


def test_lines_that_are_missing_or_unreadable_are_asked_again(tmp_path):
    with BatchServer() as server:
        server.script = lambda question, arrival: "missing" if "Picture 1 " in question and arrival == 1 else "ok"
        server.rubbish = "not json\n[]\n{}\n"
        answers, report = ask(settings(server, tmp_path), QUESTIONS[:3])
        assert all(answer.ok for answer in answers)
        assert (len(server.batches), report["lost"].requests) == (2, 1)


def test_a_batch_that_is_gone_is_asked_again_and_counted_as_lost(tmp_path):
    with BatchServer(polls=10) as server:
        config = settings(server, tmp_path)
        killed(config, QUESTIONS[:3], after=lambda: any(batch["polled"] >= 1 for batch in server.batches.values()))
        server.gone = {"batch-0"}
        server.polls = 2
        answers, report = ask(config, QUESTIONS[:3])
        assert all(answer.ok for answer in answers)
        assert (report["lost"].requests, report["reserved"].requests) == (3, 0)


def test_a_wrong_key_leaves_the_batch_for_the_next_run(tmp_path):
    with BatchServer(polls=10) as server:
        config = settings(server, tmp_path)
        killed(config, QUESTIONS[:3], after=lambda: any(batch["polled"] >= 1 for batch in server.batches.values()))
        server.locked = True
        answers, _ = ask(config, QUESTIONS[:3])
        assert {answer.status for answer in answers} == {AnswerStatus.unauthorized}
        server.locked = False
        answers, report = ask(config, QUESTIONS[:3])
        assert all(answer.ok for answer in answers)
        assert (len(server.batches), report["lost"].requests) == (1, 0)


def test_a_batch_too_large_for_the_queue_is_sent_in_parts(tmp_path):
    """OpenAI's limit of enqueued tokens: what does not fit comes in smaller files, one after the other."""
    with BatchServer() as server:
        server.most_lines = 3
        answers, report = ask(settings(server, tmp_path), QUESTIONS)
        assert all(answer.ok for answer in answers)
        assert set(server.answered.values()) == {1}
        assert report["spent"].requests == 12
    with BatchServer() as server:
        server.most_lines = 0
        answers, report = ask(settings(server, tmp_path / "other"), QUESTIONS[:2])
        assert "token_limit_exceeded" in (answers[0].detail or "")
        assert (report["spent"].requests, report["reserved"].requests) == (0, 0)
