"""Summaries of review files in LLaVA's layouts and in ours."""

import json

import pytest

from lavabeam.evaluation.review.summary import position_bias, summarise
from lavabeam.evaluation.scores import Review
from schemas.errors import InputError


def reviewed(path, scores, category="conv", answers="model"):
    rows = [
        {
            "question_id": number,
            "answer1_id": "r",
            "answer2_id": f"{answers}-{number}",
            "category": category,
            "content": "" if pair is None else f"{pair[0]} {pair[1]}\nBecause.",
            "tuple": [-1, -1] if pair is None else list(pair),
        }
        for number, pair in enumerate(scores)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_runs_over_the_same_answers_are_known_by_their_ids(tmp_path):
    paths = [reviewed(tmp_path / f"{number}.jsonl", [(10, number), (10, 6)]) for number in (4, 8)]
    paths.append(reviewed(tmp_path / "other.jsonl", [(10, 1), (10, 1)], answers="other"))
    found = summarise(paths)
    assert [one["categories"]["all"]["published"] for one in found["files"]] == [50.0, 70.0, 10.0]
    (runs,) = found["runs"]
    assert runs["files"] == [str(path) for path in paths[:2]]
    assert runs["categories"]["conv"]["mean"] == 60.0


def test_the_marks_of_unreadable_judgements_are_in_no_mean(tmp_path):
    (one,) = summarise([reviewed(tmp_path / "a.jsonl", [(8, 4), None])])["files"]
    assert (one["categories"]["all"]["published"], one["categories"]["all"]["unreadable"]) == (50.0, 1)


def test_the_published_figure_rounds_the_means_first(tmp_path):
    """LLaVA-Bench's detail of the 13B model: 139/15 over 264/30."""
    scores = [(9, 5)] * 12 + [(8, 3)] * 2 + [(8, 3.5)]
    (one,) = summarise([reviewed(tmp_path / "a.jsonl", scores)])["files"]
    figures = one["categories"]["all"]
    assert figures["relative"] == pytest.approx(52.6515, abs=1e-3)
    assert figures["published"] == 52.6


def test_ignored_questions_must_be_there(tmp_path):
    path = reviewed(tmp_path / "a.jsonl", [(10, 5), (10, 7)])
    assert summarise([path], ["1"])["files"][0]["categories"]["all"]["published"] == 50.0
    with pytest.raises(InputError, match=r"no review of question 1 \(9\)"):
        summarise([path], ["9"])


def test_bad_files_are_one_clear_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        summarise([tmp_path / "none"])
    with pytest.raises(InputError, match="holds no review files"):
        summarise([tmp_path])
    path = reviewed(tmp_path / "a.jsonl", [(10, 5)])
    path.write_text(path.read_text() * 2)
    with pytest.raises(InputError, match=r"two reviews of 1 \(0\) questions"):
        summarise([path])


def test_position_bias_counts_questions_that_have_both_orders():
    straight = [Review("a", "c", (8, 6)), Review("b", "c", (5, 5)), Review("c", "c", None), Review("d", "c", (9, 1))]
    turned = [Review("a", "c", (7, 7)), Review("b", "c", (6, 4)), Review("c", "c", (1, 1)), Review("d", "c", None)]
    # a: the reference gains 1, the answer 1; b: 1 and 1. a's winner becomes a draw, b's draw a win of the answer.
    assert position_bias(straight, turned) == {"questions": 2, "first_gains": 1.0, "changed": 1.0}
    assert position_bias(straight, []) == {"questions": 0, "first_gains": None, "changed": None}
