"""Sets with choices: A-OKVQA's rotations, AI2D's letters, ScienceQA in both layouts of LLaVA's conversion."""

import pytest

from pipelines.importers.families.ai2d import Ai2d, Ai2dConfig
from pipelines.importers.families.aokvqa import Aokvqa, AokvqaConfig
from pipelines.importers.families.scienceqa import Scienceqa, ScienceqaConfig, read
from pipelines.importers.families.turns import LETTER
from schemas.errors import InputError
from tests.families import imported, talk, written


def aokvqa(tmp_path, records, **config):
    return Aokvqa(AokvqaConfig(path=written(tmp_path, "aokvqa_v1p0_train.json", records), **config))


def asked(question_id, image_id, choices, correct=None, split="train"):
    record = {"split": split, "image_id": image_id, "question_id": question_id, "question": f"{question_id}?"}
    record |= {"choices": choices, "direct_answers": ["x"] * 10}
    return record if correct is None else {**record, "correct_choice_idx": correct}


def test_all_questions_of_a_picture_stand_in_four_rows_that_differ_by_rotation(tmp_path):
    records = [asked("a", 7, list("wxyz"), 3), asked("b", 8, list("wxyz"), 0), asked("c", 7, list("1234"), 1)]
    rows = imported(aokvqa(tmp_path, records))
    assert [row["key"] for row in rows] == [f"aokvqa/{id:012d}/{n}" for id in (7, 8) for n in range(4)]
    assert {tuple(row["image_keys"]) for row in rows[:4]} == {("coco/train2017/000000000007.jpg",)}
    assert talk(rows[0]) == [
        f"<image>\na?\nA. w\nB. x\nC. y\nD. z\n{LETTER}",
        "D",
        "c?\nA. 1\nB. 2\nC. 3\nD. 4",
        "B",
    ]
    assert talk(rows[1])[0] == f"<image>\na?\nA. x\nB. y\nC. z\nD. w\n{LETTER}"
    for row in rows[:4]:
        first, letter = talk(row)[0].split("\n"), talk(row)[1]
        assert f"{letter}. z" in first
        second, letter = talk(row)[2].split("\n"), talk(row)[3]
        assert f"{letter}. 2" in second
    assert [talk(row)[1] for row in rows[:4]] == ["D", "C", "B", "A"]


def test_rotations_can_be_left_out_and_the_suffix_repeated(tmp_path):
    made = aokvqa(
        tmp_path, [asked("a", 7, ["w", "x"], 1), asked("b", 7, ["y", "z"], 0)], rotations="none", suffix="every"
    )
    assert [talk(row) for row in imported(made)] == [
        [f"<image>\na?\nA. w\nB. x\n{LETTER}", "B", f"b?\nA. y\nB. z\n{LETTER}", "A"]
    ]


def test_choices_that_cannot_be_asked_are_left_out_by_name(tmp_path):
    records = [asked("a", 7, list("wxyz"), 4), asked("b", 7, list("wx"), 1), asked("c", 9, list("wx"), split="test")]
    made = aokvqa(tmp_path, records)
    first, second, test = imported(made)
    assert first["detail"] == "1 of 2 questions left out: choice 4 of 4 is said to be right (a)"
    assert [talk(first)[1], talk(second)[1]] == ["B", "A"]
    assert (test["status"], test["image_keys"]) == ("no_answer", ["coco/test2017/000000000009.jpg"])
    assert "1 bad_question (first: a); 1 no_answer (first: c)" in made.notes()[0]


def problem(**fields):
    known = {"question": "Which is it?", "choices": ["red", "blue"], "answer": 1, "hint": "", "image": None}
    return {**known, "lecture": "", "solution": "", "split": "train", "subject": "natural science", **fields}


def scienceqa(tmp_path, problems, **config):
    return Scienceqa(ScienceqaConfig(path=written(tmp_path, "problems.json", problems), **config))


def test_scienceqa_for_training_is_qcm_lea(tmp_path):
    problems = {
        "1": problem(image="image.png", hint="Look at it.", lecture="Two\nlines.", solution="So blue."),
        "2": problem(solution="Only this."),
    }
    first, second = imported(scienceqa(tmp_path, problems))
    assert (first["key"], first["image_keys"]) == ("scienceqa/1", ["1/image.png"])
    assert talk(first) == [
        "Which is it?\nContext: Look at it.\nOptions: (A) red (B) blue\n<image>",
        "Two\nlines. So blue. The answer is B.",
    ]
    assert second["image_keys"] == []
    assert talk(second) == [
        "Which is it?\nContext: N/A\nOptions: (A) red (B) blue",
        "Only this. The answer is B.",
    ]


def test_scienceqa_for_evaluation_is_cqm_a(tmp_path):
    row = imported(scienceqa(tmp_path, {"1": problem(lecture="L", solution="S")}, layout="CQM-A"))[0]
    assert talk(row) == ["Context: N/A\nQuestion: Which is it?\nOptions: (A) red (B) blue", "The answer is B."]
    row = imported(scienceqa(tmp_path, {"1": problem(image="image.png")}, layout="CQM-A", suffix="first"))[0]
    assert talk(row)[0].endswith(f"(B) blue\n{LETTER}\n<image>")


