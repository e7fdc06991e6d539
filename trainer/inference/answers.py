"""`lavabeam answer`: a file of questions in, the original's answers.jsonl out."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from trainer.inference.answer import Answerer, Prompt, question

CHUNK = 1024


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
    """Answer every question greedily, in batches; returns how many.

    questions: JSON lines with `question_id`, `text`, and for pictures `image`, a file in the folder `images`, as
    LLaVA's model_vqa.py reads them. output: JSON lines with question_id, prompt, text, answer_id, model_id, metadata,
    as it writes them. Raises InputError naming the line of a question that cannot be asked; nothing is written then.
    """
    asked = read_questions(Path(questions))
    prompts = [_prompt(row, number, Path(questions), images) for number, row in enumerate(asked, 1)]
    answerer = Answerer(checkpoint, template)
    draft = Path(f"{output}.part")
    with draft.open("w", encoding="utf-8") as file:
        for start in range(0, len(asked), CHUNK):
            part = slice(start, start + CHUNK)
            for row, text in zip(asked[part], answerer.answer(prompts[part], max_tokens, batch), strict=True):
                file.write(json.dumps(_told(row, text, str(checkpoint)), ensure_ascii=False) + "\n")
    draft.replace(output)
    return len(asked)


def read_questions(path: Path) -> list[dict[str, Any]]:
    """The lines of a questions file; raises InputError for a line that is no question."""
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a JSON lines file of questions.")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: this is not JSON: {error}") from error
        missing = [key for key in ("question_id", "text") if not isinstance(row, dict) or key not in row]
        if missing:
            raise InputError(f"{path}, line {number}: no {missing[0]!r}. Each line needs question_id and text.")
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: holds no question.")
    return rows


def _prompt(row: dict[str, Any], number: int, path: Path, images: str | Path | None) -> Prompt:
    if not row.get("image"):
        return question(row["text"])
    file = Path(images or path.parent) / row["image"]
    if not file.is_file():
        raise InputError(f"{path}, line {number}: no such picture: {file}. Give the folder of the pictures.")
    return question(row["text"], (file.read_bytes(),))


def _told(row: dict[str, Any], text: str, model: str) -> dict[str, Any]:
    """An answer as LLaVA writes it; its id follows from question and answer, so that a rerun gives the same file."""
    name = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([model, row["question_id"], text]))
    return {
        "question_id": row["question_id"],
        "prompt": row["text"],
        "text": text,
        "answer_id": name.hex,
        "model_id": Path(model).name,
        "metadata": {},
    }
