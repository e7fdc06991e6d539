"""Whatever a server does, every request ends with an answer or a reason, and nothing is paid for twice."""

import asyncio

import pytest

from pipelines.engine.retry import RetryPolicy
from pipelines.llm.answer import Answer, AnswerStatus
from pipelines.llm.cache import summary
from pipelines.llm.client import LlmClient
from pipelines.llm.request import ChatRequest, Message
from pipelines.llm.settings import EndpointConfig
from tests.pipelines.llm.faulty import OK, FaultyServer

QUICK = RetryPolicy(attempts=4, base_s=0.01, cap_s=0.02)
PASSING = ["busy", "broken", "reset", "half", "not_json", "no_choices", "other_shape"]


def settings(server, tmp_path, **changes):
    values = {"model": "m", "provider": "test", "base_url": server.base_url, "cache": str(tmp_path / "cache")}
    return EndpointConfig(**{**values, "patience": QUICK, "concurrency": 8, "timeout_s": 5, **changes})


def request(text, **changes):
    return ChatRequest("test", "m", (Message("user", text),), max_output_tokens=50, **changes)


def ask(config, texts, budget="b"):
    """All answers, in order, by a client of its own."""

    async def run() -> tuple[list[Answer], LlmClient]:
        client = LlmClient(config, budget)
        try:
            return list(await asyncio.gather(*(client.ask(request(text)) for text in texts))), client
        finally:
            await client.close()

    return asyncio.run(run())


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_is_outlived(fault, tmp_path):
    with FaultyServer(lambda question, arrival: fault if arrival <= 2 else OK) as server:
        answers, _ = ask(settings(server, tmp_path), [f"q{n}" for n in range(6)])
        assert [answer.status for answer in answers] == [AnswerStatus.ok] * 6
        assert set(server.arrivals.values()) == {3}
        again, client = ask(settings(server, tmp_path), [f"q{n}" for n in range(6)])
        assert client.counts["sent"] == 0
        assert [answer.request_id for answer in again] == [answer.request_id for answer in answers]
        assert set(server.answered.values()) == {1}


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("busy", AnswerStatus.unavailable),
        ("broken", AnswerStatus.unavailable),
        ("reset", AnswerStatus.unavailable),
        ("half", AnswerStatus.unavailable),
        ("not_json", AnswerStatus.malformed),
        ("no_choices", AnswerStatus.malformed),
        ("not_text", AnswerStatus.malformed),
    ],
)
def test_a_fault_that_stays_ends_after_the_tries(fault, status, tmp_path):
    with FaultyServer(lambda question, arrival: fault) as server:
        answers, _ = ask(settings(server, tmp_path), ["q"])
        assert answers[0].status is status
        assert answers[0].detail
        assert server.arrivals["q"] == QUICK.attempts


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("policy", AnswerStatus.content_policy),
        ("too_long", AnswerStatus.context_length),
        ("bad", AnswerStatus.bad_request),
    ],
)
def test_a_permanent_error_is_never_retried_and_stops_nobody_else(fault, status, tmp_path):
    with FaultyServer(lambda question, arrival: fault if question == "poison" else OK) as server:
        answers, _ = ask(settings(server, tmp_path), ["a", "poison", "b"])
        assert [answer.status for answer in answers] == [AnswerStatus.ok, status, AnswerStatus.ok]
        assert server.arrivals["poison"] == 1


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("locked_out", AnswerStatus.unauthorized),
        ("no_credit", AnswerStatus.unauthorized),
        ("unknown", AnswerStatus.unknown_model),
        ("wrong_setting", AnswerStatus.bad_request),
    ],
)
def test_an_error_of_the_whole_endpoint_stops_the_sending(fault, status, tmp_path):
    with FaultyServer(lambda question, arrival: fault) as server:
        answers, _ = ask(settings(server, tmp_path, concurrency=2), [f"q{n}" for n in range(50)])
        assert {answer.status for answer in answers} == {status}
        assert server.arrivals.total() <= 2


