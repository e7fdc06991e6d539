"""Questions of custom sets out of every source, and what cannot be one."""

import json

import pyarrow as pa
import pytest

from lavabeam.evaluation.custom.benchmark import Custom
from lavabeam.evaluation.custom.sets import read_set
from lavabeam.evaluation.run import Files, Settings, evaluate_answers, read_questions
from schemas.errors import InputError
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset

PNG = b"\x89PNG\r\n\x1a\n a picture"


def said(role, *parts):
    kinds = [("image", None) if part is None else ("text", part) for part in parts]
    return {"role": role, "content": [{"type": kind, "text": text} for kind, text in kinds]}


TALK = [
    said("user", None, "What is it?"),
    said("assistant", "A cat."),
    said("user", "Colour?"),
    said("assistant", "red"),
]


@pytest.fixture
def talks(tmp_path):
    images = [{"key": "a.png", "image": {"bytes": PNG, "path": None}}]
    fields = [BASE["images"].field("key"), *STORED_IMAGE[:1]]
    write_dataset(tmp_path / "photos", "images", [pa.Table.from_pylist(images, pa.schema(fields))])
    rows = [
        {"key": "t", "image_keys": ["a.png"], "messages": TALK, "kind": "vqa", "status": "ok"},
        {"key": "u", "image_keys": [], "messages": TALK[2:3], "status": "ok"},
        {"key": "v", "image_keys": [], "messages": None, "status": "refused"},
    ]
    write_dataset(tmp_path / "talks", "conversations", [pa.Table.from_pylist(rows, BASE["conversations"])])
    return tmp_path / "talks"


def test_every_answered_turn_of_a_conversation_is_a_question(talks, tmp_path):
    found = read_set(talks, tmp_path / "photos")
    assert [(one.id, one.stem, one.truth, one.category) for one in found.questions] == [
        ("t", "What is it?", ("A cat.",), "vqa"),
        ("t#2", "Colour?", ("red",), "vqa"),
    ]
    assert found.left == {"not_answered": 1, "refused": 1}
    assert found.sources(0) == found.sources(1) == (PNG,)
    with pytest.raises(InputError, match=r"names no images dataset: no picture 'a.png'. Give .* with --images"):
        read_set(talks).sources(0)


def test_samples_bring_their_pictures(tmp_path):
    empty = {"image_count": 0, "image_tokens": 0, "tokens": 1, "supervised_tokens": 1, "kind": None}
    image = {"bytes": PNG, "path": None}
    rows = [
        {"key": "s", **empty, "images": [image], "image_count": 1, "messages": TALK[:2]},
        {"key": "w", **empty, "images": [], "messages": TALK[2:]},
    ]
    write_dataset(tmp_path / "mix", "samples", [pa.Table.from_pylist(rows, BASE["samples"])])
    found = read_set(tmp_path / "mix")
    assert [(found.sources(number), one.category) for number, one in enumerate(found.questions)] == [
        ((PNG,), "all"),
        ((), "all"),
    ]


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_files_have_one_answer_or_several(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    llava = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    path = lines(
        tmp_path / "q.jsonl",
        {"question_id": 5, "text": "Which?", "answer": "red", "image": "a.png", "category": "color"},
        {"question_id": 6, "text": "Describe.", "references": ["a cat", "one cat"]},
        {"id": "x", "image": "a.png", "conversations": llava},
    )
    found = read_set(path)
    assert [(one.id, one.truth, one.category, one.image) for one in found.questions] == [
        ("5", ("red",), "color", "a.png"),
        ("6", ("a cat", "one cat"), "all", None),
        ("x", ("A cat.",), "all", "a.png"),
    ]
    assert found.sources(0) == (tmp_path / "a.png",)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "Which?"}, "row 1: the right answer is None"),
        ({"text": "Which?", "answers": []}, "the right answer is [], expected"),
        ({"text": "Which?", "answers": ["a", 3]}, "the right answer is"),
        ({"answer": "red"}, "row 1: text is None"),
        ([1], "row 1: is [1]"),
    ],
)
def test_what_is_no_question_is_named(tmp_path, row, words):
    path = tmp_path / "q.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(InputError) as error:
        read_set(path)
    assert words.split(",")[0] in str(error.value)


def test_ids_that_come_twice_and_other_datasets_are_refused(tmp_path, talks):
    row = {"question_id": 1, "text": "a", "answer": "b"}
    with pytest.raises(
        InputError, match=r"row 2: question '1' is there already, with the same words\. Remove the copy"
    ):
        read_set(lines(tmp_path / "q.jsonl", row, row))
    with pytest.raises(InputError, match=r"row 2: id '1' is there already, of 'a' -> 'b'; this one is 'a' -> 'c'"):
        read_set(lines(tmp_path / "q.jsonl", row, {**row, "answer": "c"}))
    with pytest.raises(InputError, match=r"holds images/1.0; a benchmark is made of conversations"):
        read_set(tmp_path / "photos")
    with pytest.raises(InputError, match="no such file"):
        read_set(tmp_path / "none.jsonl")


def test_answers_are_scored_against_the_set(tmp_path):
    questions = lines(
        tmp_path / "q.jsonl",
        {"question_id": "a", "text": "Which?", "answer": "red", "kind": "color"},
        {"question_id": "b", "text": "What?", "answer": "cat", "kind": "thing"},
    )
    answers = lines(tmp_path / "a.jsonl", {"question_id": "b", "text": "Cat."}, {"question_id": "a", "text": "blue"})
    benchmark = Custom("exact")
    asked = read_questions(benchmark, questions, Settings())
    report = evaluate_answers(benchmark, asked, Files(questions, answers, output=tmp_path / "out"), Settings())
    assert report["scores"]["exact"]["value"] == 50
    assert report["categories"]["thing"]["exact"]["value"] == 100
    assert (report["metric"], report["set"]) == ("exact", str(questions))
    lines(answers, {"question_id": "b", "text": "Cat."})
    with pytest.raises(InputError, match="1 of 2 missing"):
        evaluate_answers(benchmark, asked, Files(questions, answers, output=tmp_path / "out"), Settings())
