"""Write questions as an lmms-eval task: a folder with YAML, a few functions and a parquet file; needs no hub."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from lavabeam.evaluation.question import Question
from schemas.chat.shapes import PLACEHOLDER
from schemas.errors import InputError

Sources = Callable[[Question], Sequence[bytes | Path]]
"""The pictures of a question. Raises InputError for one that is not there."""
SCORE, ANSWERED = "exact_match", "answered"
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_COLUMNS: dict[str, tuple[pa.DataType, dict[str, Any]]] = {
    "id": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "text": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "answer": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "references": (pa.list_(pa.string()), {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}),
    "category": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "images": (pa.list_(_PICTURE), {"feature": {"_type": "Image"}, "_type": "List"}),
}
"""Each with its feature as the datasets library writes it into a file's metadata: pictures are decoded by it."""
_ROWS = 256
_UTILS = '''"""What the YAML beside this file names. Written by LavaBeam."""


def pictures(doc):
    return [picture.convert("RGB") for picture in doc["images"]]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["text"]


def results(doc, results):
    if not doc["references"]:
        return {"answered": float(bool(results[0].strip()))}
    return {"exact_match": float(plain(results[0]) in [plain(one) for one in doc["references"]])}


def plain(said):
    """Lower case, single blanks, no final full stop: as LavaBeam's metric `exact` compares."""
    return " ".join(said.lower().split()).removesuffix(".").strip()
'''


@dataclass(frozen=True)
class Task:
    """A written task: lmms-eval finds `name` with `--include_path folder`."""

    name: str
    folder: Path


def write_task(folder: Path, name: str, questions: Sequence[Question], sources: Sources, max_tokens: int) -> Task:
    """Write the task `lavabeam_NAME`: row i of its parquet file, lmms-eval's doc_id i, is question i.

    Texts are without `<image>`: lmms-eval hands pictures over in front of the words, and the checkpoint's own template
    marks them. Pictures have the pixels that our own answers see. Raises InputError with the count of questions that
    lmms-eval cannot ask, and the first: without a picture, with one that is not there or cannot be decoded, or with one
    behind words.
    """
    (folder / "data").mkdir(parents=True, exist_ok=True)
    called = "lavabeam_" + "".join(letter if letter.isalnum() else "_" for letter in name)
    _write_rows(folder / "data" / "test-00000.parquet", _rows(questions, sources))
    (folder / "utils.py").write_text(_UTILS, encoding="utf-8")
    (folder / f"{called}.yaml").write_text(_described(called, folder, questions, max_tokens), encoding="utf-8")
    return Task(called, folder)


def references_of(question: Question) -> list[str]:
    """The right answers, where they are known as texts."""
    several = [question.truth] if isinstance(question.truth, str) else question.truth
    known = isinstance(several, list | tuple) and all(isinstance(one, str) for one in several)
    return list(several) if known else []


def _described(called: str, folder: Path, questions: Sequence[Question], max_tokens: int) -> str:
    scored = all(references_of(question) for question in questions)
    described = {
        "task": called,
        "dataset_path": str((folder / "data").absolute()),
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": max_tokens, "temperature": 0, "num_beams": 1, "do_sample": False},
        "metric_list": [
            {"metric": SCORE if scored else ANSWERED, "aggregation": "mean", "higher_is_better": True},
        ],
        "metadata": [{"version": 1.0}],
    }
    functions = {"doc_to_visual": "pictures", "doc_to_text": "text", "process_results": "results"}
    tagged = "".join(f"{key}: !function utils.{function}\n" for key, function in functions.items())
    return yaml.safe_dump(described, sort_keys=False) + tagged


def _rows(questions: Sequence[Question], sources: Sources) -> Iterator[dict[str, Any]]:
    """Rows as long as all are good: then only what is wrong with the others matters."""
    faults: list[str] = []
    for question in questions:
        try:
            pictures = [plain_picture(one) for one in sources(question)]
            text = _text(question, len(pictures))
        except InputError as error:
            faults.append(f"question {question.id}: {error}")
            continue
        if not faults:
            references = references_of(question)
            yield {
                "id": question.id,
                "text": text,
                "answer": (references or [""])[0],
                "references": references,
                "category": question.category,
                "images": [{"bytes": one, "path": None} for one in pictures],
            }
    if faults:
        raise InputError(
            f"lmms-eval cannot ask {len(faults)} of {len(questions)} questions: it may fail on them, or score "
            f"empty answers 0. The first is {faults[0]} Leave them out, or ask without --via."
        )


def _text(question: Question, shown: int) -> str:
    """What doc_to_text returns; raises InputError for what cannot be asked."""
    if not shown:
        raise InputError("has no picture.")
    text = question.text.strip()
    count = text.count(PLACEHOLDER)
    if count not in (0, shown):
        raise InputError(f"{count} {PLACEHOLDER} in its text, and {shown} pictures.")
    while text.startswith(PLACEHOLDER):
        text = text.removeprefix(PLACEHOLDER).strip()
    if PLACEHOLDER in text:
        raise InputError("a picture follows text; lmms-eval passes pictures before it.")
    return text


def plain_picture(source: bytes | Path) -> bytes:
    """An encoded picture of which Pillow makes the pixels that `schemas.pictures` does: its own bytes, or a PNG where
    they are turned, have another depth, or transparency. Raises InputError for what is no picture."""
    import numpy as np
    from PIL import Image

    from schemas.pictures import PictureError, rgb

    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        pixels = rgb(data)
    except (PictureError, OSError) as error:
        raise InputError(f"its picture cannot be used: {error}.") from error
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if np.array_equal(np.asarray(picture.convert("RGB")), pixels):
                return data
    except (OSError, ValueError, SyntaxError):
        pass  # our decoder reads more than Pillow does
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def _write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow.parquet as pq

    features = {name: feature for name, (_, feature) in _COLUMNS.items()}
    schema = pa.schema([pa.field(name, kind) for name, (kind, _) in _COLUMNS.items()])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    draft = path.with_name(path.name + ".part")
    with pq.ParquetWriter(draft, schema) as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == _ROWS:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        if batch:
            writer.write_table(pa.Table.from_pylist(batch, schema))
    draft.replace(path)
