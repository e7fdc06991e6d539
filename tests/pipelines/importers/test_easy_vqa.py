"""Easy-VQA's questions as conversations, and what its answers say about each picture."""

import json

import pytest

from pipelines.importers.easy_vqa import EasyVqa, EasyVqaConfig, facts_of, package_folder, read_questions
from schemas.errors import InputError

QUESTIONS = [
    ["what is the blue shape?", "rectangle", 0],
    ["is there a red shape?", "no", 0],
    ["is a circle present?", "no", 0],
    ["does the image not contain a gray shape?", "yes", 0],
    ["what color is the shape?", "blue", 0],
    ["what color is the circle?", "teal", 1],
]


def importer(tmp_path, questions, **config):
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(questions))
    return EasyVqa(EasyVqaConfig(path=str(path), **config))


def pairs(row):
    texts = [message["content"][-1]["text"] for message in row["messages"]]
    return list(zip(texts[::2], texts[1::2], strict=True))


@pytest.mark.parametrize(
    ("questions", "facts"),
    [
        ([("what color is the circle?", "teal")], {"color": "teal", "shape": "circle"}),
        ([("what is the red shape?", "triangle")], {"color": "red", "shape": "triangle"}),
        ([("is there a teal shape?", "yes")], {"color": "teal"}),
        ([("is there not a teal shape?", "no")], {"color": "teal"}),
        ([("is no circle present?", "no")], {"shape": "circle"}),
        ([("is there a circle?", "no")], {}),
        ([("is there a circle?", "no"), ("is there not a triangle in the image?", "yes")], {"shape": "rectangle"}),
    ],
)
def test_facts_follow_from_questions_and_answers(questions, facts):
    assert facts_of([(question, answer, 7) for question, answer in questions]) == {7: facts}


def test_facts_of_the_published_split_never_contradict_its_answers():
    questions = read_questions(package_folder() / "train" / "questions.json")
    facts = facts_of(questions)
    assert len(facts) == 4000
    assert sum(len(known) == 2 for known in facts.values()) > 3500
    for question, answer, number in questions:
        known = facts[number]
        if question.startswith("what color") and "color" in known:
            assert known["color"] == answer
        if question.startswith("what shape") and "shape" in known:
            assert known["shape"] == answer


def test_questions_are_dealt_out_evenly_and_none_is_lost(tmp_path):
    made = importer(tmp_path, QUESTIONS, turns=4)
    rows = made.rows(made.slices()[0]).to_pylist()
    assert [row["key"] for row in rows] == ["easy-vqa/train/0/0", "easy-vqa/train/0/1", "easy-vqa/train/1/0"]
    assert [len(pairs(row)) for row in rows] == [3, 2, 1]
    assert sorted(pairs(rows[0]) + pairs(rows[1])) == sorted((q, a) for q, a, number in QUESTIONS if number == 0)
    assert {row["image_keys"][0] for row in rows[:2]} == {"easy-vqa/train/0"}
    assert {(row["kind"], row["source"], row["status"]) for row in rows} == {("vqa", "easy-vqa", "ok")}


def test_the_image_stands_in_the_first_turn_only(tmp_path):
    made = importer(tmp_path, QUESTIONS, turns=2)
    row = made.rows(made.slices()[0]).to_pylist()[0]
    assert [[part["type"] for part in message["content"]] for message in row["messages"]] == [
        ["image", "text"],
        ["text"],
        ["text"],
        ["text"],
    ]


def test_the_seed_decides_which_questions_stand_together(tmp_path):
    rows = {}
    for seed in (0, 0, 1):
        made = importer(tmp_path, QUESTIONS * 3, seed=seed)
        rows.setdefault(seed, []).append(made.rows(made.slices()[0]).to_pylist())
    assert rows[0][0] == rows[0][1]
    assert rows[0][0] != rows[1][0]


def test_appended_pictures_leave_earlier_slices_unchanged(tmp_path):
    old = importer(tmp_path, QUESTIONS[:5], rows_per_slice=1).slices()
    new = importer(tmp_path, QUESTIONS, rows_per_slice=1).slices([slice.rows for slice in old])
    assert [slice.digest for slice in new[:-1]] == [slice.digest for slice in old]


def test_bad_question_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        EasyVqa(EasyVqaConfig(path=str(tmp_path / "none.json"))).slices()
    with pytest.raises(InputError, match=r"entry 1 is \['what\?'\]; expected \[question, answer, picture number\]"):
        importer(tmp_path, [QUESTIONS[0], ["what?"]]).slices()
