"""Accuracy by kind beside the best constant answer, over a mix or a file of questions with answers."""

import json

import pytest

from schemas.errors import InputError
from tests.trainer.conftest import picture, sample_row, write_mix
from tests.trainer.inference.conftest import questions_file
from trainer.inference.answer import Answerer
from trainer.inference.asked import Asked, questions_of
from trainer.inference.evaluate import choice, evaluate, plain, score
from trainer.inference.prompts import Answer


def test_score_counts_per_kind_beside_the_best_constant():
    asked = [Asked((), "q", answer, kind) for answer, kind in [("Yes", "y"), ("yes", "y"), ("no", "y"), ("red", "c")]]
    result = score(asked, ["yes", "no", " No. ", "blue"])
    assert (result["accuracy"], result["constant_baseline"]) == (0.5, 0.75)
    assert result["kinds"]["y"] == {
        "questions": 3,
        "accuracy": 0.6667,
        "constant_baseline": 0.6667,
        "constant_answer": "yes",
    }
    assert plain("  A  Cat. ") == "a cat"


def test_a_row_of_several_pictures_is_asked_about_them_all(tiny, reader, tmp_path):
    write_mix(tmp_path / "two", [sample_row(0, reader, "mistral", images=2)], reader)
    (first, *_) = questions_of(tmp_path / "two")
    assert len(first.images) == 2
    assert "not_asked" not in evaluate(tiny / "model", tmp_path / "two", max_tokens=4)


def test_a_turn_is_about_the_pictures_that_it_shows(tmp_path):
    turns = ["<image>\none?", "1", "still?", "yes", "<image>\ntwo?", "2", "both?", "yes"]
    speakers = ["human", "gpt"] * 4
    row = {"image": ["a.png", "b.png"]}
    row["conversations"] = [{"from": s, "value": t} for s, t in zip(speakers, turns, strict=True)]
    for name in row["image"]:
        (tmp_path / name).write_bytes(picture(1))
    (tmp_path / "q.json").write_text(json.dumps([row]))
    found = [[path.name for path in one.images] for one in questions_of(tmp_path / "q.json")]
    assert found == [["a.png"], ["a.png"], ["b.png"], ["a.png", "b.png"]]


def test_questions_that_cannot_be_asked_count_as_wrong_and_are_named(tiny, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows = [{"text": "red?", "answer": "no", "image": name} for name in ("a.png", "bad.png", "none.png")]
    rows += [{"text": "red? " * 400, "answer": "no"}, {"nothing": 1}]
    result = evaluate(tiny / "model", questions_file(tmp_path, rows), max_tokens=4)
    counts = {name: count for name, count in result["not_asked"].items() if name != "first"}
    assert counts == {"bad_picture": 1, "bad_question": 1, "no_picture": 1, "too_long": 1}
    assert result["questions"] == 5 and result["accuracy"] <= 0.2
    with pytest.raises(InputError, match="none of 1 questions can be asked"):
        evaluate(tiny / "model", questions_file(tmp_path, rows[1:2]), max_tokens=4)


def test_an_answer_may_come_after_its_reasons(tiny, monkeypatch):
    """ScienceQA's recipe trains reasons first: more than a few tokens must be read."""
    given = {}
    monkeypatch.setattr(
        Answerer, "answer", lambda self, prompts, most, *_: given.setdefault("most", most) and [Answer("A")]
    )
    evaluate(tiny / "model", [Asked((), "q", "Because. The answer is A.", "sqa")])
    assert given["most"] >= 512


def test_every_turn_of_a_mix_is_a_question(tiny, mix):
    result = evaluate(tiny / "model", mix, max_tokens=4)
    assert result["questions"] == 36
    assert list(result["kinds"]) == ["test"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(C)", "C"),
        (" B. ", "B"),
        ("B. the red one", "B"),
        ("It shines, so the answer is D. Because", "D"),
        ("The answer is (A).", "A"),
        ("A cat", None),
        ("Both", None),
        ("b", None),
        ("", None),
    ],
)
def test_an_option_is_known_by_its_letter(text, letter):
    assert choice(text) == letter


def test_letters_are_compared_where_the_answer_is_one():
    asked = [Asked((), "q", "The answer is B.", "sqa")] * 3 + [Asked((), "q", "A cat", "vqa")]
    result = score(asked, ["B. the red one", "The answer is A.", "blue", "A. A cat"])
    assert (result["kinds"]["sqa"]["accuracy"], result["kinds"]["sqa"]["constant_answer"]) == (0.3333, "B")
    assert result["kinds"]["vqa"]["accuracy"] == 0


SCIENCE = [
    {"id": "1", "conversations": [{"from": "human", "value": "Which? Options: (A) red (B) blue"}]},
    {"id": "2", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhich? (A) red (B) blue"}]},
]


def test_rows_of_llava_and_lines_with_answers_are_questions(tiny, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    rows = [
        {**row, "conversations": [*row["conversations"], {"from": "gpt", "value": "The answer is A."}]}
        for row in SCIENCE
    ]
    (tmp_path / "sqa.json").write_text(json.dumps(rows))
    found = list(questions_of(tmp_path / "sqa.json"))
    assert [(one.images, one.question) for one in found] == [
        ((), "Which? Options: (A) red (B) blue"),
        ((tmp_path / "a.png",), "<image>\nWhich? (A) red (B) blue"),
    ]
    lines = [
        {"text": "is it red?", "answer": "no", "image": "a.png", "category": "yes/no"},
        {"text": "q", "answer": "B"},
    ]
    (tmp_path / "vqa.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [one.kind for one in questions_of(tmp_path / "vqa.jsonl")] == ["yes/no", "all"]
    assert evaluate(tiny / "model", tmp_path / "sqa.json")["questions"] == 2
    assert list(evaluate(tiny / "model", tmp_path / "vqa.jsonl", images=tmp_path)["kinds"]) == ["all", "yes/no"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"text": "a"}]', "expected `conversations`"),
        ("{", "not valid JSON"),
        ('{"a": 1}', "expected `conversations`"),
        ("[3]", "expected an object"),
        ('[{"text": "a", "answer": "b", "image": "no.png"}]', "no such image file"),
        ("[]", "no question"),
    ],
)
def test_bad_evaluation_files_are_reported(tiny, tmp_path, text, words):
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(InputError, match=words):
        evaluate(tiny / "model", tmp_path / "q.json")
