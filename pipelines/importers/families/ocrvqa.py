"""OCR-VQA (https://ocr-vqa.github.io, ICDAR 2019): an object of book covers by ISBN or ASIN."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from pipelines.engine.step import Runtime
from pipelines.importers.families.base import Family, FamilyConfig, Turn
from pipelines.importers.families.notes import Tally, counted
from pipelines.importers.families.question import FamilyStatus, Question, Unusable
from pipelines.importers.families.reading import Paths, Record, named

SPLITS = {1: "train", 2: "val", 3: "test"}
"""What the numbers in `split` mean."""


class OcrvqaConfig(FamilyConfig):
    """The file of all splits, and which of them is read."""

    path: Annotated[str | list[str], Runtime()] = Field(description="dataset.json")
    split: Literal["train", "val", "test", "all"] = Field("train", description="the books of which split")


class Ocrvqa(Family[OcrvqaConfig]):
    """A row per book cover with all its questions. LLaVA-1.5 trains on 80,000 of them: a mix chooses."""

    name = "ocrvqa"
    version = 1
    Config = OcrvqaConfig
    located_by = ("path", "split")

    def questions(self) -> Iterator[Question]:
        return read(self.config.path, self.config.split, self.tally)

    def turns(self, question: Question) -> list[Turn]:
        if not question.answer or not question.answer.strip():
            raise Unusable(FamilyStatus.no_answer, "no answer")
        return [(question.text, question.answer)]

    def places(self, picture: str) -> list[str]:
        # The official downloader keeps a URL's ending; LLaVA names every file .jpg, whatever it holds.
        plain = f"{posixpath.splitext(picture)[0]}.jpg"
        places = [f"ocr_vqa/images/{plain}", f"images/{picture}", f"images/{plain}", picture, plain]
        return list(dict.fromkeys(places))


def read(path: Paths, split: str = "all", tally: Tally | None = None) -> Iterator[Question]:
    """The questions about the books of a split; a question's id is the book's and its number.

    facts: title, authorName, genre and imageURL. Raises InputError for a file of another layout. `tally` hears of books
    of other splits, and of answers that belong to no question.
    """
    others = surplus = 0
    for record in named(path):
        if split not in ("all", _split(record)):
            others += 1
            continue
        questions, answers = record.texts("questions"), record.texts("answers")
        surplus += max(len(answers) - len(questions), 0)
        yield from (_question(record, number, questions, answers) for number in range(len(questions)))
    if tally is not None and others:
        tally.extra.append(f"{counted(others, 'book')} of other splits left out (split: {split}).")
    if tally is not None and surplus:
        tally.extra.append(f"{counted(surplus, 'answer')} without a question.")


def _question(record: Record, number: int, questions: tuple[str, ...], answers: tuple[str, ...]) -> Question:
    names = ("title", "authorName", "genre", "imageURL")
    ending = posixpath.splitext(urlsplit(record.text("imageURL")).path)[1] or ".jpg"
    return Question(
        id=f"{record.name}/{number}",
        picture=f"{record.name}{ending}",
        text=questions[number],
        answer=answers[number] if number < len(answers) else None,
        facts={name: record.values[name] for name in names if name in record.values},
    )


def _split(record: Record) -> str:
    return SPLITS.get(record.number("split")) or record.refuse("split", "1, 2 or 3 (train, val, test)")
