"""Small files of the official layouts, and a benchmark run on them."""

import json
from pathlib import Path

from lavabeam.evaluation.joining import Allowed
from lavabeam.evaluation.registry import open_benchmark
from lavabeam.evaluation.run import Files, Settings, evaluate_answers, open_checked, read_questions


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
