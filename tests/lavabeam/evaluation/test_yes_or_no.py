"""Benchmarks of yes or no, on small files of their official layouts: POPE, MME."""

import pytest

from lavabeam.evaluation.question import ONE_WORD
from schemas.errors import InputError
from tests.lavabeam.evaluation.files import asked, lines, run, values


def pope_files(tmp_path, extra=0):
    """Labels with `extra` questions in front of those that are asked, and LLaVA's questions about the others."""
    labels = [("person", "yes"), ("cat", "no"), ("car", "no"), ("dog", "yes")]
    folder, asked_rows = tmp_path / f"labels{extra}", []
    for start, category in enumerate(("adversarial", "popular", "random")):
        rows = [
            {"question_id": n, "image": "c_1.jpg", "text": f"Is there a {what} in the image?", "label": label}
            for n, (what, label) in enumerate([("sofa", "no")] * bool(extra) + labels, 1)
        ]
        lines(folder / f"coco_pope_{category}.json", *rows)
        asked_rows += [
            {
                "question_id": 10_000 * start + n,
                "image": "c_1.jpg",
                "text": f"Is there a {what} in the imange?\n{ONE_WORD}",
                "category": category,
            }
            for n, (what, _) in enumerate(labels, 1)
        ]
    return lines(tmp_path / "q.jsonl", *asked_rows), folder, asked_rows


@pytest.mark.parametrize("extra", [0, 1])
def test_pope_joins_todays_longer_labels_too(tmp_path, extra):
    questions, folder, rows = pope_files(tmp_path, extra)
    said = ("Yes, there is a person. No cat", "No", "yes", "It is not")
    answers = [
        {"question_id": row["question_id"], "prompt": row["text"], "text": text}
        for row, text in zip(rows, said * 3, strict=True)
    ]
    report = run("pope", questions, lines(tmp_path / "a.jsonl", *reversed(answers)), truth=folder)
    assert report["counts"]["random"] == {"TP": 1, "FP": 1, "TN": 1, "FN": 1}
    assert values(report) == {"f1": 50, "f1_pooled": 50}
    lmms_eval = run("pope", questions, tmp_path / "a.jsonl", protocol="lmms-eval", truth=folder)
    assert values(lmms_eval) == {"f1": 0, "accuracy": 25}


def test_pope_official_files_are_questions_too_and_a_missing_answer_is_wrong(tmp_path):
    _, folder, _ = pope_files(tmp_path)
    found = asked("pope", folder)
    assert len({question.id for question in found}) == 12
    answers = lines(tmp_path / "a.jsonl", {"question_id": found[0].id, "text": "Yes"})
    report = run("pope", folder, answers, allowed={"missing": True})
    assert report["counts"]["adversarial"] == {"TP": 1, "FP": 2, "FN": 1}


def test_mme_counts_questions_and_pictures(tmp_path):
    folder = tmp_path / "Your_Results"
    folder.mkdir()
    stated = "0001.jpg\tIs it a {}?  Please answer yes or no.\t{}\n"
    for name in ("existence", "text_translation"):
        (folder / f"{name}.txt").write_text(stated.format("cat", "Yes") + stated.format("dog", "No"))
    rows = [
        {
            "question_id": f"{name}/0001.png",
            "image": f"{name}/0001.png",
            "text": f"Is it a {what}?\n{ONE_WORD}",
            "category": name,
        }
        for name in ("existence", "text_translation")
        for what in ("cat", "dog")
    ]
    questions = lines(tmp_path / "q.jsonl", *rows)
    said = ("Yes", "No.", "It is yes", "no")
    answers = [
        {"question_id": row["question_id"], "prompt": row["text"], "text": text}
        for row, text in zip(rows, said, strict=True)
    ]
    path = lines(tmp_path / "a.jsonl", *answers)
    report = run("mme", questions, path, truth=folder, upload=tmp_path / "up")
    assert values(report) == {"perception": 200, "cognition": 50}
    assert values(run("mme", questions, tmp_path / "up", truth=folder)) == values(report)
    with pytest.raises(InputError, match="two questions a picture; existence/0001 has 1"):
        run("mme", lines(tmp_path / "one.jsonl", rows[0]), path, truth=folder, allowed={"foreign": True})


def test_mme_release_folder(tmp_path):
    for place in ("images", "questions_answers_YN"):
        (tmp_path / "release" / "OCR" / place).mkdir(parents=True)
    (tmp_path / "release/OCR/images/7.jpg").write_bytes(b"x")
    text = "Is it A? Please answer yes or no.\tYes\nIs it B? Please answer yes or no.\tNo\n"
    (tmp_path / "release/OCR/questions_answers_YN/7.txt").write_text(text)
    first, second = asked("mme", tmp_path / "release")
    assert (first.image, first.text) == ("OCR/images/7.jpg", f"Is it A?\n{ONE_WORD}")
    assert (first.truth[0], second.truth[0]) == ("yes", "no")
