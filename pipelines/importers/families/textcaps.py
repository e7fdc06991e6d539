"""TextCaps (https://textvqa.org/textcaps, arXiv 2003.12462): five captions of a picture, an entry each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from pipelines.engine.step import Runtime
from pipelines.importers.families.base import Turn
from pipelines.importers.families.question import FamilyStatus, Question, Unusable
from pipelines.importers.families.reading import Paths, Record, listed
from pipelines.importers.families.textvqa import OcrConfig, WithOcr, picture_of

PROMPT = "Provide a one-sentence caption for the provided image."
"""LLaVA-1.5's question (arXiv 2310.03744, Table 7)."""


class TextcapsConfig(OcrConfig):
    """TextCaps' file of a split, and which captions become rows."""

    path: Annotated[str | list[str], Runtime()] = Field(
        description="TextCaps_0.1_train.json, several, or a pattern; rows of the test split are not usable"
    )
    suffix: Literal["first", "every", "none"] = Field("none", description="whether suffix_text stands below prompt")
    prompt: str = Field(PROMPT, min_length=1, description="what is asked")
    caption: Literal["first", "hash", "each"] = Field(
        "first",
        description="which caption of a picture: the first in the file, one by a hash of picture and seed, or each in "
        "a row of its own. LLaVA-1.5 has one per picture; which one is not published",
    )
    seed: int = Field(0, description="decides with `caption: hash`")


class Textcaps(WithOcr[TextcapsConfig]):
    """A row per picture: the prompt, its OCR tokens, one caption."""

    name = "textcaps"
    version = 1
    Config = TextcapsConfig
    kind = "caption"
    has_text = False

    @property
    def several(self) -> bool:
        return self.config.caption == "each"

    def questions(self) -> Iterator[Question]:
        self.prepare()
        return read(self.config.path)

    def turns(self, question: Question) -> list[Turn]:
        if not question.answer or not question.answer.strip():
            raise Unusable(FamilyStatus.no_answer, "no caption")
        return [(self.config.prompt, question.answer)]

    def conversations(self, group: str, turns: list[list[Turn]]) -> list[list[Turn]]:
        if self.config.caption == "each" or not turns:
            return turns
        if self.config.caption == "first":
            return turns[:1]
        number = int.from_bytes(hashlib.sha256(f"{self.config.seed}/{group}".encode()).digest()[:8], "big")
        return [turns[number % len(turns)]]


def read(path: Paths) -> Iterator[Question]:
    """The captions of TextCaps, one "question" without text each; `answer` is the caption.

    facts: reference_strs, all captions of the picture. Raises InputError for files of another layout.
    """
    return map(_question, listed(path, "data"))


def _question(record: Record) -> Question:
    caption = record.optional("caption_str", str)
    return Question(
        id=record.id("caption_id") if caption is not None else record.id("image_id"),
        picture=picture_of(record),
        text="",
        answer=caption,
        facts={"reference_strs": list(record.texts("reference_strs"))},
    )
