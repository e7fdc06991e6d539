"""Sets about text in pictures, and GQA: names of pictures, tokens, answers, what their odd rows become."""

import pytest

from pipelines.importers.families.chartqa import Chartqa, ChartqaConfig
from pipelines.importers.families.docvqa import Docvqa, DocvqaConfig, read
from pipelines.importers.families.gqa import Gqa, GqaConfig
from pipelines.importers.families.infographicvqa import Infographicvqa, InfographicvqaConfig
from pipelines.importers.families.ocrvqa import Ocrvqa, OcrvqaConfig
from pipelines.importers.families.textcaps import PROMPT, Textcaps, TextcapsConfig
from pipelines.importers.families.textvqa import Textvqa, TextvqaConfig
from pipelines.importers.families.turns import SHORT
from schemas.errors import InputError
from tests.families import imported, talk, written

GQA = {
    "05515938": {"question": "What kind of bird?", "imageId": "2405722", "answer": "parrot", "fullAnswer": "A parrot."},
    "1238592": {
        "question": "Who?",
        "imageId": "n161313",
        "answer": "man",
        "fullAnswer": "A man.",
        "semantic": [{"a": 1}],
    },
    "00000001": {"question": "Is it red?", "imageId": "2405722", "isBalanced": True},
}


def folder_of(tmp_path, *names):
    for name in names:
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).write_bytes(b"x")
    return str(tmp_path / "pictures")


def test_gqa_is_an_object_by_id_and_ids_keep_their_zeros(tmp_path):
    made = Gqa(GqaConfig(path=written(tmp_path, "train_balanced_questions.json", GQA)))
    first, second = imported(made)
    assert first["image_keys"] + second["image_keys"] == ["gqa/images/2405722.jpg", "gqa/images/n161313.jpg"]
    assert talk(first) == [f"<image>\nWhat kind of bird?\n{SHORT}", "parrot"]
    assert first["detail"] == "1 of 2 questions left out: no answer (00000001)"
    full = Gqa(GqaConfig(path=made.config.path, answer="fullAnswer"))
    assert talk(imported(full)[1])[1] == "A man."


def test_a_question_of_two_files_is_asked_once(tmp_path):
    paths = [written(tmp_path, f"{name}_questions.json", GQA) for name in ("train_balanced", "train_all")]
    made = Gqa(GqaConfig(path=paths))
    assert [len(row["messages"]) for row in imported(made)] == [2, 2]
    assert made.notes()[0] == (
        "6 questions became 2 turns in 2 rows; 2 no_answer (first: 00000001); 2 repeated (first: 05515938)."
    )


def test_gqa_pictures_are_not_taken_from_the_folders_of_other_sets(tmp_path):
    images = folder_of(tmp_path, "other/2405722.jpg", "gqa/images/n161313.jpg")
    rows = imported(Gqa(GqaConfig(path=written(tmp_path, "q.json", GQA), images=images)))
    assert [row["status"] for row in rows] == ["no_image", "ok"]
    assert rows[0]["detail"].startswith("2405722.jpg is not in the image folder; 1 of 2 questions left out")


def test_lists_in_place_of_the_object_are_refused(tmp_path):
    path = written(tmp_path, "train_balanced_questions.json", [{"image": "1.jpg", "question": "q", "question_id": "1"}])
    with pytest.raises(InputError, match=r"train_balanced_questions\.json:1: '{' is expected first"):
        Gqa(GqaConfig(path=path)).slices()


BOOKS = {
    "140031996X": {"imageURL": "http://x/images/I/a.gif", "questions": ["Who?", "What?"], "answers": ["*"], "split": 1},
    "0001": {"imageURL": "http://x/y.jpg", "questions": ["Year?"], "answers": ["2016", "more"], "split": 1},
    "0002": {"imageURL": "http://x/y", "questions": ["Genre?"], "answers": [" "], "split": 3},
}


