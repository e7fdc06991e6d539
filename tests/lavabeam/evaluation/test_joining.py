"""Questions, answers and truths are joined by what they are about."""

import random

import pytest

from lavabeam.evaluation.joining import Allowed, Truth, check_ids, with_answers, with_truths
from lavabeam.evaluation.question import Answered, Given, Question
from schemas.errors import InputError

QUESTIONS = [
    Question(str(number), f"what is {number}?\n", f"what is {number}?", f"{number}.jpg") for number in range(5)
]


def given(number: int, **more) -> Given:
    return Given(str(number), f"answer {number}", where=f"a.jsonl, row {number}", **more)


def texts(answers, **allowed):
    return [row.text for row in with_answers(QUESTIONS, answers, Allowed(**allowed)).rows]


def test_the_order_of_answers_is_of_no_matter():
    answers = [given(number, prompt=f"what is {number}?") for number in range(5)]
    random.Random(0).shuffle(answers)
    assert texts(answers) == [f"answer {number}" for number in range(5)]


def test_missing_doubled_and_foreign_answers_are_counted_and_refused():
    answers = [given(0), given(1), given(1), given(7), Given("2", "", reason="no_picture: x", where="w")]
    with pytest.raises(InputError) as error:
        texts(answers)
    for words in (
        "1 foreign",
        "first a.jsonl, row 7",
        "1 doubled",
        "3 of 5 missing",
        "no_picture: x",
        "--allow-missing",
    ):
        assert words in str(error.value)
    everything = {"missing": True, "doubled": True, "foreign": True}
    joined = with_answers(QUESTIONS, answers, Allowed(**everything))
    assert [row.text for row in joined.rows] == ["answer 0", "answer 1", None, None, None]
    assert joined.counts == {"questions": 5, "answered": 2, "missing": 3, "doubled": 1, "foreign": 1, "blank": 0}


def test_answers_of_another_benchmark_are_refused_though_their_ids_fit():
    with pytest.raises(InputError, match=r"none of 5 questions.*another benchmark.*how many dogs"):
        texts([given(number, prompt="how many dogs are there?") for number in range(5)], missing=True, foreign=True)


def test_one_answer_to_another_question_is_foreign():
    answers = [given(number, prompt=f"what is {number}?") for number in range(4)]
    with pytest.raises(InputError, match="1 foreign"):
        texts([*answers, given(4, prompt="is it red?")], missing=True)


def test_a_question_that_is_listed_twice_takes_two_answers():
    twice = [*QUESTIONS, QUESTIONS[2]]
    answers = [given(number) for number in (0, 1, 2, 3, 4, 2)]
    assert with_answers(twice, answers, Allowed()).counts["doubled"] == 0
    assert [row.text for row in with_answers(twice, answers, Allowed()).rows][5] == "answer 2"


def test_question_ids_that_come_twice_are_named_with_what_differs():
    other = Question("2", "who is 2?\n", "who is 2?", "9.jpg")
    with pytest.raises(InputError, match=r"q.jsonl: 1 questions have the id .* id 2 is 'what is 2\?' .*'who is 2\?'"):
        check_ids([*QUESTIONS, QUESTIONS[1], other], "q.jsonl", lambda one: one.id)
    with pytest.raises(InputError, match=r"q.jsonl: 2 questions are listed again.*id 1, 'what is 1\?'. Remove"):
        check_ids([*QUESTIONS, QUESTIONS[1], QUESTIONS[2]], "q.jsonl", lambda one: one.id)
    check_ids([*QUESTIONS, other], "q.jsonl", lambda one: (one.id, one.stem))


def test_blank_answers_alone_are_no_result():
    with pytest.raises(InputError, match="all 5 answers are blank"):
        texts([Given(str(number), " ", where="w") for number in range(5)])


def test_ids_that_repeat_need_the_prompt():
    questions = [Question("p", f"{word}?", f"{word}?") for word in ("red", "blue")]
    answers = [Given("p", word, f"{word}?\nmore", where="w") for word in ("blue", "red")]
    found = with_answers(questions, answers, Allowed(), words=lambda text: text.partition("\n")[0])
    assert [row.text for row in found.rows] == ["red", "blue"]
    with pytest.raises(InputError, match="has no prompt"):
        with_answers(questions, [Given("p", "red", where="w")], Allowed(), words=str)


def test_a_truth_of_another_version_is_named():
    rows = [Answered(question, "x") for question in QUESTIONS]
    truths = {str(number): Truth("x", f"what is {number}?") for number in range(5)}

    def joined(found, **allowed):
        return with_truths(rows, found, lambda question: question.id, "truth.json", Allowed(**allowed))

    assert [row.truth for row in joined(truths)] == ["x"] * 5
    with pytest.raises(InputError, match=r"truth.json: of another version: for id 2 it has 'where\?'"):
        joined({**truths, "2": Truth("x", "where?")})
    short = {"0": truths["0"]}
    with pytest.raises(InputError, match=r"truth.json: has no truth for 4 of 5 questions.*--allow-unscored"):
        joined(short)
    assert len(joined(short, unscored=True)) == 1
    with pytest.raises(InputError, match="5 of 5 questions"):
        joined({}, unscored=True)
