"""Results as a dataset and as pages, and two models compared."""

import io
import json

import pytest
from PIL import Image

from lavabeam.evaluation.report.compare import compare
from lavabeam.evaluation.report.page import write_comparison, write_page
from lavabeam.evaluation.report.results import Results, write_rows
from schemas.errors import InputError

WORDS = "<script>alert(1)</script>"


def evaluated(folder, scores, metric="exact", truth=("red",), ids=None, **figures):
    """Results of questions in two categories, each with a score (None: no answer)."""
    folder.mkdir()
    rows = [
        {
            "question_id": (ids or {}).get(number, str(number)),
            "question": f"Which, {number}? {WORDS}",
            "image": "a.png",
            "category": ("color", "shape")[number % 2],
            "answer": None if score is None else f"{'red' if score else 'blue'} {WORDS}",
            "truth": list(truth),
            "score": score or 0.0,
        }
        for number, score in enumerate(scores)
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score = {"value": 50.0, "low": 40.0, "high": 60.0}
    known = {"benchmark": "custom", "protocol": "llava", "metric": metric, "scores": {metric: score}, **figures}
    (folder / "scores.json").write_text(json.dumps(known))
    return Results.read(folder)


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_results_become_a_conversations_dataset(tmp_path):
    found = evaluated(tmp_path / "a", [1.0, 0.0, None])
    for _ in range(2):  # a second time replaces it
        dataset = write_rows(found)
    assert (dataset.schema_name, dataset.rows) == ("conversations", 3)
    right, wrong, missing = dataset.take(range(3))
    assert (right["evaluation_right"], wrong["evaluation_right"], missing["status"]) == (True, False, "no_answer")
    assert (right["references"], right["kind"], right["image_keys"]) == (["red"], "color", ["a.png"])
    assert [one["role"] for one in missing["messages"]] == ["user"]
    assert [one["role"] for one in right["messages"]] == ["user", "assistant"]


def test_the_page_shows_wrong_answers_and_escapes_everything(tmp_path):
    checkpoint = tmp_path / "run" / "model"
    checkpoint.mkdir(parents=True)
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    found = evaluated(tmp_path / "a", [1.0, 0.0, None, 1.0], checkpoint=str(checkpoint), truth=(WORDS, WORDS, "x"))
    page = write_page(found, tmp_path / "page.html", lambda row: png(), [WORDS]).read_text()
    assert "<script" not in page
    assert page.count('class="card question"') == 2
    assert page.count("data:image/png;base64,") == 2
    assert "&lt;script&gt;alert(1)&lt;/script&gt; ×2, x" in page
    assert "Training loss of this checkpoint" in page and "<polyline" in page
    assert "(none)" in page
    shown = write_page(evaluated(tmp_path / "b", [0.0]), tmp_path / "b.html", lambda row: None).read_text()
    assert "no picture" in shown and "<polyline" not in shown


def test_two_models_are_compared_question_by_question(tmp_path):
    first = evaluated(tmp_path / "first", [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    second = evaluated(tmp_path / "second", [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, None])
    found = compare(first, second)
    every = found.report()["categories"]["all questions"]
    assert (every["only_first"], every["only_second"], every["p"]) == (1, 5, pytest.approx(0.21875))
    assert (every["first"], every["second"], every["difference"]) == (25, 75, 50)
    assert every["low"] <= 50 <= every["high"]
    assert found.report()["categories"]["shape"]["only_second"] == 2
    page = write_comparison(found, tmp_path / "c.html", lambda row: png()).read_text()
    assert "<script" not in page
    assert "Only first does better" in page and "0.2188" in page and "McNemar" in page
    assert page.count('class="card question"') == 6


def test_scores_without_right_and_wrong_are_compared_by_sign(tmp_path):
    first = evaluated(tmp_path / "first", [0.2, 0.5, 0.4], "cider")
    second = evaluated(tmp_path / "second", [0.3, 0.6, 0.4], "cider")
    report = compare(first, second).report()
    assert report["test"] == "exact sign test"
    assert (report["categories"]["all questions"]["only_second"], report["categories"]["color"]["questions"]) == (2, 2)


def test_what_is_not_alike_is_not_compared(tmp_path):
    first = evaluated(tmp_path / "first", [1.0, 0.0])
    others = {
        "metric f1, and": evaluated(tmp_path / "a", [1.0, 0.0], "f1"),
        "1 are only there, 0 only here": evaluated(tmp_path / "b", [1.0]),
        "1 are only there, 1 only here": evaluated(tmp_path / "c", [1.0, 0.0], ids={1: "9"}),
        "question 0 has another truth": evaluated(tmp_path / "d", [1.0, 0.0], truth=("blue",)),
    }
    for words, other in others.items():
        with pytest.raises(InputError) as error:
            compare(first, other)
        assert words in str(error.value)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no scores.json. Give the --output"):
        Results.read(tmp_path)