def test_a_server_that_nobody_hears_from_is_given_up(tmp_path):
    """Each request has its tries; after 16 that had them all for nothing the others are not sent."""
    with FaultyServer(lambda question, arrival: "broken") as server:
        answers, _ = ask(settings(server, tmp_path, concurrency=4), [f"q{n}" for n in range(200)])
        assert {answer.status for answer in answers} == {AnswerStatus.unavailable}
        assert "16 consecutive requests got no answer; the last one: HTTP 500" in (answers[-1].detail or "")
        assert server.arrivals.total() < 200 * QUICK.attempts


def test_a_limit_of_the_day_is_not_asked_about_by_every_row(tmp_path):
    with FaultyServer(lambda question, arrival: "away_for_today") as server:
        ask(settings(server, tmp_path, concurrency=1), [f"q{n}" for n in range(100)])
        assert server.arrivals.total() == 16


def test_answers_in_between_show_that_the_server_is_there(tmp_path):
    with FaultyServer(lambda question, arrival: OK if question[1:].isdecimal() else "broken") as server:
        texts = [f"q{n}" if n % 10 == 0 else f"q{n}x" for n in range(60)]
        answers, _ = ask(settings(server, tmp_path, concurrency=1, patience=RetryPolicy(attempts=1)), texts)
        assert server.arrivals.total() == 60
        assert sum(answer.ok for answer in answers) == 6


def test_a_declared_encoding_is_read(tmp_path):
    with FaultyServer(lambda question, arrival: "latin") as server:
        answers, _ = ask(settings(server, tmp_path), ["q"])
        assert answers[0].text == "caf\xe9"


def test_a_stalled_request_times_out_alone(tmp_path):
    with FaultyServer(lambda question, arrival: "stall" if question == "slow" and arrival == 1 else OK) as server:
        answers, _ = ask(settings(server, tmp_path, timeout_s=0.3), ["slow", "a", "b"])
        assert [answer.status for answer in answers] == [AnswerStatus.ok] * 3
        assert server.arrivals == {"slow": 2, "a": 1, "b": 1}


def test_a_storm_of_429_is_met_with_fewer_requests_at_once(tmp_path):
    calm_after = 150
    with FaultyServer() as server:
        server.script = lambda question, arrival: "busy" if server.arrivals.total() <= calm_after else OK
        config = settings(server, tmp_path, concurrency=32, patience=RetryPolicy(attempts=40, base_s=0.01, cap_s=0.02))
        answers, client = ask(config, [f"q{n}" for n in range(60)])
        assert all(answer.ok for answer in answers)
        assert client.counts["failed: unavailable"] == calm_after


def test_a_server_that_is_away_for_a_while_costs_no_row(tmp_path):
    with FaultyServer() as server:
        away = settings(server, tmp_path, patience=RetryPolicy(attempts=20, base_s=0.05, cap_s=0.1, jitter=0))
        server.stop()

        async def run():
            client = LlmClient(away, "b")
            asking = [asyncio.ensure_future(client.ask(request(f"q{n}"))) for n in range(10)]
            await asyncio.sleep(0.5)
            server.__init__(port=server.port)  # type: ignore[misc]
            server.start()
            answers = await asyncio.gather(*asking)
            await client.close()
            return answers

        assert all(answer.ok for answer in asyncio.run(run()))


def test_the_same_question_at_once_is_sent_once(tmp_path):
    with FaultyServer(latency_s=0.05) as server:
        answers, _ = ask(settings(server, tmp_path), ["same"] * 20)
        assert server.arrivals["same"] == 1
        assert sum(answer.cached for answer in answers) == 19
        assert len({answer.request_id for answer in answers}) == 1
        assert summary(settings(server, tmp_path).cache)["hits"] == 19


def test_no_more_requests_are_open_than_allowed(tmp_path):
    with FaultyServer(latency_s=0.02) as server:
        ask(settings(server, tmp_path, concurrency=3), [f"q{n}" for n in range(15)])
        assert server.most_open == 3
