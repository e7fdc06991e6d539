"""`lavabeam evaluate` as a user types it."""

import json

import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app
from schemas.errors import InputError
from tests.pipelines.llm.faulty import FaultyServer


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def files(tmp_path):
    questions = [["is it red?", "yes", 3], ["is it a cat?", "no", 3], ["what color is it?", "red", 3]]
    (tmp_path / "q.json").write_text(json.dumps(questions))
    answers = [{"question_id": number, "text": text} for number, text in enumerate(("Yes", "yes", "red"))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in answers))
    return tmp_path


def test_answers_to_scores_and_results(files):
    done = call("evaluate", "easy-vqa", files / "a.jsonl", "--questions", files / "q.json", "--output", files / "out")
    assert done.exit_code == 0, done.exception
    assert "3 of 3 answered" in done.output and "66.67" in done.output
    scores = json.loads((files / "out/scores.json").read_text())
    assert round(scores["scores"]["accuracy"]["value"], 2) == 66.67
    results = [json.loads(line) for line in (files / "out/results.jsonl").read_text().splitlines()]
    assert [(row["answer"], row["truth"], row["score"]) for row in results] == [
        ("Yes", "yes", 1),
        ("yes", "no", 0),
        ("red", "red", 1),
    ]
    printed = call("evaluate", "easy-vqa", files / "a.jsonl", "--questions", files / "q.json", "--json").output
    assert json.loads(printed)["scores"] == scores["scores"]


def test_a_server_is_asked_and_scored(files):
    (files / "images").mkdir()
    (files / "images/3.png").write_bytes(b"no picture")
    with FaultyServer() as server:
        words = ("evaluate", "easy-vqa", server.base_url, "--questions", files / "q.json", "--images", files / "images")
        asked = call(*words, "--model", "m", "--output", files / "out")
        # the picture is none: every question is left without an answer, and that is no score of 0
        assert isinstance(asked.exception, InputError)
        assert "none of 3 questions has an answer: bad_picture: " in str(asked.exception)
        assert isinstance(call(*words, "--model", "m").exception, InputError)
    statuses = [
        json.loads(line)["metadata"]["status"] for line in (files / "out/answers.jsonl").read_text().splitlines()
    ]
    assert statuses == ["bad_picture"] * 3


def test_names_files_and_options_that_do_not_fit(files):
    questions = ("--questions", files / "q.json")
    for words, message in (
        (("popee", files / "a.jsonl"), "Did you mean pope"),
        (("easy-vqa", files / "a.jsonl"), "give its questions with --questions"),
        (("pope", files / "a.jsonl", "--questions", files / "gone.jsonl"), "gone.jsonl: no such file"),
        (
            ("easy-vqa", files / "a.jsonl", *questions, "--protocol", "lmms-eval"),
            "has protocol llava",
        ),
    ):
        error = call("evaluate", *words).exception
        assert isinstance(error, InputError) and message in str(error), words
    surplus = call("evaluate", files, files / "q.json", "--upload", "x")
    assert surplus.exit_code == 2 and "only with a benchmark name" in surplus.output
