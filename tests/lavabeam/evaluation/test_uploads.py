"""Every upload file that is written is read again as answers, and gives the same score."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavabeam.evaluation.joining import Allowed
from lavabeam.evaluation.normalise import evalai
from lavabeam.evaluation.registry import OURS, open_benchmark
from lavabeam.evaluation.run import Files, Settings, evaluate_answers, open_checked, read_questions
from schemas.errors import InputError
from tests.lavabeam.evaluation.files import lines, whole
from tests.pictures import colour, encoded

COUNT = 4
SAID = ["\n Yes, it is\tred. ", "None", "B. blue", "B"]
"""White space, a word that tables take for nothing, and forms that are read in different ways."""


def lines_of(folder, image="p{}.jpg", text="Is {} red?"):
    rows = [{"question_id": n, "image": image.format(n), "text": text.format(n)} for n in range(COUNT)]
    return lines(folder / "q.jsonl", *rows)


def vqav2(folder):
    people = [["red"] * 10, ["0"] * 10, ["b blue"] * 10, ["B"] * 4 + ["b"] * 6]
    rows = [{"question_id": n, "answers": said, "answer_type": "other"} for n, said in enumerate(people)]
    return lines_of(folder, "COCO_val2014_{}.jpg"), {"truth": whole(folder / "t.json", {"annotations": rows})}


def gqa(folder):
    rows = [{"question": f"is {n} red?", "answer": "b", "imageId": "n", "types": {}} for n in range(COUNT)]
    return whole(folder / "q.json", {str(n): row for n, row in enumerate(rows)}), {}


def vizwiz(folder):
    people = [{"answer": "b"}] * 10
    rows = [{"image": f"p{n}.jpg", "question": f"Is {n} red?", "answers": people} for n in range(COUNT)]
    return whole(folder / "q.json", rows), {}


def scienceqa(folder):
    turns = [{"from": "human", "value": "Which?\nA. red\nB. blue"}, {"from": "gpt", "value": "B"}]
    return whole(folder / "q.json", [{"id": str(n), "conversations": turns} for n in range(COUNT)]), {}


def textvqa(folder):
    """The official file, whose upload has its numbers; the fourth question shows the third's picture."""
    rows = [
        {"question_id": 100 + n, "image_id": f"p{min(n, 2)}", "question": f"Is {n} red?", "answers": ["b"] * 10}
        for n in range(COUNT)
    ]
    return whole(folder / "q.json", {"data": rows}), {"protocol": "lmms-eval"}


def pope(folder):
    for category in ("adversarial", "popular", "random"):
        rows = [
            {"question_id": n, "image": "c.jpg", "text": f"Is there a {n} in the image?", "label": ("yes", "no")[n % 2]}
            for n in range(COUNT)
        ]
        lines(folder / f"coco_pope_{category}.json", *rows)
    return folder, {}


def mme(folder):
    asked = "".join(
        f"{n // 2}.jpg\tIs {n} red? Please answer yes or no.\t{('Yes', 'No')[n % 2]}\n" for n in range(COUNT)
    )
    (folder / "truth").mkdir()
    (folder / "truth" / "existence.txt").write_text(asked)
    rows = [
        {"question_id": f"existence/{n // 2}.jpg", "text": f"Is {n} red?", "category": "existence"}
        for n in range(COUNT)
    ]
    return lines(folder / "q.jsonl", *rows), {"truth": folder / "truth"}


def mmbench(folder):
    names = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "split"]
    picture = base64.b64encode(encoded(colour())).decode()
    rows = [[n, "which?", "", "red", "blue", "", "", "B", "color", picture, "dev"] for n in range(COUNT)]
    path = folder / "dev.tsv"
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in (names, *rows)))
    return path, {}


def seedbench(folder):
    choices = {f"choice_{letter}": letter * 3 for letter in "abcd"}
    row = {
        **choices,
        "answer": "B",
        "question": "how many?",
        "data_type": "image",
        "data_id": "9",
        "question_type_id": 5,
    }
    rows = [{**row, "question_id": str(n)} for n in range(COUNT)]
    return whole(folder / "q.json", {"question_type": {"Counting": 5}, "questions": rows}), {}


def llava_bench(folder):
    reviews = [{"question_id": n, "category": "conv", "content": f"8 {n}\nwords"} for n in range(COUNT)]
    return lines_of(folder), {"reviews": (lines(folder / "r.jsonl", *reviews),)}


