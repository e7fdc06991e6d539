"""ChartQA (https://github.com/vis-nlp/ChartQA, arXiv 2203.10244): human and augmented questions about charts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from pipelines.engine.step import Runtime
from pipelines.importers.families.base import Family, FamilyConfig, Turn, stem
from pipelines.importers.families.question import FamilyStatus, Question, Unusable
from pipelines.importers.families.reading import Paths, Record, listed
from schemas.errors import InputError

_SPLIT = re.compile(r"(train|val|test)_(human|augmented)")


class ChartqaConfig(FamilyConfig):
    """ChartQA's files of a split."""

    path: Annotated[str | list[str], Runtime()] = Field(
        description="train_human.json and train_augmented.json: one of them, both, or a pattern"
    )
    split: Literal["train", "val", "test"] | None = Field(
        None, description="the folder of the images; by default derived from the file's name"
    )


class Chartqa(Family[ChartqaConfig]):
    """A row per chart with all its questions. Texts with U+FFFD stay as published, and are counted."""

    name = "chartqa"
    version = 1
    Config = ChartqaConfig

    def questions(self) -> Iterator[Question]:
        return read(self.config.path, self.config.split)

    def turns(self, question: Question) -> list[Turn]:
        if not question.answer or not question.answer.strip():
            raise Unusable(FamilyStatus.no_answer, "no answer")
        return [(question.text, question.answer)]

    def group(self, question: Question) -> str:
        picture = str(question.picture)
        return f"{picture.partition('/')[0]}/{stem(picture)}"

    def places(self, picture: str) -> list[str]:
        # The splits have pictures of the same names.
        return [f"chartqa/{picture}", f"ChartQA Dataset/{picture}", picture, f"/{picture.partition('/')[2]}"]


def read(path: Paths, split: str | None = None) -> Iterator[Question]:
    """The questions of ChartQA; a question's id is its file's name and its number there, its picture SPLIT/png/NAME.

    facts: `source`, human or augmented, where the file's name says it. Raises InputError for files of another layout,
    and for one of another name without `split`.
    """
    numbers = Counter[str]()
    for record in listed(path):
        yield _question(record, split, numbers[record.path])
        numbers[record.path] += 1


def _question(record: Record, split: str | None, number: int) -> Question:
    file = record.path.rpartition("/")[2]
    named = _SPLIT.search(file)
    folder = split or (named[1] if named else None)
    if folder is None:
        raise InputError(
            f"{record.path}: expected a name such as train_human.json, which says where the pictures are. Give the "
            "file its official name, or set `split`."
        )
    return Question(
        id=f"{named[0] if named else file}/{number}",
        picture=f"{folder}/png/{record.text('imgname')}",
        text=record.text("query"),
        answer=record.optional("label", str),
        facts={"source": named[2]} if named else {},
    )
