"""Benchmarks of short answers, on small files of their layouts: VQAv2, GQA, VizWiz, TextVQA, Easy-VQA."""

import json

import pytest

from lavabeam.evaluation.question import ONE_WORD
from schemas.errors import InputError
from tests.lavabeam.evaluation.files import asked, lines, run, values, whole


def test_vqav2_from_official_files_to_the_upload_over_all_of_test2015(tmp_path):
    rows = [{"question_id": n, "image_id": 9, "question": f"what is {n}?"} for n in (91, 92)]
    questions = whole(tmp_path / "q.json", {"data_subtype": "val2014", "questions": rows})
    first = asked("vqav2", questions)[0]
    assert (first.image, first.text) == ("COCO_val2014_000000000009.jpg", f"what is 91?\n{ONE_WORD}")
    people = [["two"] * 3 + ["cat"] * 7, ["red"] * 10]
    kinds = ("number", "other")
    annotations = [
        {**row, "answer_type": kind, "answers": [{"answer": one, "answer_id": n} for n, one in enumerate(said)]}
        for row, said, kind in zip(rows, people, kinds, strict=True)
    ]
    truth = whole(tmp_path / "t.json", {"annotations": annotations})
    answers = lines(tmp_path / "a.jsonl", {"question_id": 92, "text": "Red"}, {"question_id": 91, "text": "2."})
    report = run("vqav2", questions, answers, truth=truth)
    assert values(report) == {"accuracy": 95}
    assert {name: round(one["accuracy"]["value"]) for name, one in report["categories"].items()} == {
        "number": 90,
        "other": 100,
    }
    dev = lines(
        tmp_path / "dev.jsonl", {"question_id": 91, "image": "COCO_test2015_9.jpg", "text": f"what?\n{ONE_WORD}"}
    )
    answer = lines(tmp_path / "b.jsonl", {"question_id": 91, "text": "Two dogs."})
    with pytest.raises(InputError, match=r"447,793 questions of test2015.*--upload-questions"):
        run("vqav2", dev, answer, upload=tmp_path / "up.json")
    every = lines(tmp_path / "all.jsonl", *({"question_id": n, "text": "what?", "image": "x"} for n in (90, 91)))
    run("vqav2", dev, answer, upload=tmp_path / "up.json", upload_questions=every)
    upload = json.loads((tmp_path / "up.json").read_text())
    assert upload == [{"question_id": 90, "answer": ""}, {"question_id": 91, "answer": "2 dogs"}]


def test_gqa_is_exact_and_open_questions_are_those_of_type_query(tmp_path):
    official = {
        "20": {"question": "Is it red?", "answer": "no", "imageId": "n1", "types": {"structural": "verify"}},
        "21": {"question": "What is it?", "answer": "t-shirt", "imageId": "n1", "types": {"structural": "query"}},
    }
    truth = whole(tmp_path / "testdev_balanced_questions.json", official)
    answers = lines(tmp_path / "a.jsonl", {"question_id": "20", "text": "No."}, {"question_id": "21", "text": "tshirt"})
    report = run("gqa", truth, answers, upload=tmp_path / "up.json")
    assert values(report) == {"accuracy": 50, "binary": 100, "open": 0}
    assert values(run("gqa", truth, answers, protocol="lmms-eval")) == {"accuracy": 100, "binary": 100, "open": 100}
    assert json.loads((tmp_path / "up.json").read_text())[0] == {"questionId": "20", "prediction": "no"}
    assert asked("gqa", truth)[0].image == "n1.jpg"
    # the upload is read as answers, and other questions with the same ids are refused
    assert values(run("gqa", truth, tmp_path / "up.json"))["binary"] == 100
    official["20"]["question"] = "Is the car on the left?"
    other = whole(tmp_path / "train_questions.json", official)
    questions = lines(tmp_path / "q.jsonl", {"question_id": "20", "image": "n1.jpg", "text": f"Is it red?\n{ONE_WORD}"})
    only = lines(tmp_path / "b.jsonl", {"question_id": "20", "text": "No."})
    with pytest.raises(InputError, match=r"train_questions.json: of another version: for id 20"):
        run("gqa", questions, only, truth=other)


def test_vizwiz_is_joined_by_picture(tmp_path):
    val = whole(
        tmp_path / "val.json",
        [
            {
                "image": "v_1.jpg",
                "question": "what is it?",
                "answer_type": "other",
                "answers": [{"answer": one, "answer_confidence": "yes"} for one in ["Cola", "cola", *["can"] * 8]],
            }
        ],
    )
    question = asked("vizwiz", val)[0]
    assert question.text.startswith("what is it?\nWhen the provided information is insufficient, respond with")
    assert asked("vizwiz", val, "lmms-eval")[0].text.startswith("What is it?\nWhen")
    llava = lines(tmp_path / "q.jsonl", {"question_id": 0, "image": "v_1.jpg", "text": question.text})
    answers = lines(tmp_path / "a.jsonl", {"question_id": 0, "prompt": question.text, "text": "Cola"})
    report = run("vizwiz", llava, answers, truth=val, upload=tmp_path / "up.json")
    assert values(report) == {"accuracy": 60}
    assert json.loads((tmp_path / "up.json").read_text()) == [{"image": "v_1.jpg", "answer": "cola"}]
    assert values(run("vizwiz", llava, tmp_path / "up.json", truth=val)) == {"accuracy": 60}


def test_textvqa_is_joined_by_picture_and_question(tmp_path):
    def ask(question):
        return f"{question}\nReference OCR token: A, B\n{ONE_WORD}"

    names = ("What is it?", "Who made it?")
    rows = [{"question_id": "p1", "image": "p1.jpg", "text": ask(name)} for name in names]
    questions = lines(tmp_path / "q.jsonl", *rows)
    answers = lines(
        tmp_path / "a.jsonl",
        *(
            {"question_id": "p1", "prompt": ask(name), "text": text}
            for name, text in zip(names[::-1], "yx", strict=True)
        ),
    )
    data = [
        {"image_id": "p1", "question_id": n, "question": name.lower(), "answers": [text] * 10}
        for n, (name, text) in enumerate(zip(names, "xz", strict=True))
    ]
    truth = whole(tmp_path / "TextVQA_0.5.1_val.json", {"data": data})
    assert values(run("textvqa", questions, answers, truth=truth)) == {"accuracy": 50}
    with pytest.raises(InputError, match="hold no OCR words"):
        asked("textvqa", truth)
    without = asked("textvqa", truth, "lmms-eval")
    assert without[0].text == f"What is it?\n{ONE_WORD}"
    assert asked("textvqa", questions, "lmms-eval")[0].text == without[0].text
    half = whole(tmp_path / "half.json", {"data": data[:1]})
    with pytest.raises(InputError, match=r"half.json: has no truth for 1 of 2 questions"):
        run("textvqa", questions, answers, truth=half)
    assert values(run("textvqa", questions, answers, truth=half, allowed={"unscored": True})) == {"accuracy": 100}


def test_easy_vqa_in_its_published_layout(tmp_path):
    path = whole(tmp_path / "questions.json", [["is it red?", "yes", 3], ["what color is it?", "red", 3]])
    answers = lines(tmp_path / "a.jsonl", {"question_id": 0, "text": "Yes."}, {"question_id": 1, "text": "blue"})
    report = run("easy-vqa", path, answers)
    assert values(report) == {"accuracy": 50}
    assert {name: one["accuracy"]["value"] for name, one in report["categories"].items()} == {"yesno": 100, "color": 0}
