"""TextVQA (https://textvqa.org, arXiv 1904.08920), with the OCR tokens that are published beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, TypeVar

from pydantic import Field

from pipelines.engine.step import Runtime
from pipelines.importers.families.base import Family, FamilyConfig, Turn
from pipelines.importers.families.question import Answer, FamilyStatus, Question, Unusable
from pipelines.importers.families.reading import Paths, Record, listed
from pipelines.importers.families.turns import most_common

OCR_LINE = "Reference OCR token: "
"""Begins the line of tokens in LLaVA-1.5's TextCaps rows and in its evaluation of TextVQA."""


class OcrConfig(FamilyConfig):
    """The file of OCR tokens that TextVQA and TextCaps share."""

    ocr: Annotated[str | list[str] | None, Runtime()] = Field(
        None, description="TextVQA_Rosetta_OCR_v0.2_train.json: its tokens are listed in the first question of a row"
    )


T = TypeVar("T", bound=OcrConfig)


class WithOcr(Family[T]):
    """Pictures of Open Images in train_images and test_images, and the tokens that OCR found in them."""

    located_by = ("path", "ocr")

    def __init__(self, config: T):
        super().__init__(config)
        self._tokens: dict[str, str] = {}
        self._without = 0

    def prepare(self) -> None:
        """Reads the OCR file: 22,000 pictures, about 10 MB of text."""
        self._without = 0
        if self.config.ocr is not None:
            self._tokens = {image: ", ".join(tokens) for image, tokens in read_ocr(self.config.ocr)}

    def places(self, picture: str) -> list[str]:
        return [f"textvqa/{picture}", picture, picture.rpartition("/")[2]]

    def asked(self, question: str, group: str, number: int) -> str:
        tokens = self._tokens.get(group) if number == 0 else None
        self._without += number == 0 and not tokens
        return super().asked(f"{question}\n{OCR_LINE}{tokens}" if tokens else question, group, number)

    def notes(self) -> list[str]:
        lines = super().notes()
        if self.config.ocr is None:
            lines.append(f'no OCR file was given (--ocr): no question has a line "{OCR_LINE}...".')
        elif self._without:
            lacking = "1 row has" if self._without == 1 else f"{self._without} rows have"
            lines.append(f'{lacking} no line "{OCR_LINE}...": the OCR file has no tokens for their pictures.')
        return lines


class TextvqaConfig(OcrConfig):
    """TextVQA's file of a split."""

    path: Annotated[str | list[str], Runtime()] = Field(
        description="TextVQA_0.5.1_train.json, several, or a pattern; rows of the test split are not usable"
    )


class Textvqa(WithOcr[TextvqaConfig]):
    """A row per picture with all its questions; the answer given most often, of several the first in the file."""

    name = "textvqa"
    version = 1
    Config = TextvqaConfig

    def questions(self) -> Iterator[Question]:
        self.prepare()
        return read(self.config.path)

    def turns(self, question: Question) -> list[Turn]:
        answer = most_common([answer.text for answer in question.answers])
        if answer is None:
            raise Unusable(FamilyStatus.no_answer, "no answer")
        return [(question.text, answer)]


def read(path: Paths) -> Iterator[Question]:
    """The questions of TextVQA. facts: image_classes. Raises InputError for files of another layout."""
    return map(_question, listed(path, "data"))


def read_ocr(path: Paths) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Image id and tokens, in the detector's order and with repeats; raises InputError as `read` does."""
    for record in listed(path, "data"):
        yield record.id("image_id"), record.texts("ocr_tokens")


def picture_of(record: Record) -> str:
    """The picture's path in the published archives: validation pictures are among those of training."""
    folder = "test_images" if record.values.get("set_name") == "test" else "train_images"
    return f"{folder}/{record.id('image_id')}.jpg"


def _question(record: Record) -> Question:
    return Question(
        id=record.id("question_id"),
        picture=picture_of(record),
        text=record.text("question"),
        answers=tuple(Answer(text) for text in record.texts("answers")),
        facts={"image_classes": list(record.texts("image_classes"))},
    )
