"""Building an index of evaluation sets from datasets of any kind: images, conversations, samples."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa

from pipelines.decontaminate.hashes import (
    bytes_hash,
    distinct_pairs,
    gram_hashes,
    lines,
    message_texts,
    questions,
    views,
)
from pipelines.decontaminate.index import EMBEDDING, FORMAT, KINDS, VERSION, Index, Meta, Settings, assembled
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.pictures import PictureError

TEXTS = ("alt_text", "caption", "captions")
"""Text columns of pictures."""
_READ = ("image", "images", "messages", *TEXTS)
BATCH_ROWS = 256


@dataclass
class SetReport:
    """What an index holds of one set, and what it left out."""

    name: str
    rows: int = 0
    pictures: int = 0
    questions: int = 0
    ngrams: int = 0
    embeddings: int = 0
    undecodable: int = 0
    by_bytes_only: int = 0
    """Pictures that are too small, or too flat, for a perceptual hash."""
    common: int = 0
    """Different questions and runs of words that are in too many rows of the set."""


@dataclass
class _Set:
    """The hashes of one set: kind -> (values, rows of the index), before what is common is left out."""

    report: SetReport
    values: dict[str, list[np.ndarray]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, kind: str, values: Sequence[int] | np.ndarray, rows: Sequence[int] | np.ndarray) -> None:
        if len(values):
            self.values[kind] += [np.asarray(values, np.uint64), np.asarray(rows, np.int64)]


def build_index(
    sets: Sequence[tuple[str, str]], settings: Settings, embedding: str = ""
) -> tuple[Index, list[SetReport]]:
    """The index of (name of a set, path of a dataset) pairs; a name may come more than once.

    embedding: a column with a list of numbers for each row. Raises InputError for a set without anything to compare,
    a missing column, and embeddings of different sizes.
    """
    if not sets:
        raise InputError("decontaminate-index: no evaluation set. Name them: --set pope=DATASET.")
    _check_sets(sets)
    made: dict[str, _Set] = {}
    owners: list[int] = []
    names: list[str] = []
    for name, path in sets:
        one = made.setdefault(name, _Set(SetReport(name)))
        before = len(names)
        for keys in _read(Dataset.open(path), one, before, settings, embedding):
            names += keys
        owners += [list(made).index(name)] * (len(names) - before)
        one.report.rows += len(names) - before
        if not any(one.values.values()):
            raise InputError(
                f"decontaminate-index: set {name!r}: {path} has nothing to compare: no picture that can be decoded, no "
                f"question of {settings.question_words} words, no text of {settings.ngram} words."
            )
    entries: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for one in made.values():
        _gather(one, settings, entries)
    reports = [one.report for one in made.values()]
    sizes = {values.shape[1] for values in entries[EMBEDDING][::2]}
    if len(sizes) > 1:
        raise InputError(f"decontaminate-index: embeddings of {sorted(sizes)} numbers: make all with one model.")
    meta = Meta(
        format=FORMAT,
        version=VERSION,
        settings=settings,
        sets=[asdict(report) for report in reports],
        embedding=sizes.pop() if sizes else None,
    )
    return assembled(meta, owners, names, entries), reports


def _check_sets(sets: Sequence[tuple[str, str]]) -> None:
    """Raise InputError for a set without a name, and for a dataset that one set would count twice."""
    seen: set[tuple[str, str]] = set()
    for name, path in sets:
        if not name.strip():
            raise InputError(f"decontaminate-index: --set ={path}: the set has no name. Give NAME=DATASET.")
        if (name, os.path.abspath(path)) in seen:
            raise InputError(f"decontaminate-index: --set {name}={path}: the dataset is named twice; count it once.")
        seen.add((name, os.path.abspath(path)))


def _read(dataset: Dataset, into: _Set, first: int, settings: Settings, embedding: str) -> Iterator[list[str]]:
    """Add what the rows hold; yields their keys, batch by batch. `first`: the index's number of the first row."""
    if embedding and embedding not in dataset.columns:
        raise InputError(f"decontaminate-index: {dataset.path} has no column {embedding!r} with embeddings.")
    for fragment in dataset.fragments:
        columns = ["key", *(name for name in _READ if name in fragment.owner), *([embedding] if embedding else [])]
        for batch in fragment.batches(columns, BATCH_ROWS):
            rows = np.arange(first, first + batch.num_rows)
            for row, pictures in zip(rows.tolist(), pictures_of(batch), strict=True):
                for data in pictures:
                    _add_picture(into, data, row, settings.min_side)
            _add_texts(into, batch, rows, settings)
            if embedding:
                _add_embeddings(into, batch.column(embedding), rows, f"{dataset.path}, column {embedding!r}")
            yield batch.column("key").to_pylist()
            first += batch.num_rows


