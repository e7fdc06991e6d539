"""Questions with known answers, from a samples dataset, LLaVA's JSON rows, or lines with a text and an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from schemas.chat.llava_json import from_llava, written
from schemas.chat.shapes import image_paths
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.jsonfile import json_values
from schemas.picturefolder import PictureFolder
from schemas.streams import plain_suffix
from trainer.inference.prompts import Answer, AnswerStatus, Source


@dataclass(frozen=True)
class Asked:
    """A question with its answer: one turn, asked in isolation. `images`: files, or their bytes. `refused`: why it
    cannot be asked."""

    images: tuple[Source, ...]
    question: str
    answer: str
    kind: str
    refused: Answer | None = None


def questions_of(path: str | Path, images: str | Path | None = None) -> Iterator[Asked]:
    """Every answered turn at `path` as a separate question.

    path: a samples dataset; or a .json list or .jsonl file, compressed or not, whose rows are LLaVA's (`id`, `image`,
    `conversations`, as in its ScienceQA test file) or have `text` and `answer`. There `image` names a file in the
    folder `images` (default: the folder of the questions), and results are split by `kind` or `category`. Raises
    InputError for a file of another kind; a row that cannot be asked keeps its place, with the reason.
    """
    path = Path(path)
    if plain_suffix(path.name) in (".json", ".jsonl"):
        yield from _of_file(path, PictureFolder(str(images or path.parent)))
    else:
        yield from _of_dataset(path)


def _of_dataset(path: Path) -> Iterator[Asked]:
    dataset = Dataset.open(path)
    if dataset.schema_name != "samples":
        raise InputError(f"{path}: holds {dataset.schema_version}; evaluation reads samples, or a file of questions.")
    for batch in dataset.batches(["key", "images", "messages", "kind"]):
        for row in batch.to_pylist():
            pictures = tuple(image["bytes"] for image in row["images"])
            yield from _turns(row["messages"], pictures, row["kind"] or "all")


def _of_file(path: Path, images: PictureFolder) -> Iterator[Asked]:
    for where, row in _rows(path):
        kind = str(row.get("kind") or row.get("category") or "all")
        try:
            yield from _of_row(row, where, kind, images)
        except InputError as error:
            yield Asked((), "", "", kind, Answer("", AnswerStatus.bad_question, str(error)))


def _of_row(row: dict[str, Any], where: str, kind: str, images: PictureFolder) -> Iterator[Asked]:
    """Raises InputError for a row that asks nothing."""
    lines = isinstance(row.get("text"), str) and isinstance(row.get("answer"), str)
    if "conversations" in row:
        messages, names = from_llava(row, where)
    elif lines:
        messages, names = [], image_paths(row, where)
    else:
        raise InputError(f"{where}: found keys {sorted(row)}; expected `conversations`, or `text` and `answer`.")
    refused: Answer | None = None
    pictures: list[Source] = []
    for name in names:
        try:
            pictures.append(picture_file(images, name, where))
        except InputError as error:
            refused = refused or Answer("", AnswerStatus.no_picture, str(error))
            pictures.append(b"")
    if messages:
        yield from _turns(messages, tuple(pictures), kind, refused)
    else:
        yield Asked(tuple(pictures), row["text"], row["answer"], kind, refused)


def _turns(
    messages: list[dict[str, Any]], images: tuple[Source, ...], kind: str, refused: Answer | None = None
) -> Iterator[Asked]:
    """Every answered turn, about the pictures that it shows itself, or else about all that were shown before it."""
    shown = 0
    for message, reply in pairwise([*messages, {"role": "", "content": []}]):
        own = sum(part["type"] == "image" for part in message["content"])
        pictures = images[shown : shown + own] or images[:shown]
        shown += own
        if (message["role"], reply["role"]) == ("user", "assistant"):
            text, answer = (written(one["content"]).strip() for one in (message, reply))
            yield Asked(pictures, text, answer, kind, refused)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of a JSON list or JSON lines."""
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a samples dataset, or a .json or .jsonl file of questions.")
    for number, row in enumerate(json_values(path)):
        if isinstance(row, InputError):
            raise InputError(f"{path}, question {number}: {row}")
        if not isinstance(row, dict):
            raise InputError(f"{path}, question {number}: is {row!r:.60}; expected an object.")
        yield f"{path}, question {number}", row


def picture_file(images: PictureFolder, name: str, where: str) -> Path:
    """The file of a question's picture; raises InputError, starting with `where`, when there is none."""
    found = images.find(name)
    if found.problem:
        raise InputError(
            f"{where}: no such image file in {images.path}: {found.problem}. Give the folder of the pictures with "
            "--images."
        )
    return Path(found.path)
