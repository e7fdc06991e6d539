"""Benchmarks that a judge scores, on small files of their layouts: LLaVA-Bench, MM-Vet."""

import json

import pytest

from schemas.errors import InputError
from tests.lavabeam.evaluation.files import asked, lines, run, values, whole


def review(question, first, second, **more):
    return {"question_id": question, "category": "llava_bench_conv", "content": f"{first} {second}\nwords", **more}


def test_llava_bench_is_a_mean_of_runs_and_minus_one_enters_none(tmp_path):
    questions = lines(tmp_path / "q.jsonl", *({"question_id": n, "image": "1.jpg", "text": f"q{n}"} for n in (0, 1)))
    answers = lines(tmp_path / "a.jsonl", *({"question_id": n, "prompt": f"q{n}", "text": "x"} for n in (0, 1)))
    first = lines(tmp_path / "r1.jsonl", review(0, 10, 5), review(1, 10, 7))
    unreadable = {**review(1, 0, 0), "content": "I cannot say.", "tuple": [-1, -1]}
    second = lines(tmp_path / "r2.jsonl", review(0, 8, 8), unreadable)
    report = run("llava-bench", questions, answers, reviews=(first, second))
    assert report["runs"] == pytest.approx([60, 100])
    assert (values(report), report["unreadable"]) == ({"relative": 80}, 1)
    with pytest.raises(InputError, match=r"r1.jsonl: no review of 1 of 2 questions"):
        run("llava-bench", questions, answers, reviews=(lines(tmp_path / "r1.jsonl", review(0, 10, 5)),))
    with pytest.raises(InputError, match="scored by reviews"):
        run("llava-bench", questions, answers)


def test_mm_vet_by_capability(tmp_path):
    needs = (["ocr", "math"], ["rec"])
    official = {
        f"v1_{n}": {"imagename": f"v1_{n}.png", "question": f"what is {n}?", "answer": "x", "capability": need}
        for n, need in enumerate(needs)
    }
    path = whole(tmp_path / "mm-vet.json", official)
    assert asked("mm-vet", path, "lmms-eval")[0].text.startswith("First please perform reasoning")
    llava = lines(
        tmp_path / "q.jsonl",
        *({"question_id": n, "image": f"v1_{n}.png", "text": f"what is {n}?"} for n in (0, 1)),
    )
    answers = lines(tmp_path / "a.jsonl", *({"question_id": n, "text": f"t{n}"} for n in (0, 1)))
    grades = {f"v1_{n}": {"score": scores} for n, scores in enumerate(([0.2, 0.4], [1.0, 1.0]))}
    graded = whole(tmp_path / "grade.json", grades)
    report = run("mm-vet", llava, answers, truth=path, reviews=(graded,), upload=tmp_path / "up.json")
    assert values(report) == {"score": 65}
    found = {name: round(one["score"]["value"]) for name, one in report["categories"].items()}
    assert found == {"math": 30, "ocr": 30, "math+ocr": 30, "rec": 100}
    assert json.loads((tmp_path / "up.json").read_text()) == {"v1_0": "t0", "v1_1": "t1"}
    run("mm-vet", path, tmp_path / "up.json", truth=path, reviews=(graded,))
    with pytest.raises(InputError, match="no grade of v1_1"):
        run("mm-vet", llava, answers, truth=path, reviews=(whole(tmp_path / "g.json", {"v1_0": {"score": [1]}}),))