def test_ocrvqa_keeps_isbns_and_finds_gifs_saved_as_jpg(tmp_path):
    path = written(tmp_path, "dataset.json", BOOKS)
    made = Ocrvqa(OcrvqaConfig(path=path, images=folder_of(tmp_path, "140031996X.jpg", "0001.jpg")))
    first, second = imported(made)
    assert (first["key"], first["image_keys"]) == ("ocrvqa/140031996X", ["140031996X.jpg"])
    assert (second["key"], second["image_keys"]) == ("ocrvqa/0001", ["0001.jpg"])
    assert talk(first) == [f"<image>\nWho?\n{SHORT}", "*"]
    assert made.notes()[0].endswith("; 1 no_answer (first: 140031996X/1).")
    assert made.notes()[1:] == ["1 book of other splits left out (split: train).", "1 answer without a question."]
    gif = Ocrvqa(OcrvqaConfig(path=path, images=folder_of(tmp_path, "images/140031996X.gif")))
    assert imported(gif)[0]["image_keys"] == ["images/140031996X.gif"]
    rows = imported(Ocrvqa(OcrvqaConfig(path=path, split="all")))
    assert [row["image_keys"][0] for row in rows] == [f"ocr_vqa/images/{isbn}.jpg" for isbn in BOOKS]
    assert rows[2]["status"] == "no_answer"


def test_ocrvqa_names_a_split_that_does_not_exist(tmp_path):
    path = written(tmp_path, "dataset.json", {"1": {**BOOKS["0001"], "split": 4}})
    with pytest.raises(InputError, match="'split' is 4; expected 1, 2 or 3"):
        Ocrvqa(OcrvqaConfig(path=path)).slices()


def textvqa_question(id, image, answers, set_name="train"):
    return {"question_id": id, "image_id": image, "question": f"q{id}", "answers": answers, "set_name": set_name}


OCR = {
    "data": [
        {"image_id": "003a8ae2ef43b901", "ocr_tokens": ["DAKOTA", "DIGITAL", "DAKOTA"]},
        {"image_id": "ff", "ocr_tokens": []},
    ]
}


def test_textvqa_lists_the_tokens_once_in_the_detectors_order(tmp_path):
    questions = [
        textvqa_question(1, "003a8ae2ef43b901", ["dakota", "nikon", "nikon"]),
        textvqa_question(2, "ff", ["a", "b"]),
        textvqa_question(3, "003a8ae2ef43b901", ["b", "a"]),
        textvqa_question(4, "ee", [""] * 10, "test"),
    ]
    config = {"path": written(tmp_path, "TextVQA_0.5.1_train.json", {"data": questions})}
    config["ocr"] = written(tmp_path, "ocr.json", OCR)
    made = Textvqa(TextvqaConfig(**config))
    first, second, test = imported(made)
    tokens = "Reference OCR token: DAKOTA, DIGITAL, DAKOTA"
    assert talk(first) == [f"<image>\nq1\n{tokens}\n{SHORT}", "nikon", "q3", "b"]
    assert talk(second) == [f"<image>\nq2\n{SHORT}", "a"]
    assert (test["status"], test["image_keys"]) == ("no_answer", ["textvqa/test_images/ee.jpg"])
    assert made.notes()[-1].startswith("1 row has no line")
    assert 'no question has a line "Reference OCR token: ..."' in _notes(Textvqa(TextvqaConfig(path=config["path"])))


def _notes(made):
    imported(made)
    return made.notes()[-1]


CAPTIONS = [
    {"caption_id": n, "image_id": image, "caption_str": f"caption {n}", "image_path": f"train/{image}.jpg"}
    for n, image in enumerate(["003a8ae2ef43b901", "ff", "003a8ae2ef43b901", "003a8ae2ef43b901", "ff"])
]


def textcaps(tmp_path, **config):
    path = written(tmp_path, "TextCaps_0.1_train.json", {"data": CAPTIONS})
    return Textcaps(TextcapsConfig(path=path, ocr=written(tmp_path, "ocr.json", OCR), **config))


def test_textcaps_has_one_caption_of_a_picture_below_its_tokens(tmp_path):
    made = textcaps(tmp_path)
    first, second = imported(made)
    assert (first["key"], first["kind"]) == ("textcaps/003a8ae2ef43b901", "caption")
    assert first["image_keys"] == ["textvqa/train_images/003a8ae2ef43b901.jpg"]
    assert talk(first) == [f"<image>\n{PROMPT}\nReference OCR token: DAKOTA, DIGITAL, DAKOTA", "caption 0"]
    assert talk(second) == [f"<image>\n{PROMPT}", "caption 1"]
    assert made.notes()[0] == "5 questions became 2 turns in 2 rows; 3 turns not chosen."


