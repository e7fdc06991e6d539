"""Our scores beside the published ones, on the official answer files of LLaVA-1.5-13B; and the time of a large set.

`python -m bench.evaluation --eval-data DIR`. DIR holds LLaVA's evaluation archive as `llava-eval/`, and the truths of
POPE, MME, MM-Vet and of TextVQA's first 30 rows, as their repositories have them. Published figures: LLaVA's
docs/MODEL_ZOO.md and the result files of the archive. The large set has the layout of VQAv2's validation questions
and annotations (214,354 questions, ten answers each), made here; the goal is 20 s of CPU for scoring it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lavabeam.evaluation.joining import Allowed
from lavabeam.evaluation.layouts import table_rows
from lavabeam.evaluation.question import LLAVA
from lavabeam.evaluation.run import Files, Settings, evaluate_answers, open_checked, read_questions
from lavabeam.evaluation.scores import read_reviews, summary

WORK = Path(__file__).parent / "output" / "evaluation"
QUESTIONS, GOAL_S = 214_354, 20.0
MODEL = "llava-v1.5-13b"

Figure = tuple[str, float, float]
"""(what, published, ours)"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--eval-data", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    arguments = parser.parse_args()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    figures, differing = [], 0
    for part in PARTS:
        for what, published, ours in part(arguments.eval_data):
            differing += ours != published
            print(f"{what:44} published {published:>12} ours {ours:>12} {'equal' if ours == published else 'DIFFERS'}")
            figures.append((what, published, ours))
    seconds = large(arguments.questions)
    print(f"{arguments.questions} answers in VQAv2's layout scored in {seconds:.1f} s of CPU")
    shutil.rmtree(WORK)
    known = {"figure": "known answers that are equal", "value": len(figures) - differing, "peer": len(figures)}
    speed = {"figure": f"scoring {arguments.questions} answers, CPU s", "value": round(seconds, 2), "goal": GOAL_S}
    print(json.dumps([{**known, "ok": differing == 0}, {**speed, "ok": seconds <= GOAL_S}]))


def scored(name: str, questions: Path, answers: Path, allowed: Allowed | None = None, **files: Any) -> dict[str, Any]:
    settings = Settings(LLAVA, allowed or Allowed())
    benchmark = open_checked(name, LLAVA)
    asked = read_questions(benchmark, questions, settings)
    return evaluate_answers(benchmark, asked, Files(questions=questions, answers=answers, **files), settings)


def value(report: dict[str, Any], name: str, digits: int) -> float:
    return round(report["scores"][name]["value"], digits)


def scienceqa(data: Path) -> Iterator[Figure]:
    folder = data / "llava-eval/scienceqa"
    questions = folder / "llava_test_CQM-A.json"
    report = scored("scienceqa", questions, folder / f"answers/{MODEL}_output.jsonl")
    yield "ScienceQA", 74.39283, value(report, "accuracy", 5)
    yield "ScienceQA, right", 3155, report["correct"]
    yield "ScienceQA-IMG (1445 of 2017)", round(144500 / 2017, 5), value(report, "image", 5)
    report = scored("scienceqa", questions, data / "llava-table/results/test_sqa_llava_13b_v0.json")
    yield "ScienceQA, older file", 90.89837, value(report, "accuracy", 5)
    yield "ScienceQA, older file, right", 3855, report["correct"]


def pope(data: Path) -> Iterator[Figure]:
    folder = data / "llava-eval/pope"
    questions, answers = folder / "llava_pope_test.jsonl", folder / f"answers/{MODEL}.jsonl"
    counts = {"adversarial": (1182, 117, 1383, 318), "popular": (1182, 59, 1441, 318), "random": (1182, 31, 1379, 318)}
    f1 = {"adversarial": 0.844587, "popular": 0.862459, "random": 0.871360}
    for version, said in (("coco_e3e39262", "its labels"), ("coco", "today's labels, 3,000 random")):
        report = scored("pope", questions, answers, truth=data / "pope" / version)
        for category, known in counts.items():
            found = report["counts"][category]
            for name, number in zip(("TP", "FP", "TN", "FN"), known, strict=True):
                yield f"POPE {category} {name}, {said}", number, found[name]
            figure = report["categories"][category]["f1"]["value"]
            yield f"POPE {category} F1, {said}", f1[category], round(figure / 100, 6)
        yield f"POPE mean F1, {said}", 85.947, value(report, "f1", 3)


def mme(data: Path) -> Iterator[Figure]:
    folder = data / "llava-eval/MME"
    files = folder / "llava_mme.jsonl", folder / f"answers/{MODEL}.jsonl"
    report = scored("mme", *files, truth=data / "mme/Your_Results")
    yield "MME perception", 1531.3187, value(report, "perception", 4)
    yield "MME cognition", 295.3571, value(report, "cognition", 4)


def mmbench(data: Path) -> Iterator[Figure]:
    folder = data / "llava-eval/mmbench"
    published = folder / f"answers_upload/mmbench_dev_20230712/{MODEL}.xlsx"
    upload = WORK / "mmbench.xlsx"
    report = scored("mmbench", published, folder / f"answers/mmbench_dev_20230712/{MODEL}.jsonl", upload=upload)
    yield "MMBench circular", 67.687, value(report, "circular", 3)
    yield "MMBench circular, right of 1176", 796, report["counts"]["groups_right"]
    yield "MMBench single pass, right of 4377", 3346, report["counts"]["rows_right"]
    pairs = zip(table_rows(published), table_rows(upload), strict=True)
    yield "MMBench xlsx, rows equal", 4377, sum(one == other for (_, one), (_, other) in pairs)


