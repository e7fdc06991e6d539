"""The index of evaluation sets: hashes with their set and row, in one `.npz` file.

Arrays (little-endian): `meta` (JSON as UTF-8), `row_set` (uint16: the set of each row), `names` and `name_ends` (the
rows' names, UTF-8, and where each ends), for every kind of hash `<kind>_hash` (uint64, ascending) and `<kind>_row`
(uint32), and, where the index has embeddings, `embedding` (float16, unit length) and `embedding_row`.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from schemas.config import StrictModel, parse
from schemas.errors import CorruptError, InputError, VersionError

FORMAT, VERSION = "lavabeam evaluation index", 1
HASHED = ("bytes", "picture", "question", "ngram")
EMBEDDING = "embedding"
KINDS = (*HASHED, EMBEDDING)
_ROWS = {"row_set": np.uint16, "names": np.uint8, "name_ends": np.int64}


class Settings(StrictModel):
    """How an index was made. A lookup hashes in the same way."""

    ngram: int = Field(13, ge=2, description="words of a run (13: Brown et al., arXiv 2005.14165, appendix C)")
    question_words: int = Field(8, ge=1, description="questions of fewer words are in no index: they are everybody's")
    common_rows: int = Field(
        10, ge=1, description="runs and questions in more rows of a set are left out: its prompts, not its content"
    )
    min_side: int = Field(96, ge=1, description="shorter side in pixels below which only equal bytes count")


class Meta(StrictModel):
    """What the file says about itself."""

    format: str
    version: int
    settings: Settings
    sets: list[dict[str, Any]]
    """Of each set: its name, and what it holds."""
    embedding: int | None = None
    """Numbers in an embedding."""


@dataclass(frozen=True)
class Index:
    """An index in memory; `sha256` is that of its file."""

    meta: Meta
    arrays: dict[str, np.ndarray]
    sha256: str = ""

    @classmethod
    def open(cls, path: str | Path) -> Index:
        """Raises InputError for a file that is missing or something else, VersionError for one of a newer release."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}). `lavabeam decontaminate-index` makes an index."
            ) from error
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            values = json.loads(arrays.pop("meta").tobytes())
            found = values["format"], values["version"]
        except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path}: not an index of evaluation sets, or damaged. `lavabeam decontaminate-index` makes one."
            ) from error
        if found[0] != FORMAT:
            raise InputError(
                f"{path}: expected {FORMAT!r}, found {found[0]!r}. Make one: `lavabeam decontaminate-index`."
            )
        if found[1] != VERSION:
            raise VersionError(
                f"{path}: version {found[1]} of the index, and this release reads version {VERSION}. Make it anew with "
                "`lavabeam decontaminate-index`, or install the release that wrote it."
            )
        index = cls(parse(values, Meta, str(path)), arrays, hashlib.sha256(data).hexdigest())
        index._check(path)
        return index

    def write(self, path: str | Path) -> None:
        """Write the file. The same rows and settings give the same bytes."""
        meta = np.frombuffer(json.dumps(self.meta.model_dump(mode="json"), ensure_ascii=False).encode(), np.uint8)
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, meta=meta, **self.arrays)
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(path).with_name(f"{Path(path).name}.part")
            temporary.write_bytes(content.getvalue())
            temporary.replace(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}). Choose another place.") from error

    @property
    def settings(self) -> Settings:
        return self.meta.settings

    @cached_property
    def sets(self) -> list[str]:
        return [one["name"] for one in self.meta.sets]

    @cached_property
    def kinds(self) -> list[str]:
        """What rows can be compared by."""
        return [kind for kind in KINDS if len(self.arrays.get(f"{kind}_row", ()))]

    def name(self, row: int) -> str:
        """The key of a row in its set's dataset."""
        ends = self.arrays["name_ends"]
        return self.arrays["names"][ends[row - 1] if row else 0 : ends[row]].tobytes().decode()

    def set_of(self, row: int) -> int:
        return int(self.arrays["row_set"][row])

    def equal(self, kind: str, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(places in `hashes`, rows of the index) of all equal hashes; a hash may have a row in each set."""
        known, rows = self.arrays[f"{kind}_hash"], self.arrays[f"{kind}_row"]
        first = np.searchsorted(known, hashes, side="left")
        counts = np.searchsorted(known, hashes, side="right") - first
        places = np.repeat(np.arange(len(hashes)), counts)
        within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
        return places, rows[np.repeat(first, counts) + within].astype(np.int64)

    def near(self, hashed: int, distance: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, bits in which they differ) of the pictures within `distance` of one perceptual hash.

        Two such hashes agree on one of `distance + 1` bands of bits: only those that do are compared.
        """
        known, rows = self.arrays["picture_hash"], self.arrays["picture_row"]
        found = [
            order[starts[value := hashed >> shift & mask] : starts[value + 1]]
            for shift, mask, order, starts in self._bands(distance)
        ]
        candidates = np.concatenate(found)
        bits = np.bitwise_count(known[candidates] ^ np.uint64(hashed))
        close = bits <= distance
        return rows[candidates[close]].astype(np.int64), bits[close].astype(np.int64)

    def alike(self, vectors: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(places in `vectors`, rows, cosines) of embeddings with a cosine of `least`; float32, shape (n, size)."""
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / np.where(lengths > 0, lengths, 1)
        cosines = unit @ self._embeddings.T
        places, entries = np.nonzero(cosines >= least)
        return places, self.arrays["embedding_row"][entries].astype(np.int64), cosines[places, entries]

    @cached_property
    def _embeddings(self) -> np.ndarray:
        return self.arrays[EMBEDDING].astype(np.float32)

    def _bands(self, distance: int) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
        """(shift, mask, entries ordered by the band, where each value of it starts) for every band."""
        made = self._made_bands.get(distance)
        if made is None:
            edges = np.linspace(0, 64, distance + 2).round().astype(int).tolist()
            made = self._made_bands[distance] = [
                self._band(shift, (1 << (end - shift)) - 1) for shift, end in pairwise(edges)
            ]
        return made

    def _band(self, shift: int, mask: int) -> tuple[int, int, np.ndarray, np.ndarray]:
        # More than 16 bits of a band would be a table of millions for few entries; fewer compare a little more.
        mask &= 0xFFFF
        values = (self.arrays["picture_hash"] >> np.uint64(shift)) & np.uint64(mask)
        order = np.argsort(values, kind="stable")
        return shift, mask, order, np.searchsorted(values[order], np.arange(mask + 2, dtype=np.uint64))

    @cached_property
    def _made_bands(self) -> dict[int, list[tuple[int, int, np.ndarray, np.ndarray]]]:
        return {}

    def _check(self, path: str | Path) -> None:
        """Raises CorruptError where arrays are missing, of other types, or do not fit each other."""
        arrays = {**{name: np.zeros(0, kind) for name, kind in _ROWS.items()}, **self.arrays}
        wrong = [name for name, kind in _ROWS.items() if arrays[name].dtype != kind]
        rows, ends = len(arrays["row_set"]), arrays["name_ends"]
        if wrong or len(ends) != rows or (rows and ends[-1] != len(arrays["names"])):
            wrong.append("names")
        if rows and arrays["row_set"].max() >= len(self.sets):
            wrong.append("row_set")
        for kind in KINDS:
            name, expected = (kind, np.float16) if kind == EMBEDDING else (f"{kind}_hash", np.uint64)
            values, owners = arrays.get(name, np.zeros(0, expected)), arrays.get(f"{kind}_row", np.zeros(0, np.uint32))
            fits = values.dtype == expected and owners.dtype == np.uint32 and len(values) == len(owners)
            ordered = kind == EMBEDDING or not len(values) or bool((values[1:] >= values[:-1]).all())
            if not fits or not ordered or (len(owners) and owners.max() >= rows):
                wrong.append(name)
        if wrong:
            raise CorruptError(f"{path}: the index does not hold together ({', '.join(wrong)}). Make it anew.")


def assembled(meta: Meta, sets: Sequence[int], names: Sequence[str], entries: dict[str, list[np.ndarray]]) -> Index:
    """An index of rows (the set and name of each) and entries: kind -> arrays of (values, rows) pairs, alternating."""
    encoded = [name.encode() for name in names]
    arrays: dict[str, np.ndarray] = {
        "row_set": np.array(sets, np.uint16),
        "names": np.frombuffer(b"".join(encoded), np.uint8),
        "name_ends": np.cumsum([len(name) for name in encoded], dtype=np.int64),
    }
    for kind, pairs in entries.items():
        if not pairs:
            continue
        values, rows = np.concatenate(pairs[::2]), np.concatenate(pairs[1::2]).astype(np.uint32)
        if kind == EMBEDDING:
            arrays |= {kind: values.astype(np.float16), f"{kind}_row": rows}
            continue
        order = np.lexsort([rows, values])
        arrays |= {f"{kind}_hash": values[order].astype(np.uint64), f"{kind}_row": rows[order]}
    return Index(meta, arrays)
