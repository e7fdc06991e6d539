"""The `decontaminate` step: finds rows that are in evaluation sets, by an index of hashes. Nothing is deleted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipelines.decontaminate.build import TEXTS, pictures_of, text_hashes_of, vectors_of
from pipelines.decontaminate.hashes import bytes_hash, distinct_pairs
from pipelines.decontaminate.index import EMBEDDING, Index
from pipelines.engine.step import Config, Context, Needs, Runtime, Step
from schemas.dataset import Dataset, Fragment
from schemas.errors import InputError
from schemas.phash import perceptual_hash

Kind = Literal["bytes", "picture", "question", "ngram", "embedding"]
HIT = pa.struct(
    [
        ("set", pa.string()),
        ("row", pa.string()),
        ("kind", pa.string()),
        ("distance", pa.float32()),
        ("count", pa.int32()),
    ]
)
"""The nearest row of an evaluation set by one kind of hash. `distance`: of 64 bits for `picture`, 1 - cosine for
`embedding`, else 0. `count`: how many runs of words of the row are in the set (`ngram`), else 1."""

_PICTURES, _MESSAGES = ("image", "images"), ("messages",)
_SOURCES: Mapping[str, tuple[str, ...]] = {
    "bytes": (*_PICTURES, "sha256"),
    "picture": (*_PICTURES, "phash"),
    "question": _MESSAGES,
    "ngram": (*_MESSAGES, *TEXTS),
}
"""Kind -> the columns of which one is enough."""


class DecontaminateConfig(Config):
    """Which index, and what counts as a leak."""

    index: Annotated[str, Runtime()] = Field(description="the index file, made by `lavabeam decontaminate-index`")
    kinds: tuple[Kind, ...] = Field(
        (), description="compare only by these: bytes, picture, question, ngram, embedding; by default all in the index"
    )
    distance: int = Field(8, ge=0, le=16, description="maximum Hamming distance (of 64 bits) to a leaked image")
    min_ngrams: int = Field(1, ge=1, description="minimum number of matching n-grams")
    embedding: str = Field("", description="the embedding column, from the same model as the index")
    min_similarity: float = Field(0.95, gt=0, le=1, description="minimum cosine similarity of a match")


class DecontaminateStatus(StrEnum):
    """What is known about a row."""

    ok = "ok"  # in no evaluation set of the index
    leaked = "leaked"  # `leaks` says where
    nothing_to_compare = "nothing_to_compare"  # no picture that can be decoded, no text that is long enough


@dataclass(frozen=True)
class Hit:
    """A row of the index that a row is like."""

    kind: str
    row: int
    distance: float
    count: int = 1


class Decontaminate(Step[DecontaminateConfig]):
    """Adds the evaluation rows that each row is like: by set and kind of hash the nearest one."""

    name = "decontaminate"
    version = 1
    Config = DecontaminateConfig
    statuses = DecontaminateStatus
    reads = ("key",)
    adds = (pa.field("leaks", pa.list_(HIT)),)
    passed_over = frozenset({DecontaminateStatus.nothing_to_compare})
    by_choice: ClassVar[Mapping[str, str]] = {DecontaminateStatus.leaked: "leaked"}
    _index: Index | None = None

    @property
    def optional(self) -> tuple[str, ...]:
        embedding = (self.config.embedding,) if self.config.embedding else ()
        return (*_PICTURES, "sha256", "phash", *_MESSAGES, *TEXTS, *embedding)

    @property
    def needs(self) -> Needs:
        return Needs(model_files=(self.config.index,))

    def depends_on(self) -> dict[str, Any]:
        """The index by its content: at another place it gives the same columns. Its sets, for the report."""
        return {"index": self._opened.sha256, "sets": {one["name"]: one["rows"] for one in self._opened.meta.sets}}

    def fragments(self, dataset: Dataset) -> Sequence[Fragment]:
        """All; raises InputError where index and dataset have nothing that can be compared, or what was asked for."""
        self._check(dataset)
        return dataset.fragments

    def setup(self, context: Context) -> None:
        self._index = Index.open(self.config.index)

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        hits: list[list[Hit]] = [[] for _ in range(batch.num_rows)]
        present = np.zeros(batch.num_rows, bool)
        for row, hit in self._found(batch, present):
            hits[row].append(hit)
        return self.rows_to_batch([self._row(own, there) for own, there in zip(hits, present.tolist(), strict=True)])

    def __getstate__(self) -> dict[str, Any]:
        """Without the index, which every worker opens for itself."""
        return {**self.__dict__, "_index": None}

    @property
    def _opened(self) -> Index:
        if self._index is None:
            self._index = Index.open(self.config.index)
        return self._index

    def _found(self, batch: pa.RecordBatch, present: np.ndarray) -> Iterator[tuple[int, Hit]]:
        """(row, hit) of all kinds; marks in `present` the rows that have something to compare."""
        index = self._opened
        kinds = set(self.config.kinds or index.kinds) & set(index.kinds)
        yield from self._picture_hits(batch, kinds, present)
        yield from self._text_hits(batch, kinds, present)
        if EMBEDDING in kinds and self.config.embedding in batch.schema.names:
            yield from self._embedding_hits(batch.column(self.config.embedding), present)

    def _picture_hits(self, batch: pa.RecordBatch, kinds: set[str], present: np.ndarray) -> Iterator[tuple[int, Hit]]:
        index = self._opened
        if not kinds & {"bytes", "picture"}:
            return
        for row, digest, phash in _picture_hashes(batch, "picture" in kinds):
            if digest and "bytes" in kinds:
                present[row] = True
                found = index.equal("bytes", np.array([bytes_hash(digest)], np.uint64))[1]
                yield from ((row, Hit("bytes", one, 0.0)) for one in found.tolist())
            if phash and "picture" in kinds:
                present[row] = True
                rows, bits = index.near(int(phash, 16), self.config.distance)
                yield from (
                    (row, Hit("picture", one, far)) for one, far in zip(rows.tolist(), bits.tolist(), strict=True)
                )

    def _text_hits(self, batch: pa.RecordBatch, kinds: set[str], present: np.ndarray) -> Iterator[tuple[int, Hit]]:
        index = self._opened
        if not kinds & {"question", "ngram"}:
            return
        asked, grams, owners = text_hashes_of(batch, index.settings)
        if "question" in kinds and asked:
            rows = np.array([row for row, _ in asked])
            present[rows] = True
            places, entries = index.equal("question", np.array([value for _, value in asked], np.uint64))
            yield from zip(rows[places].tolist(), (Hit("question", one, 0.0) for one in entries.tolist()), strict=True)
        if "ngram" in kinds and len(grams):
            present[owners] = True
            owners, grams = distinct_pairs(owners, grams)
            places, entries = index.equal("ngram", grams)
            rows = owners[places]
            yield from zip(rows.tolist(), (Hit("ngram", one, 0.0) for one in entries.tolist()), strict=True)

    def _embedding_hits(self, column: pa.Array, present: np.ndarray) -> Iterator[tuple[int, Hit]]:
        where = f"column {self.config.embedding!r}"
        vectors, rows = vectors_of(column, where)
        if not len(rows):
            return
        self._check_size(vectors.shape[1], where)
        present[rows] = True
        places, entries, cosines = self._opened.alike(vectors, self.config.min_similarity)
        for row, entry, cosine in zip(rows[places].tolist(), entries.tolist(), cosines.tolist(), strict=True):
            yield row, Hit(EMBEDDING, entry, max(1 - cosine, 0.0))

    def _row(self, hits: list[Hit], there: bool) -> dict[str, Any]:
        """The best hit for each set and kind, sets and kinds in the order of the index."""
        index, best = self._opened, dict[tuple[int, int], Hit]()
        for hit in hits:
            place = index.set_of(hit.row), index.kinds.index(hit.kind)
            known = best.get(place)
            if known is None:
                best[place] = hit
            else:
                nearest = min(known, hit, key=lambda one: (one.distance, one.row))
                best[place] = replace(nearest, count=known.count + 1 if hit.kind == "ngram" else 1)
        leaks = [
            {**asdict(hit), "set": index.sets[one], "row": index.name(hit.row)}
            for (one, _), hit in sorted(best.items())
            if hit.kind != "ngram" or hit.count >= self.config.min_ngrams
        ]
        if leaks:
            first = leaks[0]
            said = f"{first['set']}/{first['row']} by {first['kind']}, distance {first['distance']:.3g}"
            return {"leaks": leaks, "status": DecontaminateStatus.leaked.value, "detail": said}
        status = DecontaminateStatus.ok if there else DecontaminateStatus.nothing_to_compare
        return {"leaks": [], "status": status.value, "detail": None}

    def _check(self, dataset: Dataset) -> None:
        index, config, columns = self._opened, self.config, set(dataset.columns)
        there = {kind for kind, names in _SOURCES.items() if columns & set(names)}
        if config.embedding:
            if config.embedding not in columns:
                raise InputError(f"decontaminate: {dataset.path} has no column {config.embedding!r} with embeddings.")
            self._check_size(_size_of(dataset, config.embedding), f"{dataset.path}, column {config.embedding!r}")
            there.add(EMBEDDING)
        lacking = [kind for kind in config.kinds if kind not in index.kinds]
        if lacking:
            raise InputError(
                f"decontaminate: {config.index} has no hashes of kind {', '.join(lacking)}, "
                f"only {', '.join(index.kinds)}."
            )
        blind = [kind for kind in config.kinds if kind not in there]
        if blind or not there & set(index.kinds):
            asked = ", ".join(blind or index.kinds)
            raise InputError(
                f"decontaminate: {dataset.path} has no column to compare by {asked}. Pictures need image, or sha256 "
                "and phash; texts need messages or captions; embeddings need --embedding COLUMN."
            )

    def _check_size(self, size: int | None, where: str) -> None:
        expected = self._opened.meta.embedding
        if size is not None and size != expected:
            held = f"has embeddings of {expected} numbers" if expected else "has no embeddings"
            raise InputError(f"decontaminate: {where}: embeddings of {size} numbers, and {self.config.index} {held}.")


def _picture_hashes(batch: pa.RecordBatch, perceptual: bool) -> Iterator[tuple[int, str | None, str | None]]:
    """(row, sha256 in hex, perceptual hash) of every picture: as the columns say, else computed from the bytes."""
    names, pictures = batch.schema.names, pictures_of(batch)
    known = {
        name: batch.column(name).to_pylist() if name in names else [None] * len(pictures)
        for name in ("sha256", "phash")
    }
    for row, found in enumerate(pictures):
        digest, phash = known["sha256"][row], known["phash"][row]
        if digest or phash or not found:
            digest = digest or (hashlib.sha256(found[0]).hexdigest() if found else None)
            phash = phash or (perceptual_hash(found[0]) if found and perceptual else None)
            yield row, _digits(digest, 64), _digits(phash, 16)
            continue
        for data in found:
            yield row, hashlib.sha256(data).hexdigest(), perceptual_hash(data) if perceptual else None


def _digits(text: str | None, length: int) -> str | None:
    """`text` where it is a hash of so many hex digits."""
    try:
        return text if text is not None and len(text) == length and int(text, 16) >= 0 else None
    except ValueError:
        return None


def _size_of(dataset: Dataset, column: str) -> int | None:
    """How many numbers the first embedding has; None where there is none. Raises InputError for another column."""
    for fragment in dataset.fragments:
        for batch in fragment.batches([column], 1024):
            kind = batch.schema.field(column).type
            numbers = getattr(kind, "value_type", None)
            if numbers is None or not (pa.types.is_floating(numbers) or pa.types.is_integer(numbers)):
                raise InputError(
                    f"decontaminate: {dataset.path}, column {column!r} holds {kind}, expected lists of numbers."
                )
            found = batch.column(column).drop_null()
            if len(found):
                return len(found[0])
    return None
