"""LLaVA's files of questions and answers (model_vqa.py): lines in, prompts; answers, lines out. Loads no torch."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.chat.shapes import check_media, image_paths
from schemas.errors import InputError
from schemas.jsonfile import json_values
from schemas.picturefolder import PictureFolder
from schemas.streams import open_text
from trainer.inference.asked import picture_file
from trainer.inference.prompts import Answer, AnswerStatus, Prompt, question, refusal


def read_questions(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The questions of a file, each with its line number; raises InputError for a line that is not a question."""
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a JSON lines file of questions.")
    rows = []
    for number, row in _values(path):
        missing = [key for key in ("question_id", "text") if not isinstance(row, dict) or key not in row]
        if missing:
            raise InputError(f"{path}, line {number}: no {missing[0]!r}. Each line needs question_id and text.")
        if not isinstance(row["text"], str):
            raise InputError(f"{path}, line {number}: text is {row['text']!r:.60}; expected a string.")
        rows.append((number, row))
    if not rows:
        raise InputError(f"{path}: contains no questions.")
    return rows


def prompts_of(asked: list[tuple[int, dict[str, Any]]], path: Path, images: PictureFolder) -> list[Prompt]:
    """A prompt for every question. Raises InputError when no picture of any is there: `images` is another folder."""
    prompts = [_prompt(row, f"{path}, line {number}", images) for number, row in asked]
    missing = [one.refused for one in prompts if one.refused and one.refused.status == AnswerStatus.no_picture]
    if missing and not any(one.images for one in prompts):
        raise InputError(missing[0].detail)
    return prompts


def llava_answer(row: dict[str, Any], answer: Answer, model: str, mark: str) -> dict[str, Any]:
    """An answer as LLaVA writes it. Its id is a function of question and answer: a rerun gives the same file."""
    name = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([model, row["question_id"], answer.text]))
    metadata = {"run": mark}
    if answer.status != AnswerStatus.ok:
        metadata |= {"status": answer.status.value, "detail": answer.detail}
    return {
        "question_id": row["question_id"],
        "prompt": row["text"],
        "text": answer.text,
        "answer_id": name.hex,
        "model_id": Path(model).name,
        "metadata": metadata,
    }


def statuses_in(output: Path) -> dict[str, int]:
    """How many answers of a file have each status."""
    with output.open(encoding="utf-8") as lines:
        return dict(Counter(json.loads(line)["metadata"].get("status", "ok") for line in lines))


def _values(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of a file of JSON lines, or of one JSON list, with the numbers of their lines or places."""
    listed = next((line for line in _lines(path) if line.strip()), b"").lstrip().startswith(b"[")
    if listed:
        for number, value in enumerate(json_values(path), 1):
            if isinstance(value, InputError):
                raise value
            yield number, value
        return
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except ValueError as error:  # also of bytes that are no UTF-8
            raise InputError(f"{path}, line {number}: not valid JSON: {error}") from error


def _lines(path: Path) -> Iterator[bytes]:
    """Lines that end with LF; a text that is split at them alone keeps what JSON allows inside a string."""
    with open_text(str(path)) as file:
        yield from file


def _prompt(row: dict[str, Any], where: str, images: PictureFolder) -> Prompt:
    try:
        check_media(row, where)
        names = image_paths(row, where)
    except InputError as error:
        return refusal(where, AnswerStatus.bad_question, str(error))
    try:
        pictures = tuple(picture_file(images, name, where) for name in names)
    except InputError as error:
        return refusal(where, AnswerStatus.no_picture, str(error))
    return question(row["text"], pictures, where)
