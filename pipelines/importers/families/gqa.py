"""GQA (https://cs.stanford.edu/people/dorarad/gqa, arXiv 1902.09506): an object of questions by id."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from pipelines.engine.step import Runtime
from pipelines.importers.families.base import Family, FamilyConfig, Turn
from pipelines.importers.families.question import FamilyStatus, Question, Unusable
from pipelines.importers.families.reading import Paths, Record, named


class GqaConfig(FamilyConfig):
    """GQA's file of a split, and which of its two answers is trained on."""

    path: Annotated[str | list[str], Runtime()] = Field(
        description="train_balanced_questions.json, several, or a pattern (train_all has ten)"
    )
    answer: Literal["answer", "fullAnswer"] = Field("answer", description="the short one, or the sentence")


class Gqa(Family[GqaConfig]):
    """A row per picture with all its questions."""

    name = "gqa"
    version = 1
    Config = GqaConfig

    def questions(self) -> Iterator[Question]:
        return read(self.config.path)

    def turns(self, question: Question) -> list[Turn]:
        answer = question.answer if self.config.answer == "answer" else question.facts.get("fullAnswer")
        if not answer or not answer.strip():
            raise Unusable(FamilyStatus.no_answer, "no answer")
        return [(question.text, answer)]

    def places(self, picture: str) -> list[str]:
        # Names are short numbers, which other sets have too: nothing is looked for in just any folder.
        return [f"gqa/images/{picture}", f"images/{picture}", f"/{picture}"]


def read(path: Paths) -> Iterator[Question]:
    """The questions of GQA. Raises InputError for files of another layout.

    facts: fullAnswer, isBalanced, types and groups, as far as the split has them. Programs are not kept.
    """
    return map(_question, named(path))


def _question(record: Record) -> Question:
    names = ("fullAnswer", "isBalanced", "types", "groups")
    record.optional("fullAnswer", str)
    return Question(
        id=record.name,
        picture=f"{record.id('imageId')}.jpg",
        text=record.text("question"),
        answer=record.optional("answer", str),
        facts={name: record.values[name] for name in names if name in record.values},
    )
