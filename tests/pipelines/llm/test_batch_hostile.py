"""A Batch API that answers nonsense, in each of its calls: every request ends with a status."""

import asyncio
import json
from collections import Counter

import pytest
from aiohttp import web

from pipelines.engine.retry import RetryPolicy
from pipelines.llm.batch import BatchClient
from pipelines.llm.batch_lines import read_lines
from pipelines.llm.request import ChatRequest, Message
from pipelines.llm.settings import EndpointConfig
from tests.pipelines.llm.test_batch import BatchServer

KEY = "secret-xyz-123"
REQUEST = ChatRequest("p", "m", (Message("user", "q"),), 50)


class NonsenseServer(BatchServer):
    """Answers the calls that `nonsense` names with its value: bytes, JSON, or a function of the arrival's number."""

    def __init__(self, nonsense, **options):
        super().__init__(polls=1, **options)
        self.nonsense, self.calls = nonsense, Counter()
        self.separator = f" {KEY}"

    def routes(self):
        return [web.route(route.method, route.path, self._instead(route.handler)) for route in super().routes()]

    def _instead(self, handler):
        name = handler.__name__.strip("_")

        async def answer(request):
            if name not in self.nonsense:
                return await handler(request)
            await request.read()
            self.calls[name] += 1
            value = self.nonsense[name]
            value = value(self.calls[name]) if callable(value) else value
            return web.Response(body=value if isinstance(value, bytes) else json.dumps(value).encode())

        return answer


def ask(tmp_path, **nonsense):
    """The answer of a server that is honest in all calls but these: upload, create, list, poll, content."""

    async def run():
        client = BatchClient(config, "b")
        try:
            return await asyncio.wait_for(client.ask(REQUEST), timeout=120)
        finally:
            await client.close()

    with NonsenseServer(nonsense) as server:
        config = EndpointConfig(
            model="m",
            provider="p",
            base_url=server.base_url,
            cache=str(tmp_path / "cache"),
            mode="batch",
            batch_poll_s=0.01,
            patience=RetryPolicy(attempts=2, base_s=0.01, cap_s=0.01),
            max_reply_bytes=100_000,
            timeout_s=10,
        )
        return asyncio.run(run())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("pipelines.llm.batch._LINGER_S", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def test_an_honest_servers_file_is_read_and_no_key_is_kept(tmp_path):
    answer = ask(tmp_path)
    assert answer.ok
    assert answer.text.endswith(" ***")
    assert not any(KEY.encode() in file.read_bytes() for file in (tmp_path / "cache").iterdir())


@pytest.mark.parametrize("value", [b"<html>", b"[]", {}, {"id": ["b1"]}, {"id": "../b1"}, {"id": "a" * 300}], ids=str)
@pytest.mark.parametrize("call", ["upload", "create"])
def test_a_call_without_an_id_is_malformed(call, value, tmp_path):
    assert ask(tmp_path, **{call: value}).status == "malformed"


@pytest.mark.parametrize(
    ("call", "value", "status"),
    [
        ("list", {"data": {"id": 1}}, "malformed"),
        ("list", b"[" * 5_000, "malformed"),
        ("list", {"data": [1, None], "has_more": True}, "ok"),
        ("poll", {"id": "b1", "status": ["completed"]}, "malformed"),
        ("poll", {"id": "b1", "status": "completed", "output_file_id": "../../x"}, "malformed"),
        ("poll", {"id": "b1", "status": "failed", "errors": {"data": [[KEY]]}}, "bad_request"),
        ("poll", {"id": "b1", "status": "failed", "errors": {"data": [{"code": 5, "message": KEY}]}}, "bad_request"),
        ("content", b"a" * 200_000, "malformed"),
        ("content", b"\xff garbage", "unavailable"),
    ],
)
def test_nonsense_ends_in_a_status(call, value, status, tmp_path):
    answer = ask(tmp_path, **{call: value})
    assert answer.status == status
    assert answer.ok or answer.detail
    assert KEY not in str(answer)


def test_a_list_of_batches_without_an_end_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.llm.batch_api._MOST_PAGES", 5)
    assert ask(tmp_path, list=lambda n: {"data": [{"id": f"b{n}", "metadata": [1]}], "has_more": True}).ok


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe garbage",
        b"[" * 50_000,
        b"9" * 5_000,
        b"null",
        json.dumps({"custom_id": ["a"], "response": {"status_code": 200, "body": {}}}).encode(),
        json.dumps({"custom_id": "k", "response": {"status_code": "200"}}).encode(),
        json.dumps({"custom_id": "k", "response": {"status_code": 200}}).encode(),
        json.dumps({"custom_id": "k", "response": [1]}).encode(),
        json.dumps({"custom_id": "other", "response": {"status_code": 200, "body": {}}}).encode(),
    ],
    ids=lambda line: line[:20].decode("latin-1"),
)
def test_a_line_that_says_nothing_does_not_hide_the_next(line):
    good = json.dumps({"custom_id": "k", "response": {"status_code": 200, "body": {"a": 1}}}).encode()
    assert read_lines(line + b"\n" + good, {"k"}) == {"k": '{"a": 1}'}
    assert read_lines(line, {"k"}) == {}
