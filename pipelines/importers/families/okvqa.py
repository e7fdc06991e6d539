"""OK-VQA (https://okvqa.allenai.org, arXiv 1906.00067): VQA's format without a main answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipelines.engine.step import Runtime
from pipelines.importers.families.question import Question
from pipelines.importers.families.turns import most_common
from pipelines.importers.families.vqav2 import PairedConfig, PairedFiles


class OkvqaConfig(PairedConfig):
    """OK-VQA's files, and which answers are counted."""

    path: Annotated[str | list[str], Runtime()] = Field(
        description="OpenEnded_mscoco_train2014_questions.json, several, or a pattern"
    )
    annotations: Annotated[str | list[str] | None, Runtime()] = Field(
        None, description="mscoco_train2014_annotations.json; without it no row is usable"
    )
    answer: Literal["answer", "raw_answer"] = Field(
        "answer",
        description="the most frequent of the ten answers (among equals the first in the file), as normalised by the "
        "authors or as typed; which one LLaVA used is not published",
    )


class Okvqa(PairedFiles[OkvqaConfig]):
    """A row per picture with all its questions."""

    name = "okvqa"
    version = 1
    Config = OkvqaConfig

    def chosen(self, question: Question) -> str | None:
        if self.config.answer == "raw_answer":
            return most_common(question.facts.get("raw_answers", ()))
        return most_common([answer.text for answer in question.answers])
