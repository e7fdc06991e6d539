"""VQAv2 and OK-VQA: joined by id, a row per picture, nothing lost; and what all sets share."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.importers.families.okvqa import Okvqa, OkvqaConfig
from pipelines.importers.families.reading import ById
from pipelines.importers.families.turns import SHORT
from pipelines.importers.families.vqav2 import VqaConfig, Vqav2, read
from schemas.errors import InputError
from tests.families import imported, talk, written

QUESTIONS = [
    {"image_id": 262144, "question": "Is the ball flying?", "question_id": 262144000},
    {"image_id": 9, "question": "What is in the tray?", "question_id": 9000},
    {"image_id": 262144, "question": "What is on the ground?", "question_id": 262144001},
]


def annotation(question_id, main, answers, image_id=None):
    given = [{"answer": text, "answer_confidence": "yes", "answer_id": n} for n, text in enumerate(answers, 1)]
    return {
        "question_id": question_id,
        "image_id": image_id if image_id is not None else question_id // 1000,
        "question_type": "what is",
        "answer_type": "other",
        "multiple_choice_answer": main,
        "answers": given,
    }


ANNOTATIONS = [
    annotation(262144001, "grass", ["turf", "grass", "turf", "grass"]),
    annotation(9000, "food", ["food", "bread"]),
    annotation(262144000, "yes", ["yes", "no", "no"]),
]


def write(tmp_path, questions=QUESTIONS, annotations=ANNOTATIONS, **top):
    asked = {"info": {}, "data_subtype": "train2014", "questions": questions, **top}
    return {
        "path": written(tmp_path, "v2_questions.json", asked),
        "annotations": written(tmp_path, "v2_annotations.json", {"info": {}, "annotations": annotations}),
    }


def vqav2(files, **config):
    return Vqav2(VqaConfig(**files, **config))


def test_rows_are_those_of_llava(tmp_path):
    first, second = imported(vqav2(write(tmp_path)))
    assert (first["key"], first["image_keys"]) == ("vqav2/000000262144", ["coco/train2017/000000262144.jpg"])
    assert talk(first) == [f"<image>\nIs the ball flying?\n{SHORT}", "yes", "What is on the ground?", "grass"]
    assert talk(second) == [f"<image>\nWhat is in the tray?\n{SHORT}", "food"]
    assert {(row["kind"], row["source"], row["status"], row["detail"]) for row in (first, second)} == {
        ("vqa", "vqav2", "ok", None)
    }


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"suffix": "none"}, ["Is the ball flying?", "yes", "What is on the ground?", "grass"]),
        (
            {"suffix": "every", "suffix_text": "Be brief."},
            ["Is the ball flying?\nBe brief.", "yes", "What is on the ground?\nBe brief.", "grass"],
        ),
        (
            {"suffix": "none", "answer": "most_common", "capitalize": True},
            ["Is the ball flying?", "No", "What is on the ground?", "Turf"],
        ),
    ],
)
def test_options_of_the_conversion(tmp_path, config, expected):
    row = imported(vqav2(write(tmp_path), **config))[0]
    assert talk(row) == [f"<image>\n{expected[0]}", *expected[1:]]


def test_questions_without_answer_are_named_and_counted(tmp_path):
    made = vqav2(write(tmp_path, annotations=[ANNOTATIONS[0], annotation(7000, "x", ["x"])]))
    first, second = imported(made)
    assert (first["status"], len(first["messages"])) == ("ok", 2)
    assert first["detail"] == "1 of 2 questions left out: no answer (262144000)"
    assert (second["status"], second["messages"]) == ("no_answer", None)
    assert made.notes() == [
        "3 questions became 1 turn in 2 rows; 2 no_answer (first: 262144000).",
        "1 answer without a question (first: 7000).",
    ]


def test_a_test_split_keeps_its_questions_as_rows(tmp_path):
    files = write(tmp_path, data_subtype="test-dev2015")
    rows = imported(vqav2({"path": files["path"]}))
    assert [row["status"] for row in rows] == ["no_answer", "no_answer"]
    assert rows[0]["image_keys"] == ["coco/test2015/COCO_test2015_000000262144.jpg"]


def test_questions_that_cannot_be_asked_keep_their_row(tmp_path):
    questions = [
        {"image_id": 1, "question": "  ", "question_id": 1000},
        {"image_id": 2, "question": "What does <image> mean?", "question_id": 2000},
    ]
    annotations = [annotation(one["question_id"], "yes", ["yes"]) for one in questions]
    rows = imported(vqav2(write(tmp_path, questions, annotations)))
    assert [row["status"] for row in rows] == ["bad_question"] * 2
    assert "its text is empty (1000)" in rows[0]["detail"]
    assert "<image> is in its text (2000)" in rows[1]["detail"]


@pytest.mark.parametrize(
    ("name", "questions", "annotations", "found"),
    [
        ("no list", {"questions": {}}, [], "is to be a list"),
        ("no field", {"questions": [{"image_id": 1, "question_id": 1}]}, [], "'question' is missing"),
        ("text", {"questions": [{"image_id": "1", "question_id": 1, "question": "q"}]}, [], "expected a whole number"),
        ("null", {"questions": [None]}, [], "expected a JSON object, found null"),
        ("other picture", {}, [annotation(9000, "a", ["a"], 10)], "is about picture 9, its annotation about 10"),
        ("twice", {}, [annotation(1, "a", ["a"]), annotation(1, "a", ["a"])], "1 appears twice"),
        ("answers", {}, [{"question_id": 9000, "image_id": 9, "answers": ["a"]}], "'answers' is"),
        ("subtype", {"data_subtype": "abstract"}, [], "which pictures of COCO"),
    ],
)
def test_files_of_another_layout_stop_the_import(tmp_path, name, questions, annotations, found):
    with pytest.raises(InputError, match=found):
        vqav2(write(tmp_path, annotations=annotations, **questions)).slices()


def test_pictures_are_found_by_the_names_of_both_releases(tmp_path):
    folder = tmp_path / "coco"
    (folder / "train2017").mkdir(parents=True)
    (folder / "train2014").mkdir()
    (folder / "train2017" / "000000262144.jpg").write_bytes(b"x")
    (folder / "train2014" / "COCO_train2014_000000000009.jpg").write_bytes(b"")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "coco").symlink_to(folder)
    rows = imported(vqav2(write(tmp_path), images=str(tmp_path / "linked")))
    assert [row["image_keys"][0] for row in rows] == [
        "coco/train2017/000000262144.jpg",
        "coco/train2014/COCO_train2014_000000000009.jpg",
    ]
    assert [row["status"] for row in rows] == ["ok", "no_image"]
    assert "empty file" in rows[1]["detail"]


def test_a_folder_without_any_of_the_pictures_is_one_error(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="not one of the 2 pictures"):
        vqav2(write(tmp_path), images=str(tmp_path / "pictures")).slices()
    with pytest.raises(InputError, match="no such folder"):
        vqav2(write(tmp_path), images=str(tmp_path / "none")).slices()


def test_a_slice_is_known_by_its_rows(tmp_path):
    files = write(tmp_path)
    old = vqav2(files, rows_per_slice=1).slices()
    more = [*QUESTIONS, {"image_id": 5, "question": "Who?", "question_id": 5000}]
    new = vqav2(write(tmp_path, more, [*ANNOTATIONS, annotation(5000, "me", ["me"])])).slices([1, 1])
    assert [part.digest for part in new[:2]] == [part.digest for part in old]
    assert len(new) == 3


def test_the_reader_gives_everything_that_evaluation_needs(tmp_path):
    files = write(tmp_path)
    question = next(iter(read(files["path"], files["annotations"])))
    assert (question.id, question.picture) == ("262144000", "COCO_train2014_000000262144.jpg")
    assert question.answer == "yes"
    assert [tuple(answer) for answer in question.answers] == [("yes", "yes"), ("no", "yes"), ("no", "yes")]
    assert question.facts == {"question_type": "what is", "answer_type": "other"}


def test_okvqa_takes_the_most_common_answer(tmp_path):
    annotations = [
        {
            "question_id": 516065,
            "image_id": 51606,
            "answers": [
                {"answer": "race", "raw_answer": "racing", "answer_id": 1},
                {"answer": "run", "raw_answer": "running", "answer_id": 2},
                {"answer": "run", "raw_answer": "a run", "answer_id": 3},
            ],
        },
    ]
    questions = [{"image_id": 51606, "question": "Which sport?", "question_id": 516065}]
    files = write(tmp_path, questions, annotations)
    assert talk(imported(Okvqa(OkvqaConfig(**files)))[0])[1] == "run"
    assert talk(imported(Okvqa(OkvqaConfig(**files, answer="raw_answer")))[0])[1] == "racing"


ids = st.lists(st.integers(0, 40), unique=True, max_size=12)


@settings(max_examples=60, deadline=None)
@given(asked=ids, answered=ids, order=st.randoms(use_true_random=False), slice_rows=st.integers(1, 5))
def test_questions_in_are_turns_out_and_counted(tmp_path_factory, asked, answered, order, slice_rows):
    """Whatever the order of both files: each question stands once, with its own answer, in its picture's row."""
    questions = [{"image_id": id % 5, "question": f"q{id}", "question_id": id} for id in asked]
    annotations = [annotation(id, f"a{id}", [f"a{id}"], id % 5) for id in answered]
    order.shuffle(annotations)
    made = vqav2(write(tmp_path_factory.mktemp("p"), questions, annotations), suffix="none", rows_per_slice=slice_rows)
    turns = defaultdict(list)
    for id in asked:
        turns[id % 5] += [f"q{id}", f"a{id}"] if id in answered else []
    rows = imported(made)
    assert [row["image_keys"][0][-5] for row in rows] == [str(picture) for picture in turns]
    for row, expected in zip(rows, turns.values(), strict=True):
        assert [text.removeprefix("<image>\n") for text in (talk(row) if row["messages"] else [])] == expected
        assert (row["status"] == "ok") == bool(expected)
    assert made.tally.turns + made.tally.reasons["no_answer"] == made.tally.questions == len(asked)


def test_what_is_looked_up_in_order_is_not_held():
    passed = ById(((str(n), n) for n in range(1000)), "file")
    assert [passed.pop(str(n)) for n in range(999)] == list(range(999))
    assert passed._passed == {}
    assert passed.left() == ["999"]
