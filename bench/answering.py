"""Picture questions answered by `lavabeam answer` and by lmms-eval (llava_hf): same model and questions, in one run.

`python -m bench.answering --model demo/output/stage2/model [--questions 1000]`. Needs `make lmms-eval` and `make demo`;
without them it says so and has no figure. Questions and pictures are Easy-VQA's test split. Both are whole processes,
from start to answers in a file: seconds, and CPU seconds of all their processes. lmms-eval asks one question at a time
(it refuses a larger batch of llava_hf).
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lavabeam.evaluation.benchmarks.easy_vqa import EasyVqa
from lavabeam.evaluation.lmms.environment import open_environment
from lavabeam.evaluation.lmms.process import Work, run
from lavabeam.evaluation.lmms.run import checkpoint_model, pictures_in
from lavabeam.evaluation.lmms.samples import read_samples
from lavabeam.evaluation.lmms.task import write_task
from lavabeam.evaluation.question import LLAVA, Question
from schemas.errors import InputError

WORK = Path(__file__).parent / "output" / "answering"
TOKENS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("demo/output/stage2/model"))
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--lmms-python", type=Path)
    arguments = parser.parse_args()
    try:
        environment = open_environment(arguments.lmms_python)
        if not (arguments.model / "config.json").is_file():
            raise InputError(f"{arguments.model}: no model here. Run `make demo`, or give one with --model.")
    except InputError as error:
        print(error, "[]", sep="\n")
        return
    import easy_vqa

    folder = Path(easy_vqa.__file__).parent / "data" / "test"
    questions = EasyVqa().questions(folder / "questions.json", LLAVA)[: arguments.questions]
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    ours, took, cpu = _timed(lambda: _ours(arguments.model, questions, folder / "images"))
    task = write_task(WORK / "task", "bench", questions, pictures_in(folder / "images"), TOKENS)
    model = checkpoint_model(arguments.model.absolute(), environment)
    work = Work((task.name,), task.folder, offline=True)
    runs, peer_took, peer_cpu = _timed(lambda: run(environment, model, work, WORK / "lmms-eval"))
    theirs = [one.texts[0].strip() for one in read_samples(runs)[task.name]]
    equal = sum(one == other for one, other in zip(ours, theirs, strict=True))
    print(f"{len(questions)} questions, device {environment.device}: {equal} texts equal")
    print(f"lavabeam answer: {took:.1f} s, {cpu:.1f} s of CPU")
    print(f"lmms-eval {environment.version}: {peer_took:.1f} s, {peer_cpu:.1f} s of CPU ({peer_cpu / cpu:.1f} times)")
    asked = f"answering {len(questions)} questions"
    figures = [
        {"figure": f"{asked}, CPU s", "value": round(cpu, 1), "peer": round(peer_cpu, 1), "ok": cpu <= peer_cpu},
        {"figure": f"{asked}, s", "value": round(took, 1), "peer": round(peer_took, 1), "ok": took <= peer_took},
        {"figure": "texts equal to lmms-eval's", "value": equal, "peer": len(questions), "ok": equal == len(questions)},
    ]
    shutil.rmtree(WORK)
    print(json.dumps(figures))


def _ours(model: Path, questions: list[Question], images: Path) -> list[str]:
    asked, answers = WORK / "questions.jsonl", WORK / "answers.jsonl"
    rows = [{"question_id": one.id, "text": one.text, "image": one.image} for one in questions]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["answer", model, asked, answers, "--images", images, "--max-tokens", TOKENS]
    subprocess.run([sys.executable, "-m", "lavabeam", *map(str, words)], check=True)
    return [json.loads(line)["text"] for line in answers.read_text(encoding="utf-8").splitlines()]


def _timed(work: Any) -> tuple[Any, float, float]:
    """What it returns, its seconds, and the CPU seconds of the processes that it started."""
    began, before = time.monotonic(), _children()
    done = work()
    return done, time.monotonic() - began, _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
