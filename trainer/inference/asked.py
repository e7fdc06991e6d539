"""Questions with known answers, from a samples dataset, LLaVA's JSON rows, or lines with a text and an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from schemas.chat.llava_json import from_llava
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.jsonfile import json_values
from schemas.picturefolder import PictureFolder
from schemas.streams import plain_suffix

PARTS = (("user", "text"), ("assistant", "answer"))
"""Who says what in a row with `text` and `answer`."""

_MANY = "{} images; a question may have at most one."


@dataclass(frozen=True)
class Asked:
    """A question with its answer: one turn, asked in isolation. `image`: a file, or its bytes."""

    image: Path | bytes | None
    question: str
    answer: str
    kind: str


def questions_of(path: str | Path, images: str | Path | None = None) -> Iterator[Asked]:
    """Every answered turn at `path` as a separate question.

    path: a samples dataset; or a .json list or .jsonl file, compressed or not, whose rows are LLaVA's (`id`, `image`,
    `conversations`, as in its ScienceQA test file) or have `text` and `answer`. There `image` names a file in the
    folder `images` (default: the folder of the questions), and results are split by `kind` or `category`. Raises
    InputError for anything else.
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
            if len(row["images"]) > 1:
                raise InputError(f"{path}, key {row['key']!r}: {_MANY.format(len(row['images']))}")
            image = row["images"][0]["bytes"] if row["images"] else None
            yield from _turns(row["messages"], image, row["kind"] or "all")


def _of_file(path: Path, images: PictureFolder) -> Iterator[Asked]:
    for where, row in _rows(path):
        kind = str(row.get("kind") or row.get("category") or "all")
        if "conversations" in row:
            messages, names = from_llava(row, where)
        elif isinstance(row.get("text"), str) and isinstance(row.get("answer"), str):
            messages = [{"role": role, "content": [{"type": "text", "text": row[name]}]} for role, name in PARTS]
            names = [row["image"]] if row.get("image") else []
        else:
            raise InputError(f"{where}: found keys {sorted(row)}; expected `conversations`, or `text` and `answer`.")
        if len(names) > 1:
            raise InputError(f"{where}: {_MANY.format(len(names))}")
        yield from _turns(messages, picture_file(images, names[0], where) if names else None, kind)


def _turns(messages: list[dict[str, Any]], image: Path | bytes | None, kind: str) -> Iterator[Asked]:
    texts = [(m["role"], "".join(p["text"] or "" for p in m["content"]).strip()) for m in messages]
    for (role, text), (next_role, answer) in pairwise(texts):
        if (role, next_role) == ("user", "assistant"):
            yield Asked(image, text, answer, kind)


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
