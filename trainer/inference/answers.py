"""`lavabeam answer`: a file of questions in, the original's answers.jsonl out."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.chat.shapes import check_media, image_paths
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from schemas.picturefolder import PictureFolder
from schemas.streams import open_text
from trainer.inference.answer import progress
from trainer.inference.asked import picture_file
from trainer.inference.checkpoint import Checkpoint
from trainer.inference.prompts import Answer, AnswerStatus, Prompt, question, refusal
from trainer.inference.spread import open_answerer


def answer_file(
    checkpoint: str | Path,
    questions: str | Path,
    output: str | Path,
    *,
    images: str | Path | None = None,
    template: str | None = None,
    max_tokens: int = 1024,
    batch: int | None = None,
    processes: int | None = None,
    device: str | None = None,
    load: str | None = None,
) -> dict[str, int]:
    """Answer every question greedily, in batches; returns how many answers have each status (`AnswerStatus`).

    questions: JSON lines, compressed or not, with `question_id`, `text`, and for pictures `image`, a file in the
    folder `images` or a list of them, as LLaVA's model_vqa.py reads them. output: JSON lines with question_id, prompt,
    text, answer_id, model_id, metadata, as it writes them; `metadata` says which run made them, and why a question has
    no answer. Answers are collected beside it in a .part file until they are complete; after a kill or an error the
    same command continues from there, and does nothing when all is done.

    Raises InputError naming the line of what is no question, when no picture is found, and for an output that is the
    file of questions.
    """
    path, output = Path(questions), Path(output)
    asked = read_questions(path)
    if output.exists() and output.samefile(path):
        raise InputError(f"{output}: the answers would overwrite their questions. Choose another file.")
    prompts = _prompts(asked, path, PictureFolder(str(images or path.parent)))
    found = Checkpoint.open(checkpoint)
    parts = [found.digest, template or found.folder.template, [row for _, row in asked], str(images), max_tokens]
    mark = fingerprint(*parts, *([load] if load else []))
    if (known := _finished(output, mark, len(asked))) is not None:
        return known
    draft = Path(f"{output}.{mark[:8]}.part")
    draft.parent.mkdir(parents=True, exist_ok=True)
    done = _whole_lines(draft)
    with (
        open_answerer(checkpoint, template, processes, device, load) as answerer,
        draft.open("a", encoding="utf-8", buffering=1) as file,
        progress(len(prompts) - done) as bar,
    ):
        answers = answerer.stream(prompts[done:], max_tokens, batch, bar.update)
        for (_, row), answer in zip(asked[done:], answers, strict=True):
            line = _llava_answer(row, answer, str(checkpoint), mark)
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    draft.replace(output)
    return _statuses(output)


def _finished(output: Path, mark: str, count: int) -> dict[str, int] | None:
    """The statuses in a file of answers that this very run wrote, or None."""
    try:
        with output.open(encoding="utf-8") as lines:
            runs = [json.loads(line)["metadata"].get("run") for line in lines]
        return _statuses(output) if runs == [mark] * count else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _statuses(output: Path) -> dict[str, int]:
    with output.open(encoding="utf-8") as lines:
        return dict(Counter(json.loads(line)["metadata"].get("status", "ok") for line in lines))


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


def _prompts(asked: list[tuple[int, dict[str, Any]]], path: Path, images: PictureFolder) -> list[Prompt]:
    """A prompt for every question. Raises InputError when no picture of any is there: `images` is another folder."""
    prompts = [_prompt(row, f"{path}, line {number}", images) for number, row in asked]
    missing = [one.refused for one in prompts if one.refused and one.refused.status == AnswerStatus.no_picture]
    if missing and not any(one.images for one in prompts):
        raise InputError(missing[0].detail)
    return prompts


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


def _whole_lines(draft: Path) -> int:
    """The number of answers in a draft, after cutting off a last one that a kill left incomplete."""
    if not draft.is_file():
        return 0
    content = draft.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        draft.write_bytes(whole)
    return whole.count(b"\n")


def _llava_answer(row: dict[str, Any], answer: Answer, model: str, mark: str) -> dict[str, Any]:
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
