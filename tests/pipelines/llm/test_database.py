"""A database as the cache: machines share answers and a cap, and a lost connection leaves no request uncounted.

What is the same in a folder is tested for both in test_cache.py and test_budget.py.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app
from pipelines.engine.runners import Runner
from pipelines.generate.step import Generate
from pipelines.judge.step import Judge
from pipelines.llm import postgres
from pipelines.llm.cache import summary
from pipelines.llm.client import LlmClient
from pipelines.llm.ledger import Caps, Ledger, Spend
from pipelines.llm.request import ChatRequest, Message
from pipelines.llm.settings import EndpointConfig
from pipelines.llm.stores import open_store
from schemas.errors import InputError
from schemas.writing import write_dataset
from tests.pipelines.llm.asker import ask
from tests.pipelines.llm.faulty import FaultyServer

ROOT = Path(__file__).parents[3]
MOST = Spend(1, 60, 0.5)


@pytest.fixture
def two(database):
    """Two stores on one database, as two machines have them, and their ledgers."""
    stores = [open_store(database), open_store(database)]
    yield [(store, Ledger(store, "b", Caps(max_tokens=200))) for store in stores]
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:very-secret@db.example.org/llm",
        "postgresql://very-secret@db.example.org/llm",
        "postgresql://db.example.org/llm?password=very-secret",
        "postgresql:///llm?host=db&password=very-secret",
        "postgres://db.example.org/llm#very-secret",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(address):
    with pytest.raises(InputError, match=r"PGPASSWORD.*\.pgpass") as refused:
        EndpointConfig(model="m", cache=address)
    assert "very-secret" not in str(refused.value)


@pytest.mark.parametrize("address", ["postgresql://db.example.org", "postgresql:db/llm", "postgresql://db:x/llm"])
def test_what_is_no_address_is_named(address):
    with pytest.raises(InputError, match=r"not the address of a database. Give postgresql://HOST/DATABASE"):
        open_store(address)


def test_an_address_has_one_spelling():
    spelled = [f"{scheme}://db.example.org:5433/llm{end}" for scheme in ("postgresql", "Postgres") for end in ("", "/")]
    assert {EndpointConfig(model="m", cache=one).cache for one in spelled} == {"postgresql://db.example.org:5433/llm"}


def test_a_missing_driver_is_one_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"psycopg.*is not installed\. Install lavabeam\[postgres\]"):
        open_store("postgresql://db.example.org/llm")


@pytest.mark.parametrize("runner", ["dataflow", "PortableRunner"])
def test_steps_that_share_a_database_run_on_several_machines(runner):
    asked = {"model": "gpt-4o-mini", "max_cost": 5, "cache": "postgresql://db.example.org/llm"}
    several = Runner(runner, 0 if runner == "dataflow" else 2)
    for step in (Generate(Generate.Config(**asked)), Judge(Judge.Config(**asked, images="gs://b/photos"))):
        several.admit(step.name, step.needs, [])
        with pytest.raises(InputError, match=r"are divided among all worker processes.*--workers"):
            Runner("PortableRunner").admit(step.name, step.needs, [])


def test_machines_share_answers_and_one_cap_also_when_one_is_killed(database, monkeypatch):
    monkeypatch.setattr(postgres, "GRACE_S", 0.5)
    with FaultyServer(latency_s=0.05) as server:
        command = [sys.executable, "-m", "tests.pipelines.llm.asker", server.base_url, database]
        command += ["--max-requests", "40", "--count", "30", "--grace", "0.5"]
        with subprocess.Popen([*command, "--first", "0"], cwd=ROOT) as one:
            other = subprocess.Popen([*command, "--first", "15"], cwd=ROOT)
            while server.arrivals.total() < 12:
                time.sleep(0.002)
            os.kill(one.pid, signal.SIGKILL)
        assert other.wait(timeout=60) == 0
        asyncio.run(ask(server.base_url, database, 0, 30, max_requests=40))
        sent, repeated = server.arrivals.total(), server.arrivals.total() - len(server.arrivals)
    held = summary(database)
    spent = held["budgets"]["b"]
    # What the killed one had in flight, at most its window, may be asked again; it is counted as lost.
    assert repeated <= spent["lost_requests"] <= 8
    assert sent <= spent["requests"] <= 40
    assert held["answers"] == spent["requests"] - spent["lost_requests"]


def test_a_lost_connection_is_outlived(two, database_server):
    (one, ledger), (_, other) = two
    assert ledger.claim("key", MOST)
    database_server.end_sessions()
    assert not other.claim("other", Spend(1, 180, 0.0))  # what is reserved stays so
    ledger.settle_unanswered("key", Spend(1, 20, 0.1))
    assert not one.owner.is_dead(one.owner.name)
    assert other.report()["spent"] == Spend(1, 20, 0.1)


def test_a_process_that_waits_for_an_answer_finds_out_about_it(database, database_server, monkeypatch):
    monkeypatch.setattr(postgres, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(postgres, "GRACE_S", 0.3)

    async def wait():
        staying = asyncio.ensure_future(waiting.stay())
        database_server.end_sessions()
        seen = []
        for _ in range(6):
            await asyncio.sleep(0.1)
            seen.append(other.owner.is_dead(waiting.owner.name))
        staying.cancel()
        return seen

    waiting, other = open_store(database), open_store(database)
    assert asyncio.run(wait()) == [False] * 6
    assert other.connection.execute("SELECT * FROM missing").fetchall() == []
    for store in (waiting, other):
        store.close()


def test_what_became_true_before_its_connection_was_lost_counts_once(two, database_server, monkeypatch):
    (one, ledger), (_, other) = two
    transact = one.connection.transact
    asked = []

    def cut_after_commit(work):
        result = transact(work)
        asked.append(work)
        if len(asked) % 2:
            database_server.end_sessions()
            raise one.connection._driver.OperationalError("server closed the connection unexpectedly")
        return result

    monkeypatch.setattr(one.connection, "transact", cut_after_commit)
    assert ledger.claim("key", MOST)
    assert other.report()["reserved"] == MOST
    ledger.settle_unanswered("key", Spend(1, 20, 0.1))
    assert other.report() == {"spent": Spend(1, 20, 0.1), "lost": Spend(), "reserved": Spend()}
    assert len(asked) == 4


def test_a_process_that_was_taken_for_dead_ends_no_claim_of_another(two, monkeypatch):
    """It asks on without knowing; both requests count, the first with all that it had reserved."""
    (one, ledger), (_, other) = two
    monkeypatch.setattr(postgres, "GRACE_S", 0)
    assert ledger.claim("key", MOST)
    one.close()
    while not other.claim("key", MOST):
        time.sleep(0.01)
    ledger.settle_unanswered("key", Spend(1, 20, 0.1))
    ledger.release("key")
    ledger.lose("key")
    assert other.report() == {"spent": MOST, "lost": MOST, "reserved": MOST}
    other.settle_unanswered("key", Spend(1, 30, 0.2))
    assert other.report()["spent"] == MOST + Spend(1, 30, 0.2)


def test_a_process_that_stops_within_a_transaction_stops_the_others_for_a_moment(database, monkeypatch):
    monkeypatch.setattr(postgres, "_IDLE_MS", 200)
    store = open_store(database)
    ledger = Ledger(store, "b", Caps())
    frozen = iter([0.6])

    def freeze(connection):
        ledger.settle(connection, "key", Spend())
        time.sleep(next(frozen, 0))
        return connection.execute("SELECT 1").fetchone()

    assert store.atomically(freeze) == (1,)
    assert next(frozen, None) is None
    store.close()


def test_a_database_that_is_gone_stops_the_run_in_one_line_and_then_goes_on(database_server, database, monkeypatch):
    monkeypatch.setattr(postgres, "WAITS_S", (0.05, 0.05))
    monkeypatch.setattr(postgres, "FIRST_WAITS_S", (0.05,))
    monkeypatch.setattr(postgres, "GRACE_S", 0.1)

    async def ask_all(server, texts):
        config = EndpointConfig(model="m", provider="p", base_url=server.base_url, cache=database, max_requests=9)
        client = LlmClient(config, "b")
        asked = [ChatRequest("p", "m", (Message("user", text),), max_output_tokens=9) for text in texts]
        answers = await asyncio.gather(*map(client.ask, asked), return_exceptions=True)
        try:
            return answers, client.ledger.report()
        except InputError as error:
            return answers, str(error)
        finally:
            await client.close()

    def stop(question, arrival):
        if database_server.process.poll() is None:
            database_server.stop(signal.SIGQUIT)
        return "ok"

    with FaultyServer(stop) as server:
        answers, reported = asyncio.run(ask_all(server, "abc"))
        assert {type(answer) for answer in answers} == {InputError}
        assert "the database cannot be used" in reported
        assert {str(answer) for answer in answers} == {reported}
        with pytest.raises(InputError, match="cannot be used"):
            open_store(database)
        database_server.start()
        server.script = lambda question, arrival: "ok"
        answers, report = asyncio.run(ask_all(server, "abc"))
        assert [answer.ok for answer in answers] == [True] * 3
        assert (report["spent"].requests, report["lost"].requests) == (server.arrivals.total(), 3)


def test_other_layouts_and_databases_without_a_cache_are_named(database):
    with pytest.raises(InputError, match="there is no answer cache here"):
        summary(database)
    store = open_store(database)
    store.connection.execute("UPDATE layout SET version = 99")
    store.close()
    for look in (summary, open_store):
        with pytest.raises(InputError, match=r"written by another LavaBeam \(layout 99"):
            look(database)


def test_a_command_that_only_looks_changes_nothing(database):
    open_store(database).close()
    connection = postgres.open_for_reading(database)
    with pytest.raises(InputError, match="read-only transaction"):
        connection.execute("DELETE FROM spend")
    connection.close()


def test_commands_take_the_address(database, tmp_path):
    rows = {"key": ["a", "b"], "source": ["s", "s"], "captions": [["A red house."], ["A cat."]]}
    write_dataset(tmp_path / "photos", "images", [pa.Table.from_pydict(rows)], {})

    def call(*words):
        return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)

    with FaultyServer() as server:
        asked = ["--model", "m", "--provider", "own", "--base-url", server.base_url, "--kinds", "[describe]"]
        asked += ["--cache", database, "--max-requests", "5"]
        assert call("generate", tmp_path / "photos", tmp_path / "talks", *asked).exit_code == 0
        seen = json.loads(
            call("generate", tmp_path / "photos", tmp_path / "more", *asked, "--dry-run", "--json").output
        )
        assert (seen["requests"], seen["cached"], server.arrivals.total()) == (0, 2, 2)
    shown = json.loads(call("cache", "show", database, "--json").output)
    assert (shown["folder"], shown["answers"], list(shown["budgets"])) == (database, 2, [str(tmp_path / "talks")])
    assert shown["file_bytes"] > 0
    assert "By model and prompt" in call("cache", "show", database).output
    assert call("cache", "export", database, tmp_path / "answers.jsonl").output == "2 answers exported\n"
    assert call("cache", "import", database, tmp_path / "answers.jsonl").output == "0 answers added\n"
