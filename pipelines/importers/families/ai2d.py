"""AI2D (https://prior.allenai.org/projects/diagram-understanding, arXiv 1603.07396): a file per diagram."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import fsspec
from pydantic import Field

from pipelines.engine.step import Runtime
from pipelines.importers.families.base import Family, FamilyConfig, Turn, stem
from pipelines.importers.families.notes import Tally, counted
from pipelines.importers.families.question import FamilyStatus, Question, Unusable
from pipelines.importers.families.reading import Paths, Record
from pipelines.importers.families.turns import LETTER, choice_turns
from pipelines.importers.files import expand
from pipelines.importers.json_lists import object_values
from schemas.errors import InputError
from schemas.streams import open_text


class Ai2dConfig(FamilyConfig):
    """The folder of questions, the split, and what becomes of questions about letters in the picture."""

    path: Annotated[str | list[str], Runtime()] = Field(description="the folder questions, files, or a pattern")
    test_ids: Annotated[str | None, Runtime()] = Field(
        None, description="ai2d_test_ids.csv, the diagrams of the test split; needed for train and test"
    )
    split: Literal["train", "test", "all"] = Field("train", description="the diagrams of which split")
    lettered: Literal["leave_out", "abc_images", "keep"] = Field(
        "leave_out",
        description="questions about letters (abcLabel), which stand in a picture only after its labels were redrawn: "
        "left out, asked about abc_images/NAME, or asked about the picture as published",
    )
    suffix_text: str = Field(LETTER, description="the line appended to the choices")


class Ai2d(Family[Ai2dConfig]):
    """A row per diagram with all its questions. Answers are letters of choices."""

    name = "ai2d"
    version = 1
    Config = Ai2dConfig
    located_by = ("path", "split")

    def questions(self) -> Iterator[Question]:
        return read(self.config.path, self.config.split, self.config.test_ids, self.tally)

    def turns(self, question: Question) -> list[Turn]:
        if question.facts["abcLabel"] and self.config.lettered == "leave_out":
            raise Unusable(FamilyStatus.not_shown, "it asks about letters that the picture does not show")
        return choice_turns(question)

    def group(self, question: Question) -> str:
        return f"abc/{stem(str(question.picture))}" if self._redrawn(question) else stem(str(question.picture))

    def shown(self, question: Question) -> str:
        folder = "abc_images" if self._redrawn(question) else "images"
        return f"{folder}/{str(question.picture).partition('/')[2]}"

    def places(self, picture: str) -> list[str]:
        return [f"ai2d/{picture}", picture, f"/{picture.rpartition('/')[2]}"]

    def _redrawn(self, question: Question) -> bool:
        return question.facts["abcLabel"] and self.config.lettered == "abc_images"


def read(
    path: Paths, split: str = "all", test_ids: str | None = None, tally: Tally | None = None
) -> Iterator[Question]:
    """The questions of AI2D, diagrams in the order of their files' names; `picture` is images/NAME.

    facts: abcLabel, whether the question is about letters in place of labels. Raises InputError for files of another
    layout, and for a split without `test_ids`.
    """
    if split != "all" and test_ids is None:
        raise InputError(f"split {split!r} needs ai2d_test_ids.csv. Set `test_ids` to it, or `split: all`.")
    tested = _ids(test_ids) if test_ids is not None else frozenset()
    others = 0
    for file in _files(path):
        with open_text(file) as text:
            values = {name: raw.value for name, raw in object_values(text, file)}
        diagram = Record(values, file, 1)
        name = diagram.text("imageName")
        if split != "all" and (stem(name) in tested) != (split == "test"):
            others += 1
            continue
        for asked, fields in (diagram.optional("questions", dict) or {}).items():
            yield _question(name, asked, fields, file)
    if tally is not None and others:
        tally.extra.append(f"{counted(others, 'diagram')} of the other split left out (split: {split}).")


def _question(name: str, asked: str, fields: Any, file: str) -> Question:
    if not isinstance(fields, dict):
        raise InputError(f"{file}: question {asked!r} is {fields!r:.60}; expected its answerTexts and correctAnswer.")
    record = Record(fields, file, 1)
    return Question(
        id=record.id("questionId"),
        picture=f"images/{name}",
        text=asked,
        choices=record.texts("answerTexts"),
        correct=record.optional("correctAnswer", int),
        facts={"abcLabel": record.optional("abcLabel", bool) or False},
    )


def _files(path: Paths) -> list[str]:
    """The JSON files of a folder, or those that are given."""
    if isinstance(path, str):
        fs, local = fsspec.core.url_to_fs(path)
        if fs.isdir(local):
            path = f"{path.rstrip('/')}/*.json"
    return expand(path if isinstance(path, str) else list(path))


def _ids(path: str) -> frozenset[str]:
    """Names of diagrams, one per line."""
    with open_text(expand(path)[0]) as file:
        ids = frozenset(line.strip() for line in file.read().decode(errors="replace").splitlines())
    if not any(id.isdigit() for id in ids):
        raise InputError(f"{path}: no line is a diagram's number. Give AI2D's ai2d_test_ids.csv.")
    return ids
