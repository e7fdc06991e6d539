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
        (("compare", tmp_path, tmp_path), "holds no scores.json"),
    ):
        error = call(*words).exception
        assert isinstance(error, InputError) and said in str(error)
