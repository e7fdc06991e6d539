"""Read the questions of a custom set with their references and images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from lavabeam.evaluation.question import Question
from schemas.chat.llava_json import from_llava, written
from schemas.chat.shapes import PLACEHOLDER, image_paths
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.jsonfile import json_values
from schemas.picturefolder import PictureFolder
from schemas.streams import plain_suffix

REFERENCES = "references"
"""Column, or key of a row, with all right answers where there are several."""
Names = tuple[Any, ...]
Source = bytes | Path


class Pictures(Protocol):
    """Where the pictures of a set are."""

    def find(self, name: Any) -> Source:
        """Raises InputError where there is no such picture."""


@dataclass(frozen=True)
class CustomSet:
    """Questions whose `truth` is a tuple of right answers, and the names of the pictures of each."""

    path: str
    questions: list[Question]
    shown: list[Names]
    pictures: Pictures
    left: dict[str, int] = field(default_factory=dict)
    """Turns without an answer, and rows that an earlier step left out, by reason: they ask nothing."""

    def sources(self, number: int) -> tuple[Source, ...]:
        """The pictures of question `number`. Raises InputError naming the one that is not there."""
        return tuple(self.pictures.find(name) for name in self.shown[number])


def read_set(path: str | Path, images: str | Path | None = None) -> CustomSet:
    """The questions at `path`, one per answered user turn.

    path: a conversations or samples dataset; or a .json or .jsonl file whose rows are LLaVA's (`conversations`) or have
    `text` and `answer` (or `references`, a list). `images`: the images dataset, or the folder, of their pictures; by
    default the images datasets that a conversations dataset was made from, and the folder of a file. Categories are
    `kind` or `category`. Ids are the rows' keys, with `#2` and so on behind those of further turns. Raises InputError
    for a row without text or answer, an id that comes twice, and for anything else.
    """
    if plain_suffix(Path(path).name) in (".json", ".jsonl"):
        return _of_file(Path(path), Path(images) if images else Path(path).parent)
    dataset = Dataset.open(path)
    if dataset.schema_name == "samples":
        return _of_samples(dataset)
    if dataset.schema_name != "conversations":
        raise InputError(
            f"{path}: holds {dataset.schema_version}; a benchmark is made of conversations, samples, or a .json or "
            ".jsonl file of questions with answers."
        )
    return _of_conversations(dataset, images)


def _of_file(path: Path, folder: Path) -> CustomSet:
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a dataset, or a .json or .jsonl file of questions.")
    collected = _Collected(str(path))
    for number, row in enumerate(json_values(path), 1):
        where = f"{path}, row {number}"
        if isinstance(row, InputError):
            raise InputError(f"{where}: {row}")
        if not isinstance(row, dict):
            raise InputError(f"{where}: is {row!r:.60}; expected an object.")
        name = str(row.get("question_id", row.get("id", number - 1)))
        category = str(row.get("kind") or row.get("category") or "all")
        if "conversations" in row:
            messages, names = from_llava(row, where)
            collected.add_turns(name, category, messages, tuple(names), where, row.get(REFERENCES))
        else:
            references = row.get(REFERENCES, row.get("answers", row.get("answer")))
            collected.add(name, row.get("text"), references, category, tuple(image_paths(row, where)), where)
    return collected.made(_Folder(PictureFolder(str(folder))))


def _of_samples(dataset: Dataset) -> CustomSet:
    collected = _Collected(dataset.path)
    number = 0
    for batch in dataset.batches(_columns(dataset, ("key", "messages", "kind", "image_count"))):
        for row in batch.to_pylist():
            names = tuple((number, place) for place in range(row["image_count"]))
            where = f"{dataset.path}, row {number}"
            collected.add_turns(row["key"], row["kind"] or "all", row["messages"], names, where, row.get(REFERENCES))
            number += 1
    return collected.made(_Samples(dataset))


def _of_conversations(dataset: Dataset, images: str | Path | None) -> CustomSet:
    collected = _Collected(dataset.path)
    number = 0
    for batch in dataset.batches(_columns(dataset, ("key", "messages", "kind", "image_keys", "status"))):
        for row in batch.to_pylist():
            where = f"{dataset.path}, row {number}"
            number += 1
            if row["status"] != "ok":
                collected.leave(row["status"])
                continue
            names, references = tuple(row["image_keys"] or ()), row.get(REFERENCES)
            collected.add_turns(row["key"], row["kind"] or "all", row["messages"], names, where, references)
    return collected.made(_pictures_of(dataset, images))


def _columns(dataset: Dataset, names: Sequence[str]) -> list[str]:
    return [*names, *([REFERENCES] if REFERENCES in dataset.columns else [])]


class _Collected:
    """Questions as they are found."""

    def __init__(self, path: str):
        self.path = path
        self.questions: list[Question] = []
        self.shown: list[Names] = []
        self.left: dict[str, int] = {}
        self._places: dict[str, int] = {}

    def add(self, name: str, text: Any, references: Any, category: str, shown: Names, where: str) -> None:
        answers = (references,) if isinstance(references, str) else references
        if not isinstance(text, str):
            raise InputError(f"{where}: text is {text!r:.60}; expected a question.")
        if (
            not isinstance(answers, list | tuple)
            or not answers
            or not all(isinstance(one, str) and one.strip() for one in answers)
        ):
            raise InputError(
                f"{where}: the right answer is {references!r:.60}; expected text, or a list of texts, and none of "
                "them empty."
            )
        stem = text.replace(PLACEHOLDER, "").strip()
        image = shown[0] if shown and isinstance(shown[0], str) else None
        question = Question(name, text.strip(), stem, image, category, tuple(answers))
        if name in self._places:
            raise InputError(f"{where}: {self._doubled(question, shown)}")
        self._places[name] = len(self.questions)
        self.questions.append(question)
        self.shown.append(shown)

    def _doubled(self, question: Question, shown: Names) -> str:
        place = self._places[question.id]
        known, pictures = self.questions[place], self.shown[place]
        if (known.text, known.truth, pictures) == (question.text, question.truth, shown):
            return f"question {question.id!r} is there already, with the same words. Remove the copy."
        return (
            f"id {question.id!r} is there already, of {known.stem!r:.60} -> {known.truth[0]!r:.40}; this one is "
            f"{question.stem!r:.60} -> {question.truth[0]!r:.40}. Answers are joined by id: give each question its own."
        )

    def add_turns(
        self, key: str, category: str, messages: Sequence[dict[str, Any]], names: Names, where: str, references: Any
    ) -> None:
        """Every answered turn, about the pictures that it shows itself, or else about all that were shown before it."""
        shown, turn = 0, 0
        for message, reply in pairwise([*(messages or ()), {"role": "", "content": []}]):
            own = sum(part["type"] == "image" for part in message["content"])
            pictures = names[shown : shown + own] or names[: shown or len(names)]
            shown += own
            if message["role"] != "user":
                continue
            if reply["role"] != "assistant":
                self.leave("not_answered")
                continue
            turn += 1
            text, answer = (written(one["content"]).strip() for one in (message, reply))
            if not references and not answer:
                self.leave("empty_answer")
                continue
            name = key if turn == 1 else f"{key}#{turn}"
            self.add(name, text, references or answer, category, pictures, where)

    def leave(self, reason: str) -> None:
        self.left[reason] = self.left.get(reason, 0) + 1

    def made(self, pictures: Pictures) -> CustomSet:
        if not self.questions:
            why = ", ".join(f"{count} {reason}" for reason, count in self.left.items())
            raise InputError(f"{self.path}: contains no question with an answer{f' ({why})' if why else ''}.")
        return CustomSet(self.path, self.questions, self.shown, pictures, self.left)


class _Folder:
    def __init__(self, folder: PictureFolder):
        self._folder = folder

    def find(self, name: Any) -> Source:
        found = self._folder.find(name)
        if found.problem:
            raise InputError(f"{self._folder.path}: {found.problem}. Give the folder of the pictures with --images.")
        return Path(found.path)


class _Samples:
    """A name is (row, place among its pictures)."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset

    def find(self, name: Any) -> Source:
        row, place = name
        cells = self._dataset.take([row], ["images"])[0]["images"]
        return cells[place]["bytes"]


class _Datasets:
    """Pictures by their keys in images datasets."""

    def __init__(self, datasets: Sequence[Dataset], described: str):
        from schemas.lookup import PicturesByName

        self._indexes = [PicturesByName(one) for one in datasets if "image" in one.columns]
        self._described = described

    def find(self, name: Any) -> Source:
        for index in self._indexes:
            row = index.find(name)
            cell = None if row is None else index.dataset.take([row], ["image"])[0]["image"]
            if cell and cell["bytes"]:
                return cell["bytes"]
        raise InputError(f"{self._described}: no picture {name!r}. Give the dataset or folder of it with --images.")


def _pictures_of(dataset: Dataset, images: str | Path | None) -> Pictures:
    if images is None:
        from pipelines.report.images import parents_of

        found = parents_of(dataset)
        return _Datasets(found, ", ".join(one.path for one in found) or f"{dataset.path} names no images dataset")
    if Dataset.exists(images):
        return _Datasets([Dataset.open(images)], str(images))
    return _Folder(PictureFolder(str(images)))
