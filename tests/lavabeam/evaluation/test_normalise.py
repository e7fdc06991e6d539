"""Answers as EvalAI's processor writes them, and soft accuracy."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavabeam.evaluation.normalise import challenge, evalai
from lavabeam.evaluation.vqa import challenge_accuracy, soft_accuracy


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Hershey's", "hershey 's"),
        ("A/B", "b"),
        ("none", "0"),
        ("Two dogs.", "2 dogs"),
        ("the cat, a dog", "cat dog"),
        ("dont", "don't"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("half-and-half", "half and half"),
        ("x -ray", "x ray"),
        ("What?\n", "what"),
        ("." * 40, "." * 8),
    ],
)
def test_evalai(text, normal):
    assert evalai(text) == normal


def test_the_challenge_itself_has_no_word_step():
    assert challenge("Hershey's") == "hershey's"
    assert challenge("1,000-2") == "10002"  # a comma in a number removes all marks
    assert challenge("a,b") == "b"


def by_the_book(answer: str, people: list[str]) -> float:
    """Each person left out in turn."""
    left_out = [people[:number] + people[number + 1 :] for number in range(len(people))]
    return sum(min(1, others.count(answer) / 3) for others in left_out) / len(people)


@given(st.sampled_from("ab"), st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_soft_accuracy_is_the_mean_over_all_but_one(answer, people):
    assert soft_accuracy(answer, people) == pytest.approx(by_the_book(answer, people))


def test_the_ten_people_of_vqa():
    scores = {matches: soft_accuracy("x", ["x"] * matches + ["y"] * (10 - matches)) for matches in range(6)}
    assert scores == pytest.approx({0: 0, 1: 0.3, 2: 0.6, 3: 0.9, 4: 1, 5: 1})


def test_the_challenge_normalises_only_where_people_disagree():
    assert challenge_accuracy("0", ["none"] * 10) == 0
    assert challenge_accuracy("0", ["none"] * 9 + ["nothing"]) == 1
    assert challenge_accuracy("none", ["none"] * 9 + [" none\n"]) == 1


@given(st.text(alphabet="aA1 ,.'-/the", max_size=20))
def test_an_answer_that_was_normalised_has_no_capitals_and_single_blanks(text):
    normal = evalai(text)
    assert normal == normal.lower() and normal == " ".join(normal.split())


def test_matches_need_both_sides_normalised():
    for left, right in product(("Two.", "two", "2"), repeat=2):
        assert soft_accuracy(evalai(left), [evalai(right)] * 10) == 1
