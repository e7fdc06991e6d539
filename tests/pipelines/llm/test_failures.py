import asyncio
import socket

import httpx2
import openai
import pytest

from pipelines.llm.answer import AnswerStatus, ErrorResponse, MalformedResponse, Usage
from pipelines.llm.failures import explain

REQUEST = httpx2.Request("POST", "http://localhost/v1/chat/completions")


def http(status, code="", message="", headers=None):
    response = httpx2.Response(status, headers=headers or {}, request=REQUEST)
    return openai.APIStatusError("failed", response=response, body={"code": code, "message": message})


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (http(429, "rate_limit_exceeded"), AnswerStatus.unavailable, True),
        (http(408), AnswerStatus.unavailable, True),
        (http(409), AnswerStatus.unavailable, True),
        (http(500), AnswerStatus.unavailable, True),
        (http(529), AnswerStatus.unavailable, True),
        (http(429, "insufficient_quota"), AnswerStatus.unauthorized, False),
        (http(401), AnswerStatus.unauthorized, False),
        (http(403), AnswerStatus.unauthorized, False),
        (http(404), AnswerStatus.unknown_model, False),
        (http(413), AnswerStatus.context_length, False),
        (http(400, "content_policy_violation"), AnswerStatus.content_policy, False),
        (http(400, "content_filter"), AnswerStatus.content_policy, False),
        (http(400, "context_length_exceeded"), AnswerStatus.context_length, False),
        (http(400, "", "maximum context length is 4096"), AnswerStatus.context_length, False),
        (http(400, "invalid_value"), AnswerStatus.bad_request, False),
        (http(422), AnswerStatus.bad_request, False),
        (http(418), AnswerStatus.bad_request, False),
        (openai.APITimeoutError(REQUEST), AnswerStatus.unavailable, True),
        (TimeoutError(), AnswerStatus.unavailable, True),
        (openai.APIConnectionError(request=REQUEST), AnswerStatus.unavailable, True),
        (MalformedResponse("no choices"), AnswerStatus.malformed, True),
    ],
)
def test_every_error_has_one_meaning(error, status, retry):
    failure = explain(error)
    assert (failure.status, failure.retry) == (status, retry)
    assert failure.detail


@pytest.mark.parametrize(
    ("body", "reported"),
    [
        ({"code": "invalid_value", "message": "no such field"}, "HTTP 400: invalid_value no such field"),
        ({"detail": "the server is pinned to another model"}, "HTTP 400: the server is pinned to another model"),
        ({"detail": [{"loc": ["body", "n"]}]}, 'HTTP 400: [{"loc": ["body", "n"]}]'),
        ("busy\n  today", "HTTP 400: busy today"),
        (None, "HTTP 400: failed"),
    ],
)
def test_the_servers_own_words_are_kept_whatever_their_form(body, reported):
    error = openai.APIStatusError("failed", response=httpx2.Response(400, request=REQUEST), body=body)
    assert explain(error).detail == reported


def test_the_servers_waiting_time_is_kept():
    assert explain(http(429, headers={"retry-after": "7"})).retry_after == 7
    assert explain(http(503, headers={"retry-after-ms": "250"})).retry_after == 0.25


def test_only_what_may_have_been_worked_on_may_be_billed():
    refused = openai.APIConnectionError(request=REQUEST)
    refused.__cause__ = httpx2.ConnectError("refused")
    closed = openai.APITimeoutError(REQUEST)
    closed.__cause__ = httpx2.ConnectTimeout("refused")
    reset = openai.APIConnectionError(request=REQUEST)
    reset.__cause__ = httpx2.ReadError("reset")
    billed = [http(500), refused, closed, reset, openai.APITimeoutError(REQUEST), MalformedResponse("half")]
    assert [explain(error).may_be_billed for error in billed] == [False, False, False, True, True, True]


def test_a_closed_port_is_not_taken_for_a_slow_server():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]

    async def ask():
        async with openai.DefaultAioHttpClient() as http_client:
            base = f"http://127.0.0.1:{port}/v1"
            client = openai.AsyncOpenAI(base_url=base, api_key="-", max_retries=0, http_client=http_client)
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "a"}])

    with pytest.raises(openai.OpenAIError) as raised:
        asyncio.run(ask())
    failure = explain(raised.value)
    assert (failure.detail, failure.may_be_billed) == ("cannot connect: ConnectionRefusedError", False)


def test_a_refused_schema_is_told_apart():
    assert explain(http(400, "invalid", "response_format is not supported")).schema_unsupported
    assert not explain(http(400, "invalid", "temperature")).schema_unsupported


def test_usage_of_a_malformed_answer_is_kept():
    assert explain(MalformedResponse("no choices", Usage(5, 6))).usage == Usage(5, 6)


@pytest.mark.parametrize(
    ("error", "status", "retry", "stops"),
    [
        (ErrorResponse("slow down", 429), AnswerStatus.unavailable, True, False),
        (ErrorResponse("no such key", 401), AnswerStatus.unauthorized, False, True),
        (ErrorResponse("something", None), AnswerStatus.unavailable, True, False),
        (http(403, "", "your input was flagged by moderation"), AnswerStatus.content_policy, False, False),
        # what no request of these settings would pass stops the run
        (http(400, "unsupported_value", "temperature must be 1"), AnswerStatus.bad_request, False, True),
        (http(400, "unsupported_parameter", "response_format"), AnswerStatus.bad_request, False, False),
    ],
)
def test_errors_in_disguise(error, status, retry, stops):
    failure = explain(error)
    assert (failure.status, failure.retry, failure.stops_run) == (status, retry, stops)
