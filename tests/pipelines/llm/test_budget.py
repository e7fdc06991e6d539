"""The cap is never passed: not by many requests at once, not by several processes, not after a crash."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipelines.engine.retry import RetryPolicy
from pipelines.llm import postgres
from pipelines.llm.answer import AnswerStatus
from pipelines.llm.client import LlmClient
from pipelines.llm.ledger import Caps, Ledger, Spend, budget_of
from pipelines.llm.pool import Lease
from pipelines.llm.prices import Price
from pipelines.llm.request import ChatRequest, Message
from pipelines.llm.settings import EndpointConfig
from pipelines.llm.store import CacheStore
from pipelines.llm.stores import open_store
from schemas.errors import InputError
from tests.pipelines.llm.faulty import OK, FaultyServer

ROOT = Path(__file__).parents[3]
PRICE = Price(input=1000.0, output=2000.0)


def settings(server, cache, **changes):
    values = {"model": "m", "provider": "test", "base_url": server.base_url, "cache": cache}
    quick = RetryPolicy(attempts=4, base_s=0.01, cap_s=0.02)
    return EndpointConfig(**{**values, "patience": quick, "concurrency": 8, "price": PRICE, "timeout_s": 5, **changes})


def ask(config, texts, budget="b"):
    async def run():
        client = LlmClient(config, budget)
        try:
            asked = (ChatRequest("test", "m", (Message("user", text),), max_output_tokens=40) for text in texts)
            return await asyncio.gather(*map(client.ask, asked)), client.ledger.report()
        finally:
            await client.close()

    return asyncio.run(run())


QUESTIONS = [f"Captions:\n- Picture {n} shows a red house.\n\nTask: describe" for n in range(40)]
# What the server reports for one of them: 13 tokens in, 7 out; 0.013 + 0.014 USD.
COST = 0.027


@pytest.mark.parametrize(
    ("cap", "fits"),
    [({"max_requests": 7}, 7), ({"max_tokens": 800}, 40), ({"max_tokens": 0}, 0), ({"max_cost": 0.0}, 0)],
)
def test_a_cap_is_a_hard_stop(cap, fits, tmp_path):
    with FaultyServer(latency_s=0.01) as server:
        answers, report = ask(settings(server, str(tmp_path), **cap), QUESTIONS)
        statuses = [answer.status for answer in answers]
        assert set(statuses) <= {AnswerStatus.ok, AnswerStatus.budget_exhausted}
        assert statuses.count(AnswerStatus.ok) == server.answered.total() == report["spent"].requests <= fits
        assert server.billed_tokens == report["spent"].tokens <= cap.get("max_tokens", 10**9)


def test_a_cost_cap_stops_at_most_one_reservation_early_and_goes_on_when_raised(cache_place):
    with FaultyServer(latency_s=0.01) as server:
        answers, report = ask(settings(server, cache_place, max_cost=0.5), QUESTIONS)
        paid = sum(answer.cost for answer in answers if answer.ok)
        assert report["spent"].cost == pytest.approx(paid)
        assert paid == pytest.approx(sum(answer.ok for answer in answers) * COST)
        # A request reserves its bytes as input (141 at most, with overheads) and 40 tokens of output: 0.221 USD.
        assert 0.5 - 0.221 - COST < paid <= 0.5
        stopped = next(answer for answer in answers if not answer.ok)
        assert "max_cost 0.5 USD" in stopped.detail

        more, report = ask(settings(server, cache_place, max_cost=2.0), QUESTIONS)
        assert all(answer.ok for answer in more)
        assert max(server.answered.values()) == 1
        assert report["spent"].cost == pytest.approx(40 * COST)


def test_lost_answers_count_as_spent(tmp_path):
    with FaultyServer(lambda question, arrival: "half") as server:
        _, report = ask(settings(server, str(tmp_path), max_requests=100), QUESTIONS[:2])
        assert report["spent"].requests == report["lost"].requests == server.arrivals.total() == 8


def test_refused_requests_cost_nothing(tmp_path):
    with FaultyServer(lambda question, arrival: "busy" if arrival < 3 else OK) as server:
        _, report = ask(settings(server, str(tmp_path), max_requests=2), QUESTIONS[:2])
        assert (report["spent"].requests, report["lost"].requests) == (2, 0)


def test_each_dataset_has_a_budget_of_its_own(cache_place):
    with FaultyServer() as server:
        config = settings(server, cache_place, max_requests=3)
        first, _ = ask(config, QUESTIONS[:5], budget="one")
        second, _ = ask(config, QUESTIONS[5:10], budget="two")
        assert [sum(answer.ok for answer in answers) for answers in (first, second)] == [3, 3]


def test_several_processes_share_the_cap(tmp_path):
    with FaultyServer(latency_s=0.01) as server:
        command = [sys.executable, "-m", "tests.pipelines.llm.asker", server.base_url, str(tmp_path)]
        workers = [
            subprocess.Popen([*command, "--first", str(first), "--count", "30", "--max-requests", "20"], cwd=ROOT)
            for first in (0, 20)
        ]
        assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
        assert server.answered.total() == 20
        assert max(server.answered.values()) == 1


def test_a_cost_cap_needs_a_price(tmp_path):
    with FaultyServer() as server, pytest.raises(InputError, match=r"max_cost needs a price.*'m'.*price: \{input"):
        ask(settings(server, str(tmp_path), price=None, max_cost=1.0), ["q"])


MOVES = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["claim", "settle", "release", "lose"])), max_size=60)


@hypothesis_settings(max_examples=40, deadline=None)
@given(moves=MOVES, cap=st.integers(0, 120))
def test_settled_and_reserved_never_exceed_the_cap(moves, cap, tmp_path_factory):
    keeps_the_cap(tmp_path_factory.mktemp("cache"), moves, cap)


def test_nor_in_a_database(database):
    claims = [(number % 10, "claim") for number in range(10)]
    keeps_the_cap(database, [*claims, (3, "settle"), (7, "lose"), *claims, (1, "release"), (3, "claim"), *claims], 90)


def keeps_the_cap(place, moves, cap):
    store = open_store(place)
    ledger, open_claims = Ledger(store, "b", Caps(max_tokens=cap)), set()
    for number, move in moves:
        key = str(number)
        if move == "claim":
            if ledger.claim(key, Spend(1, 20, 0.0)):
                open_claims.add(key)
        elif key in open_claims:
            open_claims.discard(key)
            if move == "settle":
                ledger.settle_unanswered(key, Spend(1, 2 * number, 0.0))
            else:
                getattr(ledger, move)(key)
        report = ledger.report()
        assert report["spent"].tokens + report["reserved"].tokens <= cap
        assert report["reserved"].requests == len(open_claims)
    store.close()


def test_a_claim_of_a_dead_process_is_taken_over_and_counts_as_lost(cache_place, monkeypatch):
    monkeypatch.setattr(postgres, "GRACE_S", 0)
    dead = open_store(cache_place)
    assert Ledger(dead, "b", Caps(max_tokens=100)).claim("key", Spend(1, 60, 0.5))
    living = open_store(cache_place)
    ledger = Ledger(living, "b", Caps(max_tokens=100))
    assert not ledger.claim("key", Spend(1, 40, 0.0))
    dead.close()
    while not living.owner.is_dead(dead.owner.name):  # a server ends a session a moment after it was left
        time.sleep(0.01)
    assert ledger.claim("key", Spend(1, 40, 0.0))
    assert ledger.report() == {"spent": Spend(1, 60, 0.5), "lost": Spend(1, 60, 0.5), "reserved": Spend(1, 40, 0.0)}
    living.close()


def test_a_server_that_counts_more_than_was_reserved_raises_what_is_reserved(tmp_path):
    """Large pictures, say. Without that the cap would be passed by one request after the other."""
    with FaultyServer(lambda question, arrival: "dear") as server:
        answers, report = ask(settings(server, str(tmp_path), max_tokens=2500, concurrency=1), QUESTIONS)
        assert [answer.ok for answer in answers].count(True) == 2
        assert report["spent"].tokens == 2 * 1000


@pytest.mark.parametrize(
    ("model", "most"), [("gpt-4o-mini", 48169), ("gpt-4.1-mini", 2700), ("gpt-4.1-nano", 3800), ("my-llava", 2000)]
)
def test_a_picture_reserves_the_most_that_its_model_counts(model, most):
    assert EndpointConfig(model=model).image_tokens == most
    assert EndpointConfig(model=model, tokens_per_image=7).image_tokens == 7


def test_a_dataset_has_one_cap_however_its_path_is_spelled(tmp_path, monkeypatch):
    (tmp_path / "x" / "talks").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "x" / "talks")
    monkeypatch.chdir(tmp_path / "x")
    whole = str(tmp_path / "x" / "talks")
    spellings = ["talks", "./talks", "../x/talks", "talks/", "../link", f"file://{whole}", f"{tmp_path}//x/./talks"]
    assert {budget_of(spelling) for spelling in spellings} == {whole}
    assert {budget_of(f"{spelling}#judge") for spelling in spellings} == {f"{whole}#judge"}
    config = EndpointConfig(model="m", provider="p", base_url="http://127.0.0.1:1/v1", cache=str(tmp_path / "c"))
    leases = [Lease(config, spelling, 1) for spelling in spellings]
    assert len({id(lease.client) for lease in leases}) == 1
    for lease in leases:
        lease.close()


def test_places_elsewhere_have_one_name_too():
    assert {budget_of(name) for name in ("s3://b/talks", "s3://b/talks/", "S3A://b//talks")} == {"s3://b/talks"}
    assert budget_of("gs://b/talks") != budget_of("s3://b/talks")


def test_what_other_spellings_spent_counts(tmp_path):
    """Budgets of earlier releases were named as the path was given."""
    (tmp_path / "talks").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "talks")
    store = CacheStore(tmp_path / "cache")
    old = Ledger(store, str(tmp_path / "link"), Caps())
    for key in "abc":
        assert old.claim(key, Spend(1, 10, 0.5))
    old.lose("a")
    old.settle_unanswered("b", Spend(1, 4, 0.25))
    report = Ledger(store, str(tmp_path / "talks"), Caps()).report()
    assert (report["spent"], report["lost"]) == (Spend(2, 14, 0.75), Spend(1, 10, 0.5))
    assert report["reserved"] == Spend(1, 10, 0.5)
    assert Ledger(store, str(tmp_path / "link"), Caps()).report()["spent"] == Spend()
    store.close()