def test_which_caption_is_an_option(tmp_path):
    rows = imported(textcaps(tmp_path, caption="each"))
    assert [row["key"][-2:] for row in rows] == ["/0", "/1", "/2", "/0", "/1"]
    assert sorted(talk(row)[1] for row in rows) == [f"caption {n}" for n in range(5)]
    chosen = [tuple(talk(row)[1] for row in imported(textcaps(tmp_path, caption="hash", seed=n))) for n in range(12)]
    assert chosen[0] == tuple(talk(row)[1] for row in imported(textcaps(tmp_path, caption="hash")))
    assert {one[0] for one in chosen} == {"caption 0", "caption 2", "caption 3"}


def test_docvqa_and_infographicvqa_share_an_envelope(tmp_path):
    page = {"questionId": 337, "question": "What is it?", "image": "documents/ffbg0227_2.png", "docId": 279}
    data = {
        "dataset_name": "SP-DocVQA",
        "data": [{**page, "answers": ["a form", "form", "form"]}, {**page, "questionId": 5}],
    }
    path = written(tmp_path, "train_v1.0_withQT.json", data)
    row = imported(Docvqa(DocvqaConfig(path=path)))[0]
    assert (row["key"], row["image_keys"]) == ("docvqa/ffbg0227_2", ["docvqa/documents/ffbg0227_2.png"])
    assert talk(row) == [f"<image>\nWhat is it?\n{SHORT}", "a form"]
    assert row["detail"] == "1 of 2 questions left out: no answer (5)"
    images = folder_of(tmp_path, "train/documents/ffbg0227_2.png")
    most = imported(Docvqa(DocvqaConfig(path=path, images=images, answer="most_common")))[0]
    assert (talk(most)[1], most["image_keys"]) == ("form", ["train/documents/ffbg0227_2.png"])
    assert [question.facts["docId"] for question in read(path)] == [279, 279]

    graphic = {"questionId": 98313, "question": "Which?", "image_local_name": "37313.jpeg", "answers": ["pinterest"]}
    path = written(tmp_path, "infographicVQA_val_v1.0.json", {"data": [graphic]})
    row = imported(Infographicvqa(InfographicvqaConfig(path=path)))[0]
    assert (row["key"], row["image_keys"]) == ("infographicvqa/37313", ["infographicvqa/images/37313.jpeg"])


def test_pictures_that_differ_in_their_ending_have_rows_of_their_own(tmp_path):
    asked = [
        {"questionId": n, "question": f"q{n}", "image_local_name": f"7.{end}", "answers": ["a"]}
        for n, end in enumerate(("jpeg", "png", "jpeg", "png"))
    ]
    rows = imported(Infographicvqa(InfographicvqaConfig(path=written(tmp_path, "i.json", {"data": asked}))))
    assert [(row["key"], row["image_keys"]) for row in rows] == [
        ("infographicvqa/7", ["infographicvqa/images/7.jpeg"]),
        ("infographicvqa/7.png", ["infographicvqa/images/7.png"]),
    ]
    assert [talk(row)[2] for row in rows] == ["q2", "q3"]


def test_chartqa_joins_both_files_of_a_split_and_keeps_unreadable_characters(tmp_path):
    human = [{"imgname": "1392.png", "query": "highest\ufffd aid?", "label": "0.57"}]
    augmented = [
        {"imgname": "1392.png", "query": "How many?", "label": "14"},
        {"imgname": "7.png", "query": "Q", "label": ""},
    ]
    folder = tmp_path / "ChartQA Dataset" / "train"
    paths = [written(folder, "train_human.json", human), written(folder, "train_augmented.json", augmented)]
    made = Chartqa(ChartqaConfig(path=paths))
    first, second = imported(made)
    assert (first["key"], first["image_keys"]) == ("chartqa/train/1392", ["chartqa/train/png/1392.png"])
    assert talk(first) == [f"<image>\nhighest\ufffd aid?\n{SHORT}", "0.57", "How many?", "14"]
    assert second["detail"] == "1 of 1 questions left out: no answer (train_augmented/1)"
    assert made.notes()[1] == "1 question with U+FFFD, an unreadable character, as published."
    images = folder_of(tmp_path, "val/png/1392.png", "train/png/1392.png")
    assert imported(Chartqa(ChartqaConfig(path=paths, images=images)))[0]["image_keys"] == ["train/png/1392.png"]
    other = written(tmp_path, "charts.json", human)
    with pytest.raises(InputError, match="or set `split`"):
        Chartqa(ChartqaConfig(path=other)).slices()
    assert imported(Chartqa(ChartqaConfig(path=other, split="val")))[0]["key"] == "chartqa/val/1392"
