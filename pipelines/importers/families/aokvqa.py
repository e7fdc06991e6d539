"""A-OKVQA (https://allenai.org/project/a-okvqa, arXiv 2206.01718): four choices a question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from pipelines.engine.step import Runtime
from pipelines.importers.families.base import Family, FamilyConfig, Turn, stem
from pipelines.importers.families.pictures import coco_places
from pipelines.importers.families.question import Answer, Question
from pipelines.importers.families.reading import Paths, Record, listed
from pipelines.importers.families.turns import LETTER, choice_turns


class AokvqaConfig(FamilyConfig):
    """A-OKVQA's file of a split, and how often a question is asked."""

    path: Annotated[str | list[str], Runtime()] = Field(
        description="aokvqa_v1p0_train.json, several, or a pattern; rows of a test split are not usable"
    )
    suffix_text: str = Field(LETTER, description="the line appended to the choices")
    rotations: Literal["all", "none"] = Field(
        "all",
        description="all: as many rows as choices, each with the choices moved up by one place more, so that the right "
        "letter changes (LLaVA-1.5: four); none: one row, the choices as published",
    )


class Aokvqa(Family[AokvqaConfig]):
    """A row per picture and rotation, with all questions about the picture. Answers are letters."""

    name = "aokvqa"
    version = 1
    Config = AokvqaConfig

    @property
    def several(self) -> bool:
        return True

    def questions(self) -> Iterator[Question]:
        return read(self.config.path)

    def turns(self, question: Question) -> list[Turn]:
        return choice_turns(question, len(question.choices) if self.config.rotations == "all" else 1)

    def places(self, picture: str) -> list[str]:
        return coco_places(picture)

    def group(self, question: Question) -> str:
        return stem(str(question.picture))


def read(path: Paths) -> Iterator[Question]:
    """The questions of A-OKVQA; `answers` are the ten direct ones. Raises InputError for files of another layout.

    facts: split, difficult_direct_answer and rationales, as far as the split has them.
    """
    return map(_question, listed(path))


def _question(record: Record) -> Question:
    names = ("split", "difficult_direct_answer", "rationales")
    return Question(
        id=record.id("question_id"),
        picture=f"{record.text('split')}2017/{record.number('image_id'):012d}.jpg",
        text=record.text("question"),
        answers=tuple(Answer(text) for text in record.texts("direct_answers")),
        choices=record.texts("choices"),
        correct=record.optional("correct_choice_idx", int),
        facts={name: record.values[name] for name in names if name in record.values},
    )
