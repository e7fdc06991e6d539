"""After scoring: write results as a dataset and a page, and check overlap with the training data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lavabeam.evaluation.custom.sets import read_set
from lavabeam.evaluation.leaks import ASKED, Asked, leaks
from lavabeam.evaluation.question import Question
from lavabeam.evaluation.report.page import PictureOf, write_page
from lavabeam.evaluation.report.results import Result, Results, write_rows
from lavabeam.evaluation.run import SCORES
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.picturefolder import PictureFolder

PAGE = "results.html"


def write_results(folder: Path, target: str, questions: Path, images: Path | None, notes: Sequence[str]) -> Path:
    """Add what was asked of whom to scores.json, and write the dataset and the page beside it; returns the page."""
    known = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    checkpoint = target if (Path(target) / "config.json").is_file() else None
    known |= {"target": target, "checkpoint": checkpoint, "questions": str(questions), "notes": list(notes)}
    known["images"] = None if images is None else str(images)
    draft = folder / f"{SCORES}.part"
    draft.write_text(json.dumps(known, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(folder / SCORES)
    results = Results.read(folder)
    write_rows(results)
    return write_page(results, folder / PAGE, pictures_of(results), notes)


def training_leaks(checkpoint: str, questions: Sequence[Question], sources: Any) -> list[str]:
    """A line for each mix of the checkpoint's runs that holds some of the questions or their pictures.

    sources: a question's number -> its pictures (bytes or paths); raises InputError for one that is not there.
    """

    def asked() -> Iterator[Asked]:
        for number in range(0, len(questions), -(-len(questions) // ASKED)):
            question = questions[number]
            try:
                pictures = sources(number)
            except InputError:
                pictures = ()
            yield question.id, question.stem, pictures

    return [line for one in leaks(checkpoint, asked()) if (line := one.line())]


def named_pictures(questions: Sequence[Question], images: Path | None) -> Any:
    """`sources` of questions whose pictures are in a folder, or in the questions themselves."""
    folder = None if images is None else PictureFolder(str(images))

    def sources(number: int) -> tuple[bytes | Path, ...]:
        image = questions[number].image
        if isinstance(image, bytes):
            return (image,)
        names = (image,) if isinstance(image, str) else image or ()
        found = [folder.find(name) for name in names] if folder else []
        return tuple(Path(one.path) for one in found if not one.problem)

    return sources


def pictures_of(results: Results, images: Path | None = None) -> PictureOf:
    """Finds the first picture of a result, in `images` or where the evaluation had them; None where it is not there."""
    place = images or results.figures.get("images")
    try:
        if results.figures.get("set"):
            return _of_set(results.figures["set"], place)
        folder = PictureFolder(str(place)) if place and not Dataset.exists(place) else None
    except (InputError, OSError):
        return lambda row: None

    def picture(row: Result) -> bytes | Path | None:
        found = folder.find(row.image) if folder and row.image else None
        return Path(found.path) if found and not found.problem else None

    return picture


def _of_set(path: str, images: Any) -> PictureOf:
    made = read_set(path, images)
    numbers = {question.id: number for number, question in enumerate(made.questions)}

    def picture(row: Result) -> bytes | Path | None:
        try:
            return next(iter(made.sources(numbers[row.id])), None)
        except (InputError, KeyError):
            return None

    return picture
