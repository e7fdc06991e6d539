"""Read answer files in any of the official formats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lavabeam.evaluation.layouts import check_file, field, identity, is_table, rows_in, rows_of, table_rows, values_of
from lavabeam.evaluation.question import Answered, Given
from schemas.errors import InputError

_IDS = ("question_id", "questionId", "index", "id", "image")
_TEXTS = ("text", "answer", "prediction", "pred", "output")


def read_answers(path: Path) -> list[Given]:
    """The answers in a file, or in MME's folder of results.

    Read are LLaVA's answers (question_id, prompt, text), uploads of VQAv2, GQA, VizWiz, TextVQA, POPE and SEED-Bench
    (lists or lines with an id and an answer), MM-Vet's (an object by id), MMBench's (xlsx, or a table), ScienceQA's
    result and output files, and a folder of MME's `category.txt` files with four columns. Raises InputError naming the
    row that holds no answer, and for a file without any.
    """
    if path.is_dir():
        found = list(_mme_folder(path))
    elif is_table(path):
        rows = table_rows(path, verbatim="prediction")
        found = [_given(row, where, ("index", "question_id"), ("prediction",)) for where, row in rows]
    else:
        check_file(path)
        found = _of_json(path)
    if not found:
        raise InputError(f"{path}: holds no answers.")
    return found


def _of_json(path: Path) -> list[Given]:
    values = values_of(path)
    single = values[0] if len(values) == 1 and isinstance(values[0], dict) else {}
    if isinstance(single.get("outputs"), dict):
        return _by_id(single["outputs"], path)
    if isinstance(single.get("correct"), list) and isinstance(single.get("incorrect"), list):
        return [
            Given(identity(field(row, "question_id", where), where), str(row["pred"]), row.get("question"), where=where)
            for where, row in rows_in([*single["correct"], *single["incorrect"]], path)
        ]
    if single and not any(name in single for name in _IDS):
        return _by_id(single, path)
    return [_given(row, where, _IDS, _TEXTS) for where, row in rows_of(path, values)]


def _by_id(values: dict[str, Any], path: Path) -> list[Given]:
    for key, text in values.items():
        if not isinstance(text, str):
            raise InputError(f"{path}, {key!r}: the answer is {text!r:.60}; expected text.")
    return [Given(key.strip(), text, where=f"{path}, {key!r}") for key, text in values.items()]


def _given(row: dict[str, Any], where: str, ids: tuple[str, ...], texts: tuple[str, ...]) -> Given:
    key = identity(field(row, ids[0], where, *ids[1:]), where)
    name = next((one for one in texts if one in row), None)
    if name is None:
        field(row, texts[0], where, *texts[1:])
    text = row[str(name)]
    metadata = row.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    status = metadata.get("status", "ok")
    reason = "" if status == "ok" else f"{status}: {metadata.get('detail', '')}"
    if text is None and name == "prediction":  # an empty cell of a table
        text, reason = "", reason or "empty: the prediction is empty"
    if not isinstance(text, str):
        raise InputError(f"{where}: {name} is {text!r:.60}; expected text.")
    prompt = row.get("prompt", row.get("question"))
    by_image = "image" in ids and not any(row.get(one) is not None for one in ids if one != "image")
    return Given(key, text, prompt if isinstance(prompt, str) else None, reason, where, by_image)


def _mme_folder(path: Path) -> Iterator[Given]:
    files = sorted(path.glob("*.txt"))
    if not files:
        raise InputError(f"{path}: a folder without .txt files. Give a file of answers, or MME's folder of results.")
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            cells = line.split("\t")
            if len(cells) != 4:
                raise InputError(
                    f"{file}, line {number}: {len(cells)} columns; expected picture, question, truth, answer."
                )
            yield Given(f"{file.stem}/{cells[0]}", cells[3], cells[1], where=f"{file}, line {number}")


def write_jsonl(path: Path, rows: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    """JSON lines; the file is there whole or not at all."""
    draft = path.with_name(path.name + ".part")
    draft.parent.mkdir(parents=True, exist_ok=True)
    with draft.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    draft.replace(path)


def no_answer(row: Answered) -> dict[str, Any]:
    """What a line of JSON says beside its empty text where there is no answer; nothing where there is one."""
    return {} if row.text is not None else {"metadata": {"status": "no_answer"}}


def is_answers(path: Path) -> bool:
    """Whether a path looks like answers and not like a checkpoint: a file, or MME's folder."""
    return path.is_file() or (path.is_dir() and not (path / "config.json").exists() and any(path.glob("*.txt")))
