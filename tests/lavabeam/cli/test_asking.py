"""What a user sees after a step has asked an LLM: what it cost, and why some rows have no answer."""

import json

import pyarrow as pa
import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app
from schemas.errors import InputError
from schemas.writing import write_dataset
from tests.pipelines.llm.faulty import OK, FaultyServer


@pytest.fixture
def call(tmp_path):
    """`lavabeam generate` of two rows with a server of the test."""
    rows = {"key": ["a", "b"], "source": ["s", "s"], "captions": [["A red house."], ["A cat."]]}
    write_dataset(tmp_path / "photos", "images", [pa.Table.from_pydict(rows)], {})

    def run(server, *more):
        given = ["--model", "m", "--provider", "own", "--base-url", server.base_url, "--kinds", "[describe]"]
        given += ["--cache", str(tmp_path / "cache"), "--patience", "{attempts: 2, base_s: 0.01}", *more]
        return CliRunner().invoke(app, ["generate", str(tmp_path / "photos"), str(tmp_path / "talks"), *given])

    return run


def test_a_run_says_what_it_asked_and_paid(call):
    with FaultyServer() as server:
        reported = json.loads(call(server, "--price", "{input: 1000000, output: 0}", "--json").stdout)[0]["answers"]
        (one,) = reported
        assert (one["model"], one["prompt"], one["answers"], one["cached"]) == ("m", "describe/1", 2, 0)
        assert one["paid"] == one["cost"] == one["input_tokens"]
        again = call(server, "--temperature", "0.7", "--checks")
        assert again.exit_code == 0
        assert "nothing was computed" in again.stdout
        table = call(server, "--no-checks", "--price", "{input: 1000000, output: 0}")
        assert "USD paid now" in table.stdout
        assert table.stdout.splitlines()[-1].endswith(" 0.00")


def test_a_wrong_key_is_one_error_and_the_right_one_goes_on_by_itself(call):
    with FaultyServer(lambda question, arrival: "locked_out") as server:
        done = call(server)
        assert isinstance(done.exception, InputError)
        assert "2 unauthorized" in done.stdout
        assert "HTTP 401: invalid_api_key" in str(done.exception)
        assert "Set the key" in str(done.exception)
        server.script = lambda question, arrival: OK
        assert "2 ok" in call(server).stdout


def test_other_reasons_are_told_with_what_to_do(call):
    with FaultyServer(lambda question, arrival: "broken") as server:
        done = call(server)
        assert done.exit_code == 3
        assert "generate: no row of" in done.stderr
        assert "2 rows have status unavailable, for example: HTTP 500" in done.stderr
        assert "`--retry unavailable` retries them." in done.stderr
