"""A benchmark asked of a server: nothing twice, nothing lost, and never a score of a server that is away."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lavabeam.evaluation.asking import Asking, answer, ask
from lavabeam.evaluation.endpoint import endpoint_settings
from lavabeam.evaluation.question import Question
from schemas.errors import InputError
from tests.pictures import colour, encoded
from tests.pipelines.llm.faulty import FaultyServer

ROOT = Path(__file__).parents[3]
PICTURE = encoded(colour())
QUICK = {"patience": {"attempts": 1}}


def questions(count: int) -> list[Question]:
    return [Question(str(number), f"what is {number}?", "", "p.png") for number in range(count)]


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/p.png").write_bytes(PICTURE)
    return tmp_path / "images"


def asked(server, count, images, output, **settings):
    return ask(server.base_url, questions(count), images, output, Asking(8, "m", settings={**QUICK, **settings}))


def test_answers_have_llavas_layout_and_their_questions_order(tmp_path, images):
    with FaultyServer() as server:
        assert asked(server, 9, images, tmp_path / "out") == {"ok": 9, "cached": 0}
        assert asked(server, 9, images, tmp_path / "out") == {"ok": 9, "cached": 9}
        assert server.arrivals.total() == 9
        body = server.bodies[0]
    assert (body["temperature"], body["max_tokens"], body["model"]) == (0.0, 8, "m")
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "text"]
    rows = [json.loads(line) for line in (tmp_path / "out/answers.jsonl").read_text().splitlines()]
    assert [row["question_id"] for row in rows] == [str(number) for number in range(9)]
    assert list(rows[0]) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
    assert rows[0]["text"] == "It is a picture."


def test_a_server_that_goes_away_gives_no_answers_and_the_next_run_asks_the_rest(tmp_path, images):
    with FaultyServer(lambda question, arrival: "broken" if arrival == 1 and "3" in question else "ok") as server:
        with pytest.raises(InputError, match=r"1 of 5 questions have no answer \(1 unavailable\)"):
            asked(server, 5, images, tmp_path / "out")
        assert not (tmp_path / "out/answers.jsonl").exists()
        assert asked(server, 5, images, tmp_path / "out") == {"ok": 5, "cached": 4}
        assert server.arrivals.total() == 6


def test_what_a_server_refuses_for_good_is_a_status(tmp_path, images):
    faults = {"1": "policy", "2": "too_long", "3": "bad"}
    (images / "broken.png").write_bytes(PICTURE[:-20] + b"x" * 4)
    unseen = [
        Question("4", "what is it?", "", "gone.png"),
        Question("5", "what is this?", "", "broken.png"),
    ]
    with FaultyServer(lambda question, _: faults.get(question[8:-1], "ok")) as server:
        how = Asking(8, "m", settings=QUICK)
        counts = ask(server.base_url, [*questions(4), *unseen], images, tmp_path / "out", how)
    found = [json.loads(line)["metadata"] for line in (tmp_path / "out/answers.jsonl").read_text().splitlines()]
    statuses = [one.get("status", "ok") for one in found]
    assert statuses[:5] == ["ok", "refused", "too_long", "bad_question", "no_picture"]
    assert sum(counts.values()) == 6
    assert all(one["detail"] for one in found[1:5])


def test_a_wrong_key_stops_the_run(tmp_path, images):
    with (
        FaultyServer(lambda question, arrival: "locked_out") as server,
        pytest.raises(InputError, match=r"unauthorized.*incorrect API key"),
    ):
        asked(server, 50, images, tmp_path / "out", concurrency=2)


def test_a_cap_stops_the_run_and_a_higher_one_continues_it(tmp_path, images):
    with FaultyServer() as server:
        with pytest.raises(InputError, match=r"2 budget_exhausted.*max_requests 4"):
            asked(server, 6, images, tmp_path / "out", max_requests=4)
        assert asked(server, 6, images, tmp_path / "out", max_requests=6)["cached"] == 4


def test_a_picture_behind_words_is_not_moved_in_front_of_them(tmp_path, images):
    rows = [Question("0", "<image>\nwhat is it?", "", "p.png"), Question("1", "look: <image>", "", "p.png")]
    with FaultyServer() as server:
        counts = ask(server.base_url, rows, images, tmp_path / "out", Asking(8, "m", settings=QUICK))
    assert (counts["ok"], counts["bad_question"]) == (1, 1)


def test_killed_and_started_again_asks_nothing_twice_but_what_was_in_flight(tmp_path, images):
    lines = [{"question_id": number, "text": f"what is {number}?", "image": "p.png"} for number in range(60)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with FaultyServer(latency_s=0.05) as server:
        words = [
            "answer",
            server.base_url,
            str(tmp_path / "q.jsonl"),
            str(tmp_path / "a.jsonl"),
            "--images",
            str(images),
        ]
        command = [sys.executable, "-m", "lavabeam", *words, "--model", "m", "--set", "concurrency=4"]
        with subprocess.Popen(command, cwd=ROOT) as run:
            while server.arrivals.total() < 20 and run.poll() is None:
                time.sleep(0.005)
            os.kill(run.pid, signal.SIGKILL)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
        assert len(server.arrivals) == 60 and server.arrivals.total() <= 64
    assert "60 questions, 60 answers" in done.stdout and "came from the cache" in done.stderr
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 60


def test_an_address_needs_a_model_and_known_settings(tmp_path):
    settings = endpoint_settings("http://h:1", "m", 16, tmp_path / "c")
    assert (settings.base_url, settings.provider) == ("http://h:1/v1", "h:1")
    assert endpoint_settings("http://h:1/api", "m", 16, tmp_path).base_url == "http://h:1/api"
    with pytest.raises(InputError, match="--model"):
        endpoint_settings("http://h:1", None, 16, tmp_path)
    with pytest.raises(InputError, match="--set patienc"):
        endpoint_settings("http://h:1", "m", 16, tmp_path, {"patienc": 1})
    (tmp_path / "q.jsonl").write_text('{"question_id": 1, "text": "x"}\n')
    with pytest.raises(InputError, match=r"for a server's address"):
        answer(str(tmp_path), tmp_path / "q.jsonl", tmp_path / "a.jsonl", None, Asking(8, "m"))


def test_pictures_inside_a_table_are_written_once_and_named_ones_need_a_folder(tmp_path):
    rows = [Question(str(number), f"what is {number}?", "", PICTURE) for number in range(3)]
    with FaultyServer() as server:
        assert ask(server.base_url, rows, None, tmp_path / "out", Asking(8, "m"))["ok"] == 3
        assert len(list((tmp_path / "out/pictures").iterdir())) == 1
        with pytest.raises(InputError, match=r"1 of 1 questions are about pictures, the first about p.png.*--images"):
            ask(server.base_url, questions(1), None, tmp_path / "out", Asking(8, "m"))
