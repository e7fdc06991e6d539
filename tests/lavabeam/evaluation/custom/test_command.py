"""`lavabeam evaluate custom` and `compare` as a user meets them."""

import io
import json

import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image

from lavabeam.cli.main import app
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset
from tests.lavabeam.evaluation.review.test_review import Judge


def call(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def questions(tmp_path):
    rows = [{"question_id": n, "text": f"Which, {n}?", "answer": "red", "kind": f"k{n % 2}"} for n in range(6)]
    return lines(tmp_path / "q.jsonl", rows)


def answers(path, said):
    return lines(path, [{"question_id": number, "text": text} for number, text in enumerate(said)])


def test_two_files_of_answers_are_scored_and_compared(tmp_path, questions):
    for name, said in (("a", ["red"] * 2 + ["blue"] * 4), ("b", ["Red."] * 6)):
        given = answers(tmp_path / f"{name}.jsonl", said)
        done = call("custom", given, "--questions", questions, "--output", tmp_path / name, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["scores"]["exact"]["value"] == pytest.approx(100 * (2 if name == "a" else 6) / 6)
        assert (tmp_path / name / "results.html").is_file()
        assert Dataset.open(tmp_path / name / "rows").rows == 6
    found = json.loads(call("compare", tmp_path / "a", tmp_path / "b", "--json").stdout)
    every = found["categories"]["all questions"]
    assert (every["only_first"], every["only_second"], every["p"]) == (0, 4, 0.125)
    shown = call("compare", tmp_path / "a", tmp_path / "b").output
    assert "McNemar's exact test" in shown and "0.125" in shown
    assert (tmp_path / "b" / "compare.html").is_file()


def test_a_judge_grades_answers_once(tmp_path, questions):
    given = answers(tmp_path / "a.jsonl", ["red", "blue"] * 3)
    with Judge(lambda text, before: "1.0" if "Answer: red\n" in text else "0.2") as judge:
        settings = {"model": "m", "provider": "own", "base_url": judge.base_url, "cache": str(tmp_path / "cache")}
        file = tmp_path / "judge.yaml"
        file.write_text(json.dumps(settings))
        words = ("custom", given, "--questions", questions, "--output", tmp_path / "out", "--metric", "judge")
        for _ in range(2):
            done = call(*words, "--judge", file, "--json")
            assert json.loads(done.stdout)["scores"]["judge"]["value"] == pytest.approx(60)
        assert len(judge.bodies) == 6
    rows = Dataset.open(tmp_path / "out" / "rows").take(range(2))
    assert [row["evaluation_score"] for row in rows] == pytest.approx([1.0, 0.2])
    with Judge(lambda text, before: "Fine.") as judge:
        file.write_text(json.dumps({**settings, "base_url": judge.base_url, "model": "other", "repairs": 0}))
        error = call(*words, "--judge", file).exception
    assert isinstance(error, InputError) and "left 6 of 6 answers without a grade" in str(error)


def test_answers_that_a_judge_never_grades_are_left_out_only_on_request(tmp_path, questions):
    """One of six is never graded: the five others score (1 + 1 + 3 x 0.5) / 5; without that share there is no score."""
    given = answers(tmp_path / "a.jsonl", ["red", "blue", "red", "blue", "green", "blue"])
    grades = {"red": "1.0", "blue": "0.5", "green": "I would rather not say."}
    with Judge(
        lambda text, before: next(said for word, said in grades.items() if f"Answer: {word}\n" in text)
    ) as judge:
        settings = {"model": "m", "provider": "own", "base_url": judge.base_url, "cache": str(tmp_path / "cache")}
        file = tmp_path / "judge.yaml"
        file.write_text(json.dumps({**settings, "repairs": 1}))
        words = ("custom", given, "--questions", questions, "--output", tmp_path / "out", "--metric", "judge")
        for more in ((), ("--min-graded", "0.9")):
            error = call(*words, "--judge", file, *more).exception
            assert isinstance(error, InputError) and "left 1 of 6 answers without a grade" in str(error)
            assert "question 4: unreadable: not a grade" in str(error) and "--min-graded" in str(error)
        assert not (tmp_path / "out" / "scores.json").exists()
        done = call(*words, "--judge", file, "--min-graded", "0.8")
    assert done.exit_code == 0, done.output
    assert "1 of 6 answers have no grade and enter no figure: 1 unreadable" in done.stderr
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert found["scores"]["judge"]["value"] == pytest.approx(100 * 3.5 / 5)
    assert (found["scored"], found["ungraded"]) == (5, {"unreadable": 1})
    assert {name: one["units"] for name, one in found["categories"].items()} == {"k0": 2, "k1": 3}
    rows = Dataset.open(tmp_path / "out" / "rows").take(range(6))
    assert [row["evaluation_score"] for row in rows] == [1, 0.5, 1, 0.5, None, 0.5]
    assert [row["evaluation_detail"] is None for row in rows] == [True] * 4 + [False, True]
    page = (tmp_path / "out" / "results.html").read_text()
    assert "1 of 6 answers have no grade of the judge" in page and "unreadable: not a grade" in page
    compared = call("compare", tmp_path / "out", tmp_path / "out")
    assert "1 questions have no score in one of the two" in compared.stderr, compared.output


def test_a_judge_that_is_away_is_no_reason_to_leave_answers_out(tmp_path, questions):
    given, file = answers(tmp_path / "a.jsonl", ["red"] * 6), tmp_path / "judge.yaml"
    settings = {"model": "m", "provider": "own", "cache": str(tmp_path / "cache")}
    with Judge(lambda text, before: "1.0") as judge:
        file.write_text(json.dumps({**settings, "base_url": judge.base_url, "max_requests": 4, "concurrency": 1}))
        words = ("custom", given, "--questions", questions, "--output", tmp_path / "out", "--metric", "judge")
        error = call(*words, "--judge", file, "--min-graded", "0.1").exception
    assert isinstance(error, InputError) and "2 of them for a reason that may pass" in str(error), error


def test_a_server_is_asked_with_the_pictures_of_a_dataset(tmp_path):
    """One of the three pictures is nowhere: its question keeps its place, and is scored as wrong only when allowed."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    images = [{"key": key, "image": {"bytes": buffer.getvalue(), "path": None}} for key in ("a", "b")]
    fields = pa.schema([BASE["images"].field("key"), STORED_IMAGE[0]])
    write_dataset(tmp_path / "photos", "images", [pa.Table.from_pylist(images, fields)])
    said = [("user", [("image", None), ("text", "Colour?")]), ("assistant", [("text", "red")])]
    talk = [{"role": role, "content": [{"type": kind, "text": text} for kind, text in parts]} for role, parts in said]
    rows = [{"key": f"t{one}", "image_keys": [one], "messages": talk, "status": "ok"} for one in ("a", "b", "gone")]
    write_dataset(tmp_path / "talks", "conversations", [pa.Table.from_pylist(rows, BASE["conversations"])])
    with Judge(lambda text, before: "Red.") as server:
        words = ("custom", server.base_url, "--model", "m", "--questions", tmp_path / "talks")
        words += ("--images", tmp_path / "photos", "--output", tmp_path / "out")
        refused = call(*words)
        assert isinstance(refused.exception, InputError), refused.output
        assert "1 of 3 missing (first id tgone" in str(refused.exception)
        done = call(*words, "--allow-missing", "--json")
        assert done.exit_code == 0, done.output
        report = json.loads(done.stdout)
        assert report["statuses"]["no_picture"] == 1
        assert report["scores"]["exact"]["value"] == pytest.approx(200 / 3)
        assert len(server.bodies) == 1  # the same picture and words are one question to the cache
    page = (tmp_path / "out" / "results.html").read_text()
    assert page.count('class="card question"') == 1 and "(none)" in page


def test_options_that_do_not_fit_are_refused(tmp_path, questions):
    given = answers(tmp_path / "a.jsonl", ["red"] * 6)
    for words, said in (
        (("custom", given, "--questions", questions, "--metric", "blue"), "Did you mean 'bleu'"),
        (("custom", given, "--questions", questions, "--metric", "judge"), "--metric judge takes --judge FILE"),
        (("pope", given, "--questions", questions, "--metric", "f1"), "POPE has its own metric"),
        (("custom", given, "--questions", questions, "--min-graded", "0.9"), "--min-graded is for --metric judge"),
        (("compare", tmp_path, tmp_path), "holds no scores.json"),
    ):
        error = call(*words).exception
        assert isinstance(error, InputError) and said in str(error)
