"""A review through the request layer: what is sent, what is kept, and what a kill, a bad judge or other files do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app
from lavabeam.demo.teacher import Teacher, complete
from pipelines.llm import cache
from schemas.errors import InputError
from tests.pipelines.llm.test_batch import BatchServer

ROOT = Path(__file__).parents[4]
COUNT, CONCURRENCY = 90, 6
KINDS = ("conv", "detail", "complex")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def words(tmp_path):
    """The arguments of a review of 90 questions about 30 pictures, but for its server."""
    pictures = [f"{number}.jpg" for number in range(30)]
    questions = [
        {"question_id": number, "image": pictures[number // 3], "text": f"What about {number}?", "category": kind}
        for number, kind in enumerate(KINDS * 30)
    ]
    box = {"category": "boat", "bbox": [0.1, 0.2, 0.3, 0.4]}
    contexts = [
        {"image": name, "captions": [f"Picture {name} shows a red boat."], "instances": [box]} for name in pictures
    ]
    mine = [{"question_id": number, "text": f"A boat, {number}.", "answer_id": f"m{number}"} for number in range(COUNT)]
    other = [{"question_id": number, "text": f"A red boat in picture {number}."} for number in range(COUNT)]
    given = [write(tmp_path / name, rows) for name, rows in (("q", questions), ("a", mine), ("r", other))]
    context = write(tmp_path / "c", contexts)
    own = ["--context", context, "--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    model = ["--model", "scripted-teacher", "--provider", "own", "--price", "{input: 10, output: 10}"]
    return ["review", *given, *own, *model, "--concurrency", str(CONCURRENCY)]


def call(*arguments):
    return CliRunner().invoke(app, list(arguments))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Judge(Teacher):
    """Answers by `say`(text of the request, number of requests with that text before)."""

    def __init__(self, say):
        super().__init__()
        self.say, self.seen, self.bodies = say, {}, []

    async def respond(self, request, body, answer):
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        before = self.seen.setdefault(text, 0)
        self.seen[text] += 1
        self.bodies.append(body)
        answer["choices"][0]["message"]["content"] = self.say(text, before)
        return await super().respond(request, body, answer)


def test_a_killed_review_goes_on_and_asks_nothing_twice(words, tmp_path):
    with Teacher(latency_s=0.05) as teacher:
        command = [sys.executable, "-m", "lavabeam", *words, "--base-url", teacher.base_url]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as worker:
            while len(teacher.requests) < COUNT // 3 and worker.poll() is None:
                time.sleep(0.005)
            os.kill(worker.pid, signal.SIGKILL)
        paid = cache.summary(tmp_path / "cache")["answers"]
        assert 0 < paid < COUNT
        assert not list((tmp_path / "out").glob("*.jsonl"))
        before = len(teacher.requests)
        ended = call(*words, "--base-url", teacher.base_url, "--json")
        assert ended.exit_code == 0, ended.output
        (answers,) = (
            [sum(one[name] for one in json.loads(ended.stdout)["answers"]) for name in ("answers", "cached")],
        )
        assert answers == [COUNT, paid]
        # What had no answer yet when the kill came may arrive twice at the server: at most a window full.
        assert COUNT - paid <= len(teacher.requests) - before <= COUNT - paid + CONCURRENCY
        done = len(teacher.requests)
        assert call(*words, "--base-url", teacher.base_url).exit_code == 0
        assert len(teacher.requests) == done
    reviews = lines(tmp_path / "out" / "reviews-1.jsonl")
    assert [one["question_id"] for one in reviews] == list(range(COUNT))
    assert {one["status"] for one in reviews} == {"ok"}


def test_the_judge_reads_llavas_layout_in_both_orders(words):
    with Judge(lambda text, before: "8 6\nBecause.") as judge:
        assert call(*words, "--base-url", judge.base_url, "--both-orders").exit_code == 0
        texts = sorted(body["messages"][1]["content"] for body in judge.bodies)
    first = next(text for text in texts if "[Assistant 1]\nA red boat in picture 0." in text)
    assert first.startswith(
        "[Context]\nPicture 0.jpg shows a red boat.\n\nboat: [0.1, 0.2, 0.3, 0.4]\n\n[Question]\nWhat about 0?\n\n"
        "[Assistant 1]\nA red boat in picture 0.\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nA boat, 0.\n\n[End of Assistant 2]\n\n[System]\n"
    )
    assert len(texts) == 2 * COUNT and any("[Assistant 1]\nA boat, 0.\n" in text for text in texts)
    out = words[words.index("--output") + 1]
    found = json.loads(call("review", "summary", out, "--json").output)["files"][0]
    assert found["categories"]["all"]["published"] == 100.0
    assert found["position"] == {"questions": COUNT, "first_gains": 2.0, "changed": 1.0}
    assert "gains +2.00 points by standing first" in call("review", "summary", out).output


def test_prose_is_asked_again_and_then_a_status_that_is_in_no_mean(words, tmp_path):
    def say(text, before):
        if "What about 0?" in text:
            return "85 90\nBoth are nice."
        if "What about 1?" in text and before == 0:
            return "I think 7 and 8"
        return "10 5" if "What about 2?" in text else "8 4\nBecause."

    with Judge(say) as judge:
        ended = call(*words, "--base-url", judge.base_url, "--repairs", "2", "--json")
        assert ended.exit_code == 0
        assert json.loads(ended.stdout)["statuses"] == {"ok": COUNT - 1, "unreadable": 1}
        asked = {key.split("What about ")[1][:2]: count for key, count in judge.seen.items()}
        assert (asked["0?"], asked["1?"], asked["2?"]) == (3, 2, 1)
        again = [body for body in judge.bodies if "seed" in body]
        assert {body["temperature"] for body in again} == {0.7}
        assert all(len(body["messages"]) == 2 for body in again)
    first, second, *_ = lines(tmp_path / "out" / "reviews-1.jsonl")
    assert (first["tuple"], first["status"], second["tuple"]) == (None, "unreadable", [8.0, 4.0])
    assert "85 90" in first["detail"]
    found = json.loads(call("review", "summary", str(tmp_path / "out"), "--json").output)["files"][0]["categories"][
        "all"
    ]
    assert (found["published"], found["reviews"], found["unreadable"]) == (50.0, COUNT, 1)


def test_of_a_judgement_that_was_cut_the_complete_lines_count(words, tmp_path):
    class Cut(Judge):
        async def respond(self, request, body, answer):
            answer["choices"][0]["finish_reason"] = "length"
            return await super().respond(request, body, answer)

    with Cut(lambda text, before: "8 1" if "What about 0?" in text else "8 6\nThe fir") as judge:
        assert call(*words, "--base-url", judge.base_url, "--repairs", "0").exit_code == 0
    first, second, *_ = lines(tmp_path / "out" / "reviews-1.jsonl")
    assert (first["status"], first["tuple"]) == ("truncated", None)
    assert (second["status"], second["tuple"]) == ("ok", [8.0, 6.0])


def test_a_batch_is_judged_at_once(words, tmp_path):
    with BatchServer() as server:
        given = ("--base-url", server.base_url, "--mode", "batch", "--batch-poll-s", "0.1", "--json")
        done = call(*words, *given)
        assert json.loads(done.stdout)["statuses"] == {"ok": COUNT}, done.output
        assert len(server.batches) == 1


def test_a_judge_of_prose_alone_is_exit_code_3(words):
    with Judge(lambda text, before: "The first, 8 10 times over.") as judge:
        assert call(*words, "--base-url", judge.base_url, "--repairs", "0").exit_code == 3


def test_runs_are_asked_anew_and_get_a_spread(words, tmp_path):
    with Judge(lambda text, before: f"10 {5 + before}") as judge:
        assert call(*words, "--base-url", judge.base_url, "--runs", "2").exit_code == 0
        assert set(judge.seen.values()) == {2}
        assert {body["temperature"] for body in judge.bodies} == {0.2}
    found = json.loads(call("review", "summary", str(tmp_path / "out"), "--json").output)
    assert [one["categories"]["all"]["published"] for one in found["files"]] == [50.0, 60.0]
    spread = found["runs"][0]["categories"]["all"]
    assert (spread["mean"], spread["least"], spread["most"]) == (55.0, 50.0, 60.0)
    assert spread["deviation"] == pytest.approx(50**0.5)


def test_a_dry_run_and_a_cap(words, tmp_path):
    estimate = json.loads(call(*words, "--base-url", "http://127.0.0.1:9/v1", "--dry-run", "--json").stdout)
    assert (estimate["requests"], estimate["cached"]) == (COUNT, 0)
    assert 0 < estimate["cost"] < estimate["most"]
    assert not (tmp_path / "out").exists()
    with Teacher() as teacher:
        ended = call(*words, "--base-url", teacher.base_url, "--max-requests", "40", "--json")
        assert json.loads(ended.stdout)["statuses"] == {"ok": 40, "budget_exhausted": COUNT - 40}
        assert "Raise the cap" in ended.stderr
        assert call(*words, "--base-url", teacher.base_url).exit_code == 0
        assert len(teacher.requests) == COUNT


def test_a_folder_of_other_reviews_is_refused(words, tmp_path):
    with Teacher() as teacher:
        server = ["--base-url", teacher.base_url]
        assert call(*words, *server).exit_code == 0
        changed = [*words]
        changed[changed.index("--model") + 1] = "another"
        error = call(*changed, *server).exception
        assert isinstance(error, InputError) and "holds reviews of other answers" in str(error)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    words[words.index("--output") + 1] = str(tmp_path / "full")
    assert "holds other files" in str(call(*words, *server).exception)


def test_the_teacher_judges_reviews_and_grades():
    body = {"model": "m", "messages": [{"role": "user", "content": "Truth: red\nAnswer: red\n\nWrite the grade"}]}
    body["messages"][0]["content"] = "Question: a?\nTruth: red<AND>green\nAnswer: It is red.\n\nWrite the grade alone."
    assert complete(body)["choices"][0]["message"]["content"] == "0.3"
