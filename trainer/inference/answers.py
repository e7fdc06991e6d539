"""`lavabeam answer`: a file of questions in, the original's answers.jsonl out."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from schemas.picturefolder import PictureFolder
from schemas.streams import open_text
from trainer.inference.answer import Answerer, Prompt, progress, question
from trainer.inference.asked import picture_file
from trainer.runfolder import weights_digest


def answer_file(
    checkpoint: str | Path,
    questions: str | Path,
    output: str | Path,
    *,
    images: str | Path | None = None,
    template: str | None = None,
    max_tokens: int = 1024,
    batch: int = 16,
) -> int:
    """Answer every question greedily, in batches; returns the number of answers.

    questions: JSON lines, compressed or not, with `question_id`, `text`, and for pictures `image`, a file in the
    folder `images`, as LLaVA's model_vqa.py reads them. output: JSON lines with question_id, prompt, text, answer_id,
    model_id, metadata, as it writes them. Answers are collected beside it in a .part file until they are complete;
    after a kill or an error the same command continues from there. Raises InputError naming the line of a question
    that cannot be asked.
    """
    path = Path(questions)
    asked = read_questions(path)
    folder = PictureFolder(str(images or path.parent))
    prompts = [_prompt(row, f"{path}, line {number}", folder) for number, row in asked]
    answerer = Answerer(checkpoint, template)
    weights = weights_digest(answerer.folder.path)
    mark = fingerprint(weights, answerer.template.name, [row for _, row in asked], str(images), max_tokens)
    draft = Path(f"{output}.{mark[:8]}.part")
    draft.parent.mkdir(parents=True, exist_ok=True)
    done = _whole_lines(draft)
    with draft.open("a", encoding="utf-8", buffering=1) as file, progress(len(prompts) - done) as bar:
        answers = answerer.stream(prompts[done:], max_tokens, batch, bar.update)
        for (_, row), text in zip(asked[done:], answers, strict=True):
            file.write(json.dumps(_llava_answer(row, text, str(checkpoint)), ensure_ascii=False) + "\n")
    draft.replace(output)
    return len(asked)


def read_questions(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The questions of a file, each with its line number; raises InputError for a line that is not a question."""
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a JSON lines file of questions.")
    rows = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:  # also of bytes that are no UTF-8
            raise InputError(f"{path}, line {number}: not valid JSON: {error}") from error
        missing = [key for key in ("question_id", "text") if not isinstance(row, dict) or key not in row]
        if missing:
            raise InputError(f"{path}, line {number}: no {missing[0]!r}. Each line needs question_id and text.")
        if not isinstance(row["text"], str):
            raise InputError(f"{path}, line {number}: text is {row['text']!r:.60}; expected a string.")
        rows.append((number, row))
    if not rows:
        raise InputError(f"{path}: contains no questions.")
    return rows


def _lines(path: Path) -> Iterator[bytes]:
    """Lines that end with LF; a text that is split at them alone keeps what JSON allows inside a string."""
    with open_text(str(path)) as file:
        yield from file


def _prompt(row: dict[str, Any], where: str, images: PictureFolder) -> Prompt:
    if not row.get("image"):
        return question(row["text"], name=where)
    return question(row["text"], (picture_file(images, str(row["image"]), where),), where)


def _whole_lines(draft: Path) -> int:
    """The number of answers in a draft, after cutting off a last one that a kill left incomplete."""
    if not draft.is_file():
        return 0
    content = draft.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        draft.write_bytes(whole)
    return whole.count(b"\n")


def _llava_answer(row: dict[str, Any], text: str, model: str) -> dict[str, Any]:
    """An answer as LLaVA writes it. Its id is a function of question and answer: a rerun gives the same file."""
    name = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([model, row["question_id"], text]))
    return {
        "question_id": row["question_id"],
        "prompt": row["text"],
        "text": text,
        "answer_id": name.hex,
        "model_id": Path(model).name,
        "metadata": {},
    }
