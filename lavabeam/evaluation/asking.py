"""Run a benchmark's questions against a checkpoint or a server."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavabeam.evaluation.answers import write_jsonl
from lavabeam.evaluation.endpoint import answer_endpoint, endpoint_settings, is_endpoint
from lavabeam.evaluation.question import Question
from schemas.errors import InputError

QUESTIONS, ANSWERS, PICTURES = "questions.jsonl", "answers.jsonl", "pictures"


@dataclass(frozen=True)
class Asking:
    """How a target is asked. `model` and `settings` are an endpoint's, the rest a checkpoint's."""

    max_tokens: int
    model: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    template: str | None = None
    batch: int | None = None
    processes: int | None = None
    load: str | None = None
    device: str | None = None


def ask(target: str, questions: Sequence[Question], images: Path | None, output: Path, how: Asking) -> dict[str, int]:
    """Write `output`/questions.jsonl, ask all of them, and write `output`/answers.jsonl; returns the statuses.

    After an interruption the same call asks the remaining ones, and none when all are answered. Raises InputError when
    pictures are needed and no folder of them is given.
    """
    named = [question.image for question in questions if isinstance(question.image, str)]
    stored = output / PICTURES
    if any(isinstance(question.image, bytes) for question in questions):
        if named:
            raise InputError(
                f"one question names its picture, {named[0]}, and others hold theirs; expected one or the other."
            )
        images = stored
    if named and images is None:
        raise InputError(
            f"{len(named)} of {len(questions)} questions are about pictures, the first about {named[0]}. Give "
            "the folder that their names start from with --images."
        )
    write_jsonl(output / QUESTIONS, _rows(questions, stored))
    return answer(target, output / QUESTIONS, output / ANSWERS, images, how)


def answer(target: str, questions: Path, output: Path, images: Path | None, how: Asking) -> dict[str, int]:
    """LLaVA's file of questions to LLaVA's file of answers, by a checkpoint's folder or a server's address."""
    if is_endpoint(target):
        cache = Path(f"{output}.cache")
        settings = endpoint_settings(target, how.model, how.max_tokens, cache, how.settings)
        return answer_endpoint(settings, questions, output, images)
    if how.model or how.settings:
        raise InputError(f"{target}: --model and --set are for a server's address (http://...), this is a folder.")
    from trainer.inference.answers import answer_file

    return answer_file(
        target,
        questions,
        output,
        images=images,
        template=how.template,
        max_tokens=how.max_tokens,
        batch=how.batch,
        processes=how.processes,
        load=how.load,
        device=how.device,
    )


def _rows(questions: Sequence[Question], stored: Path) -> list[dict[str, Any]]:
    """LLaVA's lines. Pictures that a file of questions holds itself are written once, under their digest."""
    rows = []
    for question in questions:
        row: dict[str, Any] = {"question_id": question.id, "text": question.text, "category": question.category}
        if isinstance(question.image, bytes):
            row["image"] = _stored(question.image, stored)
        elif question.image is not None:
            row["image"] = question.image
        rows.append(row)
    return rows


def _stored(content: bytes, folder: Path) -> str:
    name = hashlib.sha256(content).hexdigest()[:32] + (".png" if content.startswith(b"\x89PNG") else ".jpg")
    if not (folder / name).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{name}.part"
        draft.write_bytes(content)
        draft.replace(folder / name)
    return name
