"""Questions, answers and contexts are joined by what names them, and what does not fit is refused."""

import json

import pytest

from lavabeam.evaluation.review.pairs import read_pairs
from lavabeam.evaluation.review.rules import read_rules, rule_of
from schemas.errors import InputError

TEXTS = [{"question_id": 7, "text": "Why?", "category": "generic"}, {"question_id": 3, "text": "How?"}]
QUESTIONS = [
    {"question_id": 7, "image": "b.jpg", "text": "What is it?", "category": "conv"},
    {"question_id": 3, "image": "a.jpg", "text": "Describe it.", "category": "detail"},
]
BOXES = [
    {
        "image": "a.jpg",
        "captions": ["A cat.", "A tabby."],
        "instances": [{"category": "cat", "bbox": [0.1, 0, 0.5, 1]}],
    },
    {"image": "b.jpg", "captions": ["A dog."], "instances": []},
]


@pytest.fixture
def files(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def answers(*ids, **more):
    return [{"question_id": one, "text": f"answer {one}", **more} for one in ids]


def test_answers_are_joined_by_id_and_not_by_line(files):
    found = read_pairs(
        files("q", QUESTIONS), files("a", answers(3, 7)), files("r", answers("7", "3")), files("c", BOXES)
    )
    assert [(one.question_id, one.answer.text, one.reference.text) for one in found] == [
        (7, "answer 7", "answer 7"),
        (3, "answer 3", "answer 3"),
    ]
    assert [one.context.text for one in found] == ["A dog.", "A cat.\nA tabby.\n\ncat: [0.1, 0, 0.5, 1]"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (answers(7), "of 2 answers by question_id 1 (3) missing"),
        (answers(7, 3, 9), "1 (9) of no question in the file"),
        (answers(7, 3, 3), "1 (3) given twice"),
        ([{"question_id": 7}], "a, line 1: no 'text'"),
        ([{"question_id": 7, "text": 5}], "a, line 1: text is 5"),
    ],
)
def test_answers_that_do_not_fit_are_refused(files, given, said):
    with pytest.raises(InputError) as error:
        read_pairs(files("q", TEXTS), files("a", given), files("r", answers(7, 3)), None)
    assert said in str(error.value)


def test_a_question_twice_and_a_picture_without_context_are_refused(files):
    both = files("a", answers(7, 3))
    with pytest.raises(InputError, match="question_id 7 already exists"):
        read_pairs(files("q", [*QUESTIONS, QUESTIONS[0]]), both, both, None)
    with pytest.raises(InputError, match=r"about picture b.jpg, for which the judge has no context"):
        read_pairs(files("q", QUESTIONS), both, both, None)
    with pytest.raises(InputError, match=r"picture a.jpg is not in .*, which has 1"):
        read_pairs(files("q", QUESTIONS), both, both, files("c", BOXES[1:]))
    other = {**BOXES[0], "captions": ["A cow."]}
    with pytest.raises(InputError, match="a different context"):
        read_pairs(files("q", QUESTIONS), both, both, files("c", [*BOXES, other]))
    with pytest.raises(InputError, match="expected category and bbox"):
        read_pairs(files("q", QUESTIONS), both, both, files("c", [{**BOXES[0], "instances": [{"category": "x"}]}]))


def test_a_question_that_the_model_did_not_answer_keeps_its_place(files):
    given = answers(7, 3)
    given[0]["metadata"] = {"status": "no_picture", "detail": "no such file"}
    found = read_pairs(files("q", TEXTS), files("a", given), files("r", answers(7, 3)), None)
    assert [one.answer.missing for one in found] == ["no_picture: no such file", ""]


def test_the_rule_of_a_category_goes_by_what_the_context_holds(tmp_path):
    rules = read_rules(None)
    assert rule_of(rules, "conv", boxes=True, sentences=True, where="q")[0] == "conv"
    assert rule_of(rules, "conv", boxes=False, sentences=True, where="q")[0] == "llava_bench_conv"
    assert rule_of(rules, "roleplay", boxes=False, sentences=False, where="q")[0] == "default"
    with pytest.raises(InputError, match="q: no rule for category 'roleplay'"):
        rule_of(rules, "roleplay", boxes=True, sentences=True, where="q")
    own = tmp_path / "rule.json"
    own.write_text('{"conv": {"role": "Writer", "prompt": "Compare."}}')
    assert rule_of(read_rules(own), "conv", False, True, "q")[1].role == "Writer"
    own.write_text('{"conv": "Compare."}')
    with pytest.raises(InputError, match="expected `role` and `prompt`"):
        read_rules(own)
