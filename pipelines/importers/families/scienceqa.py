"""ScienceQA (https://scienceqa.github.io, arXiv 2209.09513) in the layouts of LLaVA's conversion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from pipelines.engine.step import Runtime
from pipelines.importers.families.base import Family, FamilyConfig, Turn
from pipelines.importers.families.notes import Tally, counted
from pipelines.importers.families.question import FamilyStatus, Question, Unusable
from pipelines.importers.families.reading import Paths, Record, head, named
from pipelines.importers.families.turns import LETTER, letter
from schemas.errors import InputError

Split = Literal["train", "val", "test", "trainval", "minitrain", "minival", "minitest"]


class ScienceqaConfig(FamilyConfig):
    """The two official files, the split, and the layout of questions and answers."""

    path: Annotated[str | list[str], Runtime()] = Field(description="problems.json")
    splits: Annotated[str | None, Runtime()] = Field(
        None, description="pid_splits.json; without it a problem's own field says train, val or test"
    )
    split: Split = Field("train", description="the problems of which split")
    layout: Literal["QCM-LEA", "QCM-A", "CQM-LEA", "CQM-A"] = Field(
        "QCM-LEA",
        description="question (Q), context (C), options (M), then lecture (L), explanation (E), answer (A): LLaVA "
        "trains on QCM-LEA and evaluates on CQM-A",
    )
    line_breaks: Literal["kept", "escaped"] = Field(
        "kept",
        description="those of lectures and explanations: as they are, as in LLaVA's files, or as the two characters "
        "\\n, as in its prompts for GPT",
    )
    suffix: Literal["first", "every", "none"] = Field(
        "none", description="whether suffix_text stands below the options"
    )
    suffix_text: str = Field(LETTER, description="what LLaVA-1.5 adds when it evaluates")


class Scienceqa(Family[ScienceqaConfig]):
    """A row per problem, about half of them without a picture. Pictures come after questions, as in LLaVA's file."""

    name = "scienceqa"
    version = 1
    Config = ScienceqaConfig
    located_by = ("path", "splits", "split")
    image_first = False

    def questions(self) -> Iterator[Question]:
        return read(self.config.path, self.config.split, self.config.splits, self.tally)

    def group(self, question: Question) -> str:
        return question.id

    def turns(self, question: Question) -> list[Turn]:
        if question.correct is None:
            raise Unusable(FamilyStatus.no_answer, "no answer")
        if not 0 <= question.correct < len(question.choices):
            count = len(question.choices)
            raise Unusable(FamilyStatus.bad_question, f"choice {question.correct} of {count} is said to be right")
        return [(self._question(question), self._answer(question))]

    def places(self, picture: str) -> list[str]:
        return [picture.partition("/")[2], picture]

    def _question(self, question: Question) -> str:
        context = question.facts["hint"].strip() or "N/A"
        options = " ".join(f"({letter(place)}) {choice}" for place, choice in enumerate(question.choices))
        parts = [f"Question: {question.text}", f"Context: {context}"]
        if self.config.layout.startswith("CQM"):
            parts.reverse()
        return _without(_single("\n".join([*parts, f"Options: {options}\n"])), "Question: ")

    def _answer(self, question: Question) -> str:
        assert question.correct is not None
        reasons = [self._broken(question.facts[name]) for name in ("lecture", "solution")]
        if self.config.layout.endswith("-A"):
            reasons = []
        words = " ".join([*reasons, f"The answer is {letter(question.correct)}."])
        return _without(_single(f"Answer: {words}"), "Answer: ")

    def _broken(self, text: str) -> str:
        """LLaVA's conversion writes line breaks as \\n and reads them back: a literal \\n becomes a line break too."""
        if self.config.line_breaks == "escaped":
            return text.replace("\n", "\\n")
        return text.replace("\\n", "\n")


def read(
    path: Paths, split: str = "train", splits: str | None = None, tally: Tally | None = None
) -> Iterator[Question]:
    """The problems of a split, in the order of problems.json; `picture` is its path below `images`.

    facts: hint, lecture, solution, subject, topic, grade, category and skill. Raises InputError for files of another
    layout. `tally` hears of problems of other splits, and of ids of the split that have no problem.
    """
    if splits is None and split not in ("train", "val", "test"):
        raise InputError(f"split {split!r} needs pid_splits.json. Set `splits` to it, or take train, val or test.")
    wanted = None if splits is None else dict.fromkeys(_ids(splits, split))
    others = 0
    for record in named(path):
        if record.values.get("split") != split if wanted is None else record.name not in wanted:
            others += 1
            continue
        if wanted is not None:
            del wanted[record.name]
        yield _problem(record)
    if tally is not None and others:
        tally.extra.append(f"{counted(others, 'problem')} of other splits left out (split: {split}).")
    if tally is not None and wanted:
        tally.extra.append(
            f"{counted(len(wanted), 'id')} of the split without a problem (first: {next(iter(wanted))})."
        )


def _problem(record: Record) -> Question:
    image = record.optional("image", str)
    names = ("hint", "lecture", "solution", "subject", "topic", "grade", "category", "skill")
    return Question(
        id=record.name,
        picture=f"{record.text('split')}/{record.name}/{image}" if image else None,
        text=record.text("question"),
        choices=record.texts("choices"),
        correct=record.optional("answer", int),
        facts={name: record.optional(name, str) or "" for name in names},
    )


def _ids(splits: str, split: str) -> list[str]:
    ids = head(splits, split)
    if isinstance(ids, list) and all(isinstance(id, str) for id in ids):
        return ids
    found = "is missing" if ids is None else f"is {json.dumps(ids):.60}"
    raise InputError(f"{splits}: {split!r} {found}; expected a list of ids. Give the official pid_splits.json.")


def _single(text: str) -> str:
    """Pairs of blanks as one, once: of three blanks two are left."""
    return text.replace("  ", " ").strip()


def _without(text: str, label: str) -> str:
    """LLaVA's conversion removes a label from the whole text where the text begins with it."""
    return text.replace(label, "") if text.startswith(label) else text
