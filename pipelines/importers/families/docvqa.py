"""DocVQA (https://www.docvqa.org, arXiv 2007.00398) and what InfographicVQA shares with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from pipelines.engine.step import Runtime
from pipelines.importers.families.base import Family, FamilyConfig, Turn
from pipelines.importers.families.question import Answer, FamilyStatus, Question, Unusable
from pipelines.importers.families.reading import Paths, Record, listed
from pipelines.importers.families.turns import most_common


class DocumentConfig(FamilyConfig):
    """The file of a split, and which answer is trained on."""

    answer: Literal["first", "most_common"] = Field(
        "first", description="which accepted answer to use: the first, or the most frequent"
    )


class DocvqaConfig(DocumentConfig):
    """DocVQA's file of a split."""

    path: Annotated[str | list[str], Runtime()] = Field(
        description="train_v1.0.json or train_v1.0_withQT.json, several, or a pattern; a test split has no answers"
    )


D = TypeVar("D", bound=DocumentConfig)


class Documents(Family[D]):
    """A row per page or infographic with all its questions."""

    def turns(self, question: Question) -> list[Turn]:
        answers = [answer.text for answer in question.answers if answer.text.strip()]
        if not answers:
            raise Unusable(FamilyStatus.no_answer, "no answer")
        chosen = answers[0] if self.config.answer == "first" else most_common(answers)
        return [(question.text, str(chosen))]


class Docvqa(Documents[DocvqaConfig]):
    """Pages of DocVQA; their names say archive and page, so they are found in any folder."""

    name = "docvqa"
    version = 1
    Config = DocvqaConfig

    def questions(self) -> Iterator[Question]:
        return read(self.config.path)

    def places(self, picture: str) -> list[str]:
        return [f"docvqa/{picture}", picture, picture.rpartition("/")[2]]


def read(path: Paths, picture: str = "image") -> Iterator[Question]:
    """The questions of DocVQA's envelope; `picture` is the field of the picture's name.

    facts: question_types, docId, data_split and the document's ids, as far as the file has them. Raises InputError for
    files of another layout.
    """
    return (_question(record, picture) for record in listed(path, "data"))


def _question(record: Record, picture: str) -> Question:
    names = ("question_types", "docId", "ucsf_document_id", "ucsf_document_page_no", "data_split")
    return Question(
        id=record.id("questionId"),
        picture=record.text(picture),
        text=record.text("question"),
        answers=tuple(Answer(text) for text in record.texts("answers")),
        facts={name: record.values[name] for name in names if name in record.values},
    )