def pictures_of(batch: pa.RecordBatch) -> list[list[bytes]]:
    """The encoded pictures of each row: those of `image` and `images` that have bytes."""
    found: list[list[bytes]] = [[] for _ in range(batch.num_rows)]
    for name in ("image", "images"):
        if name in batch.schema.names:
            for pictures, cell in zip(found, batch.column(name).to_pylist(), strict=True):
                cells = cell if isinstance(cell, list) else [cell]
                pictures += [one["bytes"] for one in cells or () if one and one["bytes"]]
    return found


def texts_of(batch: pa.RecordBatch) -> Iterator[tuple[int, bool, str]]:
    """(row, whether a user says it, text) of all texts of a batch."""
    if "messages" in batch.schema.names:
        for row, messages in enumerate(batch.column("messages").to_pylist()):
            yield from ((row, role == "user", text) for role, text in message_texts(messages))
    for name in TEXTS:
        if name in batch.schema.names:
            for row, cell in enumerate(batch.column(name).to_pylist()):
                yield from ((row, False, text) for text in (cell if isinstance(cell, list) else [cell]) if text)


def text_hashes_of(batch: pa.RecordBatch, settings: Settings) -> tuple[list[tuple[int, int]], np.ndarray, np.ndarray]:
    """((row, hash) of questions; hashes of all runs of words and the row of each)."""
    asked: list[tuple[int, int]] = []
    texts: list[list[str]] = []
    owners: list[int] = []
    for row, is_question, text in texts_of(batch):
        if is_question:
            asked += [(row, value) for value in sorted(questions(text, settings.question_words))]
        for found in lines(text):
            texts.append(found)
            owners.append(row)
    grams, which = gram_hashes(texts, settings.ngram)
    return asked, grams, np.array(owners, np.int64)[which]


def vectors_of(column: pa.Array, where: str) -> tuple[np.ndarray, np.ndarray]:
    """(embeddings, float32, shape (n, size); the rows that have one of finite numbers). Raises InputError where sizes
    differ."""
    rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    values = column.take(pa.array(rows)).to_pylist() if len(rows) else []
    sizes = {len(value) for value in values}
    if len(sizes) > 1:
        raise InputError(f"{where}: embeddings of {sorted(sizes)} numbers in one column, expected one size.")
    vectors = np.array(values, np.float32).reshape(len(rows), -1 if len(rows) else 0)
    finite = np.isfinite(vectors).all(axis=1)
    return vectors[finite], rows[finite]


def _add_picture(into: _Set, data: bytes, row: int, min_side: int) -> None:
    try:
        digest, hashes = views(data, min_side)
    except PictureError:
        into.report.undecodable += 1
        return
    into.report.pictures += 1
    into.report.by_bytes_only += not hashes
    into.add("bytes", [bytes_hash(digest)], [row])
    into.add("picture", hashes, [row] * len(hashes))


def _add_texts(into: _Set, batch: pa.RecordBatch, rows: np.ndarray, settings: Settings) -> None:
    asked, grams, owners = text_hashes_of(batch, settings)
    into.add("question", [value for _, value in asked], rows[[row for row, _ in asked]] if asked else [])
    into.add("ngram", grams, rows[owners])


def _add_embeddings(into: _Set, column: pa.Array, rows: np.ndarray, where: str) -> None:
    vectors, present = vectors_of(column, where)
    if len(present):
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        into.values[EMBEDDING] += [vectors / np.where(lengths > 0, lengths, 1), rows[present]]
        into.report.embeddings += len(present)


def _gather(one: _Set, settings: Settings, entries: dict[str, list[np.ndarray]]) -> None:
    """Add a set's hashes to `entries`, each once with the first row that has it, but for common texts."""
    for kind, pairs in one.values.items():
        if not pairs:
            continue
        if kind == EMBEDDING:
            entries[kind] += pairs
            continue
        hashes, rows = distinct_pairs(np.concatenate(pairs[::2]), np.concatenate(pairs[1::2]))
        if kind == "picture":
            entries[kind] += [hashes, rows]
            continue
        values, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        kept = counts <= settings.common_rows if kind != "bytes" else np.ones(len(values), bool)
        one.report.common += int((~kept).sum())
        if kind != "bytes":
            count = int(kept.sum())
            setattr(one.report, "questions" if kind == "question" else "ngrams", count)
        entries[kind] += [values[kept], rows[first[kept]]]