def mm_vet(folder):
    rows = {
        f"v1_{n}": {"imagename": "x", "question": f"Is {n} red?", "answer": "b", "capability": ["rec"]}
        for n in range(COUNT)
    }
    grades = {name: {"score": [0.5]} for name in rows}
    path = whole(folder / "mm-vet.json", rows)
    return path, {"truth": path, "reviews": (whole(folder / "g.json", grades),)}


MADE = {
    "vqav2": vqav2,
    "gqa": gqa,
    "vizwiz": vizwiz,
    "scienceqa": scienceqa,
    "textvqa": textvqa,
    "pope": pope,
    "mme": mme,
    "mmbench": mmbench,
    "mmbench-cn": mmbench,
    "seedbench": seedbench,
    "llava-bench": llava_bench,
    "mm-vet": mm_vet,
}


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", [name for name in OURS if open_benchmark(name).upload_file])
def test_an_upload_is_read_again_and_gives_the_same_score(tmp_path, name, missing):
    """Also where an answer is missing, and is allowed to be."""
    questions, files = MADE[name](tmp_path)
    protocol = files.pop("protocol", "llava")
    benchmark, settings = open_checked(name, protocol), Settings(protocol, Allowed(missing=missing))
    asked = read_questions(benchmark, questions, settings)
    rows = [
        {"question_id": one.id, "prompt": one.text, "text": SAID[number % len(SAID)]}
        for number, one in enumerate(asked)
    ]
    answers = lines(tmp_path / "a.jsonl", *rows[missing:])
    upload = tmp_path / ("up.xlsx" if name.startswith("mmbench") else "up" if name == "mme" else "up.jsonl")

    def scored(path, again):
        given = Files(questions=questions, answers=path, upload=again, output=tmp_path / "out", **files)
        return evaluate_answers(benchmark, asked, given, settings)

    first, second = scored(answers, upload), scored(upload, upload.with_stem("again"))
    assert second["scores"] == first["scores"] and second["categories"] == first["categories"]
    assert second["join"]["questions"] == len(asked) and second["join"]["foreign"] == 0
    if upload.suffix != ".xlsx" and upload.is_file():  # written from what was read, it is the same file
        assert upload.with_stem("again").read_bytes() == upload.read_bytes()


def test_the_benchmarks_score_what_the_answers_say(tmp_path):
    """Not all answers above are right, and not all wrong: equal scores say something."""
    questions, files = pope(tmp_path)
    asked = read_questions(open_benchmark("pope"), questions, Settings())
    answers = lines(tmp_path / "a.jsonl", *({"question_id": one.id, "text": "Yes"} for one in asked))
    given = Files(questions=questions, answers=answers, upload=tmp_path / "up.jsonl", **files)
    report = evaluate_answers(open_benchmark("pope"), asked, given, Settings())
    assert report["counts"]["random"] == {"TP": 2, "FP": 2}
    (line, *_) = [json.loads(row) for row in (tmp_path / "up.jsonl").read_text().splitlines()]
    wanted = {"question_id": "adversarial/0", "category": "adversarial", "image": "c.jpg", "answer": "Yes"}
    assert line == {**wanted, "question": "Is there a 0 in the image?"}


def test_lines_without_an_id_are_refused_with_what_they_have(tmp_path):
    questions, files = pope(tmp_path)
    asked = read_questions(open_benchmark("pope"), questions, Settings())
    answers = lines(tmp_path / "a.jsonl", *({"question": one.stem, "answer": "yes"} for one in asked))
    with pytest.raises(InputError, match=r"row 1: has no 'question_id'.*its fields are 'question', 'answer'"):
        evaluate_answers(
            open_benchmark("pope"), asked, Files(questions=questions, answers=answers, **files), Settings()
        )


@given(st.text(alphabet=st.sampled_from("aAnthe10 ,.?!-;/\t\no"), max_size=24))
def test_an_answer_as_an_upload_has_it_stays_what_it_is(text):
    """Uploads of VQAv2, VizWiz and TextVQA hold processed answers, and are processed again when they are read. (The
    official processor writes `hes` as `he's`, and that as `he 's`: contractions are left out here.)"""
    assert evalai(evalai(text)) == evalai(text)
