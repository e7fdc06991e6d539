"""Benchmarks of options, on small files of their official layouts: ScienceQA, MMBench, SEED-Bench."""

import base64
import json
import sys
from pathlib import Path

import pytest

from lavabeam.evaluation.layouts import table_rows, write_sheet
from lavabeam.evaluation.question import LETTER
from lavabeam.evaluation.registry import open_benchmark
from schemas.errors import InputError
from tests.lavabeam.evaluation.files import asked, lines, run, values, whole
from tests.pictures import colour, encoded

PICTURE = encoded(colour())


def sqa(name, choices, answer, picture=False):
    text = "<image>\n" * picture + "Which?\n" + "\n".join(f"{'ABCDE'[n]}. {one}" for n, one in enumerate(choices))
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
    return {"id": name, **({"image": f"{name}/image.png"} if picture else {}), "conversations": turns}


@pytest.mark.parametrize(
    ("text", "letter", "lmms_eval"),
    [
        ("B", "B", "B"),
        ("B. two", "B", "B"),
        ("B.two", None, "B"),
        ("Because. The answer is B.", "B", None),
        ("The answer is A. The answer is B.", None, None),
        ("C", None, None),
        ("b", None, None),
        ("", None, None),
    ],
)
def test_scienceqa_reads_letters_as_llavas_script(tmp_path, text, letter, lmms_eval):
    questions = whole(tmp_path / "q.json", [sqa("1", ("one", "two"), "B")])
    benchmark, question = open_benchmark("scienceqa"), asked("scienceqa", questions)[0]
    assert question.text == f"Which?\nA. one\nB. two\n{LETTER}"
    assert benchmark.letter(text, question, "llava") == letter
    assert benchmark.letter(text, question, "lmms-eval") == lmms_eval


def test_scienceqa_with_and_without_pictures(tmp_path):
    rows = [sqa("7", ("one", "two"), "B", True), sqa("8", ("one", "two"), "LECTURE: x\nThe answer is A.")]
    questions = whole(tmp_path / "q.json", rows)
    answers = whole(tmp_path / "result.json", {"acc": 0, "outputs": {"7": "B", "8": "B"}})
    report = run("scienceqa", questions, answers, upload=tmp_path / "up.json")
    assert values(report) == {"accuracy": 50, "image": 100, "text": 0}
    upload = json.loads((tmp_path / "up.json").read_text())
    assert (upload["results"], upload["correct"]) == ({"7": 1, "8": 1}, 1)
    problems = whole(tmp_path / "problems.json", {"7": {"answer": 0, "question": "Which?"}, "8": {"answer": 1}})
    assert values(run("scienceqa", questions, answers, truth=problems))["text"] == 100


MMBENCH = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "split"]


def mmbench_tsv(path: Path, *rows: list) -> Path:
    path.write_text("\n".join("\t".join(map(str, row)) for row in (MMBENCH, *rows)) + "\n")
    return path


def test_mmbench_is_right_when_all_rotations_are(tmp_path):
    picture = base64.b64encode(PICTURE).decode()
    table = mmbench_tsv(
        tmp_path / "dev.tsv",
        [7, "which?", "nan", "red", "blue", "", "", "A", "color", picture, "dev"],
        [1000007, "which?", "", "blue", "red", "", "", "B", "color", "7", "dev"],
        [8, "who?", "a hint", "=he", "None", "she", "", "A", "people", picture, "dev"],
    )
    questions = asked("mmbench", table)
    assert questions[0].text == f"which?\nA. red\nB. blue\n{LETTER}"
    assert questions[1].image == questions[0].image == PICTURE
    assert questions[2].stem == "a hint\nwho?\nA. =he"  # an option None ends the list
    assert asked("mmbench-cn", table)[0].text.endswith("\n请直接回答选项字母。")
    answers = lines(
        tmp_path / "a.jsonl",
        {"question_id": 8, "text": "A. =he"},
        {"question_id": 7, "text": "A"},
        {"question_id": 1000007, "text": "blue"},
    )
    report = run("mmbench", table, answers, upload=tmp_path / "up.xlsx")
    assert values(report) == {"circular": 50, "single": 66.667}
    assert {name: one["circular"]["value"] for name, one in report["categories"].items()} == {"color": 0, "people": 100}
    rows = [row for _, row in table_rows(tmp_path / "up.xlsx")]
    assert list(rows[0]) == ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    assert [(row["index"], row["prediction"]) for row in rows] == [(7, "A"), (1000007, "blue"), (8, "A. =he")]
    assert rows[2]["A"] == "=he"  # no formula
    assert values(run("mmbench", tmp_path / "up.xlsx", tmp_path / "up.xlsx")) == values(report)


def test_mmbench_xlsx_without_the_index_is_refused(tmp_path):
    write_sheet(tmp_path / "x.xlsx", ["question", "A", "prediction"], [["which?", "red", "A"]])
    with pytest.raises(InputError, match=r"x.xlsx: has no column index.*question, A, prediction"):
        asked("mmbench", tmp_path / "x.xlsx")
    table = mmbench_tsv(tmp_path / "d.tsv", [7, "which?", "", "red", "blue", "", "", "A", "color", "", "dev"])
    with pytest.raises(InputError, match=r"x.xlsx, line 2: has no 'index'"):
        run("mmbench", table, tmp_path / "x.xlsx")


def test_xlsx_without_openpyxl_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(InputError, match=r"pip install 'lavabeam\[evaluate\]'"):
        write_sheet(tmp_path / "x.xlsx", ["a"], [])


def test_seedbench_by_picture_and_video(tmp_path):
    row = {"choice_a": "one", "choice_b": "two", "choice_c": "three", "choice_d": "four", "answer": "B"}
    official = [
        {
            **row,
            "question_id": "101",
            "question": "how many?",
            "data_type": "image",
            "data_id": "9_1",
            "question_type_id": 5,
        },
        {
            **row,
            "question_id": "v1",
            "question": "what next?",
            "data_type": "video",
            "data_id": "a",
            "question_type_id": 10,
        },
    ]
    types = {"Instances Counting": 5, "Action Prediction": 10}
    path = whole(tmp_path / "SEED-Bench.json", {"question_type": types, "questions": official})
    first, second = asked("seedbench", path)
    assert first.text == f"how many?\nA. one\nB. two\nC. three\nD. four\n{LETTER}"
    assert (first.image, second.image) == ("SEED-Bench-image/9_1", "SEED-Bench-video-image/10_v1.png")
    answers = lines(tmp_path / "a.jsonl", {"question_id": "v1", "text": "B. two"}, {"question_id": 101, "text": "B"})
    report = run("seedbench", path, answers, upload=tmp_path / "up.jsonl")
    assert values(report) == {"accuracy": 50, "image": 100, "video": 0}
    assert values(run("seedbench", path, answers, protocol="lmms-eval"))["video"] == 100
    assert values(run("seedbench", path, tmp_path / "up.jsonl")) == values(report)
    llava = {"question_id": "101", "image": first.image, "text": first.text}
    only = lines(tmp_path / "b.jsonl", {"question_id": 101, "text": "B"})
    assert values(run("seedbench", lines(tmp_path / "q.jsonl", llava), only, truth=path))["image"] == 100
