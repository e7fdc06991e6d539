"""MM-Vet's answers graded: the official grade file, and a status where there is no grade."""

import json

import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app
from lavabeam.evaluation.review.mmvet import read_answers, read_grade
from schemas.errors import InputError
from tests.lavabeam.evaluation.review.test_review import Judge

TRUTH = {
    "v1_0": {"imagename": "a.png", "question": "What is x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]},
    "v1_1": {"imagename": "b.png", "question": "Who is it?", "answer": "a cook", "capability": ["rec"]},
}


@pytest.mark.parametrize(
    ("text", "grade"), [("0.5", 0.5), (" 1.0\n", 1.0), ("Grade: 0.3", 0.3), ("0", 0.0), ("1", 1.0), ("0.7.", 0.7)]
)
def test_a_grade_is_read(text, grade):
    assert read_grade(text) == grade


@pytest.mark.parametrize("text", ["", "0.55", "2", "10", "good", "0.5 of it", "-0.5", "0.5\nBecause."])
def test_anything_else_is_no_grade(text):
    with pytest.raises(ValueError):
        read_grade(text)


def test_answers_are_joined_by_id(tmp_path):
    truth, lines, upload = tmp_path / "t.json", tmp_path / "a.jsonl", tmp_path / "u.json"
    truth.write_text(json.dumps(TRUTH))
    lines.write_text('{"question_id": 1, "text": "a cook"}\n{"question_id": "v1_0", "text": "-1 {answer}"}\n')
    upload.write_text('{"v1_1": "a cook", "v1_0": "-1 {answer}"}')
    assert read_answers(lines, truth) == read_answers(upload, truth)
    upload.write_text('{"v1_1": "a cook", "v1_9": "x"}')
    with pytest.raises(InputError, match=r"of 2 answers 1 \(v1_0\) missing, 1 \(v1_9\) of no question in"):
        read_answers(upload, truth)
    truth.write_text('{"v1_0": {"question": "What?"}}')
    with pytest.raises(InputError, match="v1_0: expected question, answer and capability"):
        read_answers(lines, truth)


def test_grades_are_written_in_the_official_layout(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(TRUTH))
    (tmp_path / "u.json").write_text('{"v1_0": "It is -1 {truth}.", "v1_1": "a man"}')
    given = [str(tmp_path / name) for name in ("u.json", "t.json")]
    own = ["--output", str(tmp_path / "grades.json"), "--cache", str(tmp_path / "cache"), "--runs", "2"]
    with Judge(lambda text, before: "0.5" if "{truth}" in text else "Hm.") as judge:
        model = ["--model", "m", "--provider", "own", "--base-url", judge.base_url, "--repairs", "1"]
        ended = CliRunner().invoke(app, ["review", "mm-vet", *given, *own, *model])
        assert ended.exit_code == 0, ended.output
        assert len(judge.bodies) == 2 * (1 + 2)
    assert "2 without a judgement" in ended.stderr
    grades = json.loads((tmp_path / "grades.json").read_text())
    assert grades["v1_0"]["score"] == [0.5, 0.5]
    assert grades["v1_1"]["score"] == [None, None]
    assert grades["v1_1"]["status"] == ["unreadable", "unreadable"]
