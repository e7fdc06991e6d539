"""Each benchmark on small files of its official layouts, made here."""

import base64
import json
import sys
from pathlib import Path

import pytest

from lavabeam.evaluation.joining import Allowed
from lavabeam.evaluation.layouts import table_rows, write_sheet
from lavabeam.evaluation.question import LETTER, ONE_WORD
from lavabeam.evaluation.registry import OURS, open_benchmark
from lavabeam.evaluation.run import Files, Settings, evaluate_answers, open_checked, read_questions
from schemas.errors import InputError
from tests.pictures import colour, encoded

PICTURE = encoded(colour())


def lines(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def whole(path: Path, value) -> Path:
    path.write_text(json.dumps(value))
    return path


def run(name: str, questions: Path, answers: Path, protocol="llava", allowed=None, **files):
    settings = Settings(protocol, Allowed(**(allowed or {})))
    benchmark = open_checked(name, protocol)
    asked = read_questions(benchmark, questions, settings)
    return evaluate_answers(benchmark, asked, Files(questions=questions, answers=answers, **files), settings)


def values(report) -> dict[str, float]:
    return {name: round(one["value"], 3) for name, one in report["scores"].items()}


def asked(name: str, path: Path, protocol="llava"):
    return read_questions(open_benchmark(name), path, Settings(protocol))


@pytest.mark.parametrize("name", OURS)
def test_every_benchmark_says_what_it_is(name):
    benchmark = open_benchmark(name)
    assert benchmark.name == name and benchmark.title and benchmark.source
    assert set(benchmark.tokens) == set(benchmark.protocols)


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


def test_easy_vqa_in_its_published_layout(tmp_path):
    path = whole(tmp_path / "questions.json", [["is it red?", "yes", 3], ["what color is it?", "red", 3]])
    answers = lines(tmp_path / "a.jsonl", {"question_id": 0, "text": "Yes."}, {"question_id": 1, "text": "blue"})
    report = run("easy-vqa", path, answers)
    assert values(report) == {"accuracy": 50}
    assert {name: one["accuracy"]["value"] for name, one in report["categories"].items()} == {"yesno": 100, "color": 0}


def test_a_protocol_and_a_name_that_there_are_not():
    with pytest.raises(InputError, match="Did you mean pope"):
        open_checked("popee", "llava")
    with pytest.raises(InputError, match="MMBench has protocol llava here, not lmms-eval"):
        open_checked("mmbench", "lmms-eval")