@pytest.mark.parametrize(
    ("fields", "config", "expected"),
    [
        # Pairs of blanks become one, once, before the label is removed: an answer without reasons keeps a blank.
        ({}, {}, ["Which is it?\nContext: N/A\nOptions: (A) red (B) blue", " The answer is B."]),
        ({"question": "a   b"}, {}, ["a  b\nContext: N/A\nOptions: (A) red (B) blue", " The answer is B."]),
        # The label is removed everywhere in a text that begins with it.
        (
            {"question": "Is it 'Question: who'?", "solution": "Answer: yes."},
            {},
            ["Is it 'who'?\nContext: N/A\nOptions: (A) red (B) blue", "yes. The answer is B."],
        ),
        (
            {"question": "Is it 'Question: who'?"},
            {"layout": "CQM-A"},
            ["Context: N/A\nQuestion: Is it 'Question: who'?\nOptions: (A) red (B) blue", "The answer is B."],
        ),
        ({"lecture": "a\\nb"}, {}, ["Which is it?\nContext: N/A\nOptions: (A) red (B) blue", "a\nb The answer is B."]),
        (
            {"lecture": "a\nb", "solution": "c"},
            {"line_breaks": "escaped"},
            ["Which is it?\nContext: N/A\nOptions: (A) red (B) blue", "a\\nb c The answer is B."],
        ),
    ],
)
def test_oddities_of_the_conversion_are_kept(tmp_path, fields, config, expected):
    assert talk(imported(scienceqa(tmp_path, {"1": problem(**fields)}, **config))[0]) == expected


def test_scienceqa_is_divided_by_pid_splits(tmp_path):
    problems = {str(id): problem(split="test" if id > 3 else "train") for id in (10, 2, 3, 4)}
    splits = written(tmp_path, "pid_splits.json", {"minitrain": ["2", "10", "99"], "test": [4]})
    made = scienceqa(tmp_path, problems, splits=splits, split="minitrain")
    assert [row["key"] for row in imported(made)] == ["scienceqa/10", "scienceqa/2"]
    assert made.notes()[1:] == [
        "2 problems of other splits left out (split: minitrain).",
        "1 id of the split without a problem (first: 99).",
    ]
    assert [row["key"] for row in imported(scienceqa(tmp_path, problems, split="train"))] == [
        "scienceqa/2",
        "scienceqa/3",
    ]
    with pytest.raises(InputError, match=r"needs pid_splits\.json"):
        scienceqa(tmp_path, problems, split="trainval").slices()
    with pytest.raises(InputError, match="expected a list of ids"):
        scienceqa(tmp_path, problems, splits=splits, split="test").slices()


def test_scienceqa_pictures_lie_below_their_split(tmp_path):
    (tmp_path / "images" / "train" / "1").mkdir(parents=True)
    (tmp_path / "images" / "train" / "1" / "image.png").write_bytes(b"x")
    problems = {"1": problem(image="image.png"), "11": problem(image="image.png")}
    rows = imported(scienceqa(tmp_path, problems, images=str(tmp_path / "images")))
    assert [(row["image_keys"], row["status"]) for row in rows] == [
        (["train/1/image.png"], "ok"),
        (["11/image.png"], "no_image"),
    ]
    question = next(read(written(tmp_path, "problems.json", problems)))
    assert (question.picture, question.choices, question.correct) == ("train/1/image.png", ("red", "blue"), 1)


def ai2d(tmp_path, **config):
    for name, questions in {
        "0": {"What is A?": ("0.png-0", True), "What does the frog eat?": ("0.png-1", False)},
        "1": {"Which one?": ("1.png-0", False)},
    }.items():
        fields = {
            text: {"questionId": id, "abcLabel": abc, "answerTexts": ["ears", "flies"], "correctAnswer": 1}
            for text, (id, abc) in questions.items()
        }
        written(tmp_path / "questions", f"{name}.png.json", {"imageName": f"{name}.png", "questions": fields})
    (tmp_path / "ids.csv").write_text("1\n7\n")
    given = {"path": str(tmp_path / "questions"), "test_ids": str(tmp_path / "ids.csv")}
    return Ai2d(Ai2dConfig(**{**given, **config}))


def test_ai2d_answers_are_letters_and_lettered_pictures_an_option(tmp_path):
    made = ai2d(tmp_path)
    row = imported(made)[0]
    assert (row["key"], row["image_keys"]) == ("ai2d/0", ["ai2d/images/0.png"])
    assert talk(row) == [f"<image>\nWhat does the frog eat?\nA. ears\nB. flies\n{LETTER}", "B"]
    assert row["detail"] == "1 of 2 questions left out: it asks about letters that the picture does not show (0.png-0)"
    assert made.notes()[1] == "1 diagram of the other split left out (split: train)."
    assert [row["key"] for row in imported(ai2d(tmp_path, split="test"))] == ["ai2d/1"]
    assert len(talk(imported(ai2d(tmp_path, lettered="keep"))[0])) == 4
    rows = imported(ai2d(tmp_path, lettered="abc_images", split="all", test_ids=None))
    assert [row["image_keys"][0] for row in rows] == [
        "ai2d/abc_images/0.png",
        "ai2d/images/0.png",
        "ai2d/images/1.png",
    ]


def test_ai2d_does_not_guess_which_diagrams_are_tested_on(tmp_path):
    with pytest.raises(InputError, match=r"needs ai2d_test_ids\.csv"):
        ai2d(tmp_path, test_ids=None).slices()
    with pytest.raises(InputError, match="no line is a diagram's number"):
        ai2d(tmp_path, test_ids=str(tmp_path / "questions" / "0.png.json")).slices()
