"""What is read from a judge's review."""

import json

import pytest

from lavabeam.evaluation.scores import Review, parse_review, read_reviews, summary
from schemas.errors import InputError


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("8 10\nBoth answers are right.", (8.0, 10.0)),
        ("9 6.5", (9.0, 6.5)),
        ("8, 7\nThe second is shorter.", (8.0, 7.0)),
        ("\n7  9 \nTwo blanks between them.", (7.0, 9.0)),
        ("Assistant 1: 8\nAssistant 2: 9", None),
        ("8\n9", None),
        ("8 9 7\nThree.", None),
        ("-1 -1", None),
        ("nan inf", None),
        ("", None),
    ],
)
def test_scores_stand_on_the_first_line(text, scores):
    assert parse_review(text) == scores


def test_summary_is_a_ratio_of_means_without_the_unreadable():
    reviews = [Review("0", "conv", (8, 4)), Review("1", "conv", (2, 1)), Review("2", "detail", None)]
    found = summary(reviews)
    assert found["conv"] == {"reviews": 2, "unreadable": 0, "relative": 50.0, "first": 50.0, "second": 25.0}
    assert found["all"] == {"reviews": 3, "unreadable": 1, "relative": 50.0, "first": 50.0, "second": 25.0}
    assert found["detail"]["relative"] is None


def test_both_layouts_are_read_and_minus_one_is_no_score(tmp_path):
    rows = [
        {"question_id": 0, "category": "llava_bench_conv", "content": "8 6\nwords", "tuple": [8.0, 6.0]},
        {"question_id": 1, "text": "First I solve it. The scores are 10 and 4.", "score": [10, 4]},
        {"question_id": 2, "category": "llava_bench_conv", "content": "I cannot tell.", "tuple": [-1, -1]},
    ]
    path = tmp_path / "reviews.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert read_reviews(path) == [
        Review("0", "llava_bench_conv", (8.0, 6.0)),
        Review("1", "default", (10.0, 4.0)),
        Review("2", "llava_bench_conv", None),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not valid JSON"),
        ('{"question_id": 1}', "line 1: expected a review"),
        ('{"question_id": 1, "content": "8 6", "tuple": [8, 7]}', r"say \(8.0, 6.0\), the stored scores are"),
        ('{"question_id": 1, "content": "8 6", "tuple": "8 6"}', "expected two numbers"),
    ],
)
def test_a_line_that_is_no_review_is_named(tmp_path, line, message):
    path = tmp_path / "reviews.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        read_reviews(path)
