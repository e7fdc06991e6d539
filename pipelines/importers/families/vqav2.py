"""VQAv2 (https://visualqa.org, arXiv 1612.00837) and what OK-VQA shares with it: questions and annotations, by id."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from pipelines.engine.step import Runtime
from pipelines.importers.families.base import Family, FamilyConfig, Turn
from pipelines.importers.families.notes import Tally, counted
from pipelines.importers.families.pictures import coco_places
from pipelines.importers.families.question import Answer, FamilyStatus, Question, Unusable
from pipelines.importers.families.reading import ById, Paths, Record, by_id, head, listed
from pipelines.importers.families.turns import most_common
from schemas.errors import InputError

_SUBTYPE = re.compile(r"(train|val|test)(?:-dev)?(20\d\d)")


class PairedConfig(FamilyConfig):
    """The two official files of a split."""

    annotations: Annotated[str | list[str] | None, Runtime()] = Field(
        None, description="the file of the answers; a test split has none, and no row of it is usable"
    )


class VqaConfig(PairedConfig):
    """VQAv2's files, and which answer is trained on."""

    path: Annotated[str | list[str], Runtime()] = Field(
        description="v2_OpenEnded_mscoco_train2014_questions.json, several, or a pattern"
    )
    annotations: Annotated[str | list[str] | None, Runtime()] = Field(
        None, description="v2_mscoco_train2014_annotations.json; a test split has none, and no row of it is usable"
    )
    answer: Literal["multiple_choice_answer", "most_common"] = Field(
        "multiple_choice_answer",
        description="the set's own main answer, or the one given most often (of several the first in the file); "
        "which one LLaVA took is not published",
    )


V = TypeVar("V", bound=PairedConfig)


class PairedFiles(Family[V]):
    """Questions in one file, answers in another, pictures of COCO."""

    located_by = ("path", "annotations")

    def questions(self) -> Iterator[Question]:
        return read(self.config.path, self.config.annotations, self.tally)

    def turns(self, question: Question) -> list[Turn]:
        answer = self.chosen(question)
        if not answer or not answer.strip():
            raise Unusable(FamilyStatus.no_answer, "no answer")
        return [(question.text, answer)]

    @abstractmethod
    def chosen(self, question: Question) -> str | None:
        """The answer that is trained on."""

    def places(self, picture: str) -> list[str]:
        return coco_places(picture)

    def group(self, question: Question) -> str:
        return str(question.picture).rpartition("_")[2].removesuffix(".jpg")


class Vqav2(PairedFiles[VqaConfig]):
    """A row per picture with all its questions, in the order in which the questions file first names the pictures."""

    name = "vqav2"
    version = 1
    Config = VqaConfig

    def chosen(self, question: Question) -> str | None:
        if self.config.answer == "multiple_choice_answer":
            return question.answer
        return most_common([answer.text for answer in question.answers])


def read(path: Paths, annotations: Paths | None = None, tally: Tally | None = None) -> Iterator[Question]:
    """The questions of VQA's format, each with its answers, found by id.

    facts: question_type and answer_type; of OK-VQA's answers `raw_answers` too. Raises InputError for files of another
    layout. `tally` hears of answers that belong to no question.
    """
    answers: ById[dict[str, Any]] = ById((), "")
    if annotations is not None:
        source = annotations if isinstance(annotations, str) else " ".join(annotations)
        answers = by_id(listed(annotations, "annotations"), "question_id", _annotation, source)
    subtypes: dict[str, str] = {}
    for record in listed(path, "questions"):
        if record.path not in subtypes:
            subtypes[record.path] = _subtype(record.path)
        yield _question(record, subtypes[record.path], answers.pop(record.id("question_id")) or {})
    left = answers.left()
    if left and tally is not None:
        tally.extra.append(f"{counted(len(left), 'answer')} without a question (first: {left[0]}).")


def _question(record: Record, subtype: str, annotation: dict[str, Any]) -> Question:
    image, facts = record.number("image_id"), annotation.get("facts", {})
    if "image_id" in annotation and annotation["image_id"] != image:
        raise InputError(
            f"{record.path}:{record.line}: question {record.id('question_id')} is about picture {image}, its "
            f"annotation about {annotation['image_id']}. The files belong to different versions: get both again."
        )
    return Question(
        id=record.id("question_id"),
        picture=f"COCO_{subtype}_{image:012d}.jpg",
        text=record.text("question"),
        answer=annotation.get("main"),
        answers=tuple(map(Answer._make, annotation.get("answers", ()))),
        facts=facts,
    )


def _annotation(record: Record) -> dict[str, Any]:
    """What is kept of an annotation."""
    given = record.optional("answers", list) or []
    try:
        answers = [(one["answer"], one.get("answer_confidence", "")) for one in given]
        raw = [one["raw_answer"] for one in given if "raw_answer" in one]
    except (TypeError, KeyError, AttributeError):
        record.refuse("answers", "a list of {answer, answer_confidence, answer_id}")
    if not set(map(type, chain.from_iterable(answers))) <= {str}:
        record.refuse("answers", "answers of text")
    facts = {name: record.values[name] for name in ("question_type", "answer_type") if name in record.values}
    if raw:
        facts["raw_answers"] = raw
    main = record.optional("multiple_choice_answer", str)
    return {"main": main, "answers": answers, "facts": facts, "image_id": record.number("image_id")}


def _subtype(path: str) -> str:
    """train2014, val2014 or test2015: the folder of the pictures, which the file or its name says."""
    said = head(path, "data_subtype")
    found = _SUBTYPE.search(said if isinstance(said, str) else path.rpartition("/")[2])
    if found is None:
        raise InputError(
            f"{path}: neither `data_subtype` ({said!r}) nor the file's name says which pictures of COCO it is about; "
            "expected train2014, val2014 or test2015. Give the file its official name."
        )
    return found[1] + found[2]
