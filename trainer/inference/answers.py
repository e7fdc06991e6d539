"""`lavabeam answer`: a file of questions in, the original's answers.jsonl out."""

from __future__ import annotations

import json
from pathlib import Path

from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from schemas.picturefolder import PictureFolder
from trainer.inference.answer import progress
from trainer.inference.questionfile import llava_answer, prompts_of, read_questions, statuses_in
from trainer.inference.spread import open_answerer
from trainer.models.folder import ModelFolder
from trainer.preflight import model_path
from trainer.runfolder import weights_digest


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
    prompts = prompts_of(asked, path, PictureFolder(str(images or path.parent)))
    folder = ModelFolder.open(model_path(str(checkpoint)))
    mark = fingerprint(
        weights_digest(folder.path), template or folder.template, [row for _, row in asked], str(images), max_tokens
    )
    if (known := _finished(output, mark, len(asked))) is not None:
        return known
    draft = Path(f"{output}.{mark[:8]}.part")
    draft.parent.mkdir(parents=True, exist_ok=True)
    done = _whole_lines(draft)
    with (
        open_answerer(checkpoint, template, processes) as answerer,
        draft.open("a", encoding="utf-8", buffering=1) as file,
        progress(len(prompts) - done) as bar,
    ):
        answers = answerer.stream(prompts[done:], max_tokens, batch, bar.update)
        for (_, row), answer in zip(asked[done:], answers, strict=True):
            line = llava_answer(row, answer, str(checkpoint), mark)
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    draft.replace(output)
    return statuses_in(output)


def _finished(output: Path, mark: str, count: int) -> dict[str, int] | None:
    """The statuses in a file of answers that this very run wrote, or None."""
    try:
        with output.open(encoding="utf-8") as lines:
            runs = [json.loads(line)["metadata"].get("run") for line in lines]
        return statuses_in(output) if runs == [mark] * count else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _whole_lines(draft: Path) -> int:
    """The number of answers in a draft, after cutting off a last one that a kill left incomplete."""
    if not draft.is_file():
        return 0
    content = draft.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        draft.write_bytes(whole)
    return whole.count(b"\n")
