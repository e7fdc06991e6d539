"""Scores of single answers, and the figures of a set, beside values that other code gives."""

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from lavabeam.evaluation.custom.cider import cider_d, words
from lavabeam.evaluation.custom.metrics import METRICS, find_metric, letter_of, table_of
from lavabeam.evaluation.custom.significance import exact_test
from lavabeam.evaluation.question import Answered, Question
from lavabeam.evaluation.table import figures
from schemas.errors import InputError

CAPTIONS = ["a man riding a wave on a surfboard", "a cat on a chair", "a dog in the snow"]
PEOPLE = [
    ["a man riding a wave on top of a surfboard", "a surfer rides a large wave"],
    ["a cat sitting on a red chair", "the cat is on the chair"],
    ["two dogs play in the snow", "dogs run through deep snow"],
]


def rows(*pairs):
    """(answer, references) each."""
    return [
        Answered(Question(str(number), "q", "q"), answer, (truth,) if isinstance(truth, str) else tuple(truth))
        for number, (answer, truth) in enumerate(pairs)
    ]


def scores(metric, *pairs):
    return METRICS[metric].columns(rows(*pairs))[:, 0].tolist()


def test_exact_answers_may_differ_in_case_blanks_and_a_full_stop():
    assert scores("exact", (" A  Cat.", "a cat"), ("cats", "a cat"), ("b", ["a", "b"]), (None, "a")) == [1, 0, 1, 0]


def test_choices_are_compared_by_their_letters():
    assert scores("choice", ("B. red", "B"), ("The answer is (C).", "C"), ("red", "A"), (None, "A")) == [1, 1, 0, 0]
    with pytest.raises(InputError, match="question 0: the reference 'red' is not an option's letter"):
        scores("choice", ("A", "red"))


def test_vqa_accuracy_takes_the_answers_of_people():
    people = ["red"] * 3 + ["pink"] * 7
    assert scores("vqa", ("Red.", people), ("pink", people), (None, people)) == pytest.approx([0.9, 1, 0])
    with pytest.raises(InputError, match="needs the answers of at least 4 people"):
        scores("vqa", ("red", "red"))


def test_token_f1_is_squads():
    # "the red car" and "a car, red!" have the same words without articles; "red bus" shares one of two.
    found = scores("f1", ("the red car", "a car, red!"), ("red bus", "red car"), ("", "car"), ("the", "the a car"))
    assert found == [1, 0.5, 0, 0]


def test_cider_equals_the_coco_caption_evaluation():
    """pycocoevalcap 1.2's Cider gives these values for the same words."""
    assert cider_d(CAPTIONS, PEOPLE) == pytest.approx([3.55531509, 2.21587794, 1.85853781], abs=1e-8)
    assert find_metric("cider").most == 10
    (value,) = figures(table_of(METRICS["cider"], rows(*zip(CAPTIONS, PEOPLE, strict=True))))["scores"].values()
    assert value["value"] == pytest.approx(254.3243614, abs=1e-6)


@given(
    st.lists(
        st.lists(st.sampled_from(["red", "blue", "cat", "dog", "sits", "on", "mat"]), min_size=4),
        min_size=2,
        max_size=8,
    )
)
def test_cider_is_ten_for_the_only_reference_where_its_words_tell_it_apart(captions):
    texts = [f"{' '.join(one)} number{place} is{place} told{place} apart{place}" for place, one in enumerate(captions)]
    for score in cider_d(texts, [[text] for text in texts]):
        assert score == pytest.approx(10)
    assert all(0 <= score < 10 for score in cider_d(texts, [[text] for text in [*texts[1:], texts[0]]]))


def test_words_are_split_as_in_the_penn_treebank():
    assert words("Don't stop: it's a cat's toy (red).") == (
        "do",
        "n't",
        "stop",
        "it",
        "'s",
        "a",
        "cat",
        "'s",
        "toy",
        "red",
    )


def test_bleu_is_sacrebleus():
    said = ["the cat sat on the mat today", "a dog ran in the big park"]
    wanted = [
        ["The cat sat on the mat.", "A cat was on the mat today"],
        ["A dog ran in the park", "the dog ran in a park"],
    ]
    official = sacrebleu.BLEU(lowercase=True).corpus_score(said, list(map(list, zip(*wanted, strict=True)))).score
    found = figures(table_of(METRICS["bleu"], rows(*zip(said, wanted, strict=True))))["scores"]["bleu"]
    assert found["value"] == pytest.approx(official)
    assert found["low"] <= found["value"] <= found["high"]
    assert figures(table_of(METRICS["bleu"], rows(("x", "a b c d e"), (None, "y"))))["scores"]["bleu"]["value"] == 0


def test_rouge_takes_the_best_reference():
    # LCS "police killed the gunman": 3 of 4 and 3 of 4 words (Lin 2004, section 3.1).
    assert scores("rouge", ("police kill the gunman", ["x", "police killed the gunman"]), (None, "a")) == [0.75, 0]


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'rouge'"):
        find_metric("rogue")


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [(0, 0, 1), (3, 3, 1), (1, 5, 0.21875), (10, 3, 0.09228515625), (20, 40, 0.0134892937317), (500, 600, 0.00281954)],
)
def test_mcnemars_exact_test_gives_scipys_binomial_values(first, second, p):
    assert exact_test(first, second) == pytest.approx(p, rel=1e-5)
    assert exact_test(second, first) == exact_test(first, second)


def test_every_metric_scores_nothing_for_no_answer():
    for name, metric in METRICS.items():
        truth = ["A"] * 4
        assert np.all(metric.columns(rows((None, truth), (None, truth)))[:, 0] == 0), name


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("**B**", "B"),
        ("(B) a dog", "B"),
        ("Answer: B", "B"),
        ("The correct answer is B.", "B"),
        ("B\nbecause it barks", "B"),
        ("the answer is B or C", None),
        ("The answer is A. No, the answer is B.", None),
        ("A dog", None),
        ("answer: a cat", None),
        ("", None),
    ],
)
def test_the_letter_of_an_answer(text, letter):
    assert letter_of(text) == letter


def test_a_reference_that_f1_empties_is_compared_as_it_is():
    rows = [Answered(Question("q", "?", "?", None, "all", ("A",)), text, ("A",)) for text in ("", "B", "a")]
    assert METRICS["f1"].columns(rows)[:, 0].tolist() == [0.0, 0.0, 1.0]