def vizwiz(data: Path) -> Iterator[Figure]:
    folder, upload = data / "llava-eval/vizwiz", WORK / "vizwiz.json"
    scored("vizwiz", folder / "llava_test.jsonl", folder / f"answers/{MODEL}.jsonl", upload=upload)
    published = json.loads((folder / f"answers_upload/{MODEL}.json").read_text())
    pairs = zip(published, json.loads(upload.read_text()), strict=True)
    yield "VizWiz upload, rows equal", 8000, sum(one == other for one, other in pairs)


def textvqa(data: Path) -> Iterator[Figure]:
    folder = data / "llava-eval/textvqa"
    files = folder / "llava_textvqa_val_v051_ocr.jsonl", folder / f"answers/{MODEL}.jsonl"
    report = scored("textvqa", *files, Allowed(unscored=True), truth=data / "textvqa_first30.json")
    yield "TextVQA, first 30 rows", 60.6667, value(report, "accuracy", 4)


def llava_bench(data: Path) -> Iterator[Figure]:
    folder = data / "llava-eval/llava-bench-in-the-wild"
    parsed = 0
    for run, published in {1: 72.8, 2: 72.7, 3: 72.1}.items():
        found = summary(read_reviews(folder / f"reviews/{MODEL}-eval{run}.jsonl"))
        yield f"LLaVA-Bench run {run}", published, round(found["all"]["relative"] or 0, 1)
        parsed += int(found["all"]["reviews"] or 0) - int(found["all"]["unreadable"] or 0)
    yield "LLaVA-Bench, reviews parsed", 180, parsed
    for model, published in (("bard", 98.7), ("gpt35", 92.1)):
        found = summary(read_reviews(data / f"llava-table/review/review_{model}_vicuna-13b.jsonl"))
        yield f"Vicuna-80, {model}", published, round(found["all"]["relative"] or 0, 1)


def mmvet(data: Path) -> Iterator[Figure]:
    folder, upload = data / "llava-eval/mm-vet", WORK / "mmvet.json"
    known = {1: (36.1, 40.6, 28.0, 23.5, 24.4, 34.7, 7.7), 3: (36.3, 40.5, 28.4, 23.5, 24.2, 35.2, 8.8)}
    for runs, published in known.items():
        grades = folder / f"results/{MODEL}_gpt-4-grade-{runs}runs.json"
        files = {"truth": data / "mmvet/mm-vet.json", "reviews": (grades,), "upload": upload}
        report = scored("mm-vet", folder / "llava-mm-vet.jsonl", folder / f"answers/{MODEL}.jsonl", **files)
        yield f"MM-Vet, {runs} runs", published[0], value(report, "score", 1)
        for name, figure in zip(("rec", "ocr", "know", "gen", "spat", "math"), published[1:], strict=True):
            yield f"MM-Vet {name}, {runs} runs", figure, round(report["categories"][name]["score"]["value"], 1)
    same = json.loads(upload.read_text()) == json.loads((folder / f"results/{MODEL}.json").read_text())
    yield "MM-Vet upload, rows equal", 218, 218 if same else 0


def uploads(data: Path) -> Iterator[Figure]:
    """Without public truths: the number of rows that the servers take."""
    folder = data / "llava-eval/gqa"
    answers = folder / f"answers/llava_gqa_testdev_balanced/{MODEL}.jsonl"
    report = scored("gqa", folder / "llava_gqa_testdev_balanced.jsonl", answers, upload=WORK / "gqa.json")
    yield "GQA upload, rows", 12578, report["upload"]["rows"]


PARTS: tuple[Callable[[Path], Iterator[Figure]], ...] = (
    *(scienceqa, pope, mme, mmbench, vizwiz, textvqa, llava_bench, mmvet, uploads),
)


def large(count: int) -> float:
    """CPU seconds from files to figures, intervals included."""
    questions, annotations, answers = make(count)
    began = time.process_time()
    report = scored("vqav2", questions, answers, truth=annotations)
    assert report["scored"] == count
    return time.process_time() - began


def make(count: int) -> tuple[Path, Path, Path]:
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnoprstuvwy", k=chance.randint(2, 9))) for _ in range(20_000)]
    words += ["yes", "no"] * 20_000
    paths = tuple(WORK / name for name in ("questions.json", "annotations.json", "answers.jsonl"))
    asked, annotated = [], []
    with paths[2].open("w") as lines:
        for number in range(count):
            shape = {"image_id": number // 5, "question_id": number * 1000 + 1}
            said = chance.choice(words)
            others = [said if chance.random() < 0.7 else f"the {chance.choice(words)}" for _ in range(10)]
            people = [
                {"answer": one, "answer_confidence": "yes", "answer_id": place} for place, one in enumerate(others, 1)
            ]
            asked.append({**shape, "question": f"what is the {chance.choice(words)} in it?"})
            annotated.append({**shape, "question_type": "what", "answer_type": "other", "answers": people})
            answer = said.capitalize() if chance.random() < 0.8 else chance.choice(words)
            lines.write(json.dumps({"question_id": shape["question_id"], "text": answer}) + "\n")
    paths[0].write_text(json.dumps({"data_subtype": "val2014", "questions": asked}))
    paths[1].write_text(json.dumps({"data_subtype": "val2014", "annotations": annotated}))
    return paths[0], paths[1], paths[2]


if __name__ == "__main__":
    main()
