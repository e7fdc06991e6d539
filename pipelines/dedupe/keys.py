"""`dedupe_keys`: per-row hashes of images, computed where no earlier step did."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines.dedupe.detail import SIZE, Detail, detail_of
from pipelines.dedupe.options import Against, Order
from pipelines.engine.blocks import canonical
from pipelines.engine.step import Config, Later, Step
from schemas.fingerprint import fingerprint
from schemas.phash import perceptual_hash
from schemas.pictures import PictureError, read


class DedupeConfig(Config):
    """When two pictures count as the same."""

    near: bool = Field(True, description="find near-copies too, not only equal bytes")
    near_distance: int = Field(6, ge=0, le=16, description="maximum Hamming distance (of 64 bits) between near-copies")
    near_min_size: int = Field(
        96, ge=0, description="shorter side in pixels below which only equal bytes count: small drawings look alike"
    )
    near_detail: Annotated[int, Later()] = Field(
        7,
        ge=0,
        le=255,
        description="maximum difference of near-copies in any of 24 x 24 cells, in 1/24 of a picture's standard "
        "deviation; 255: compare hashes only",
    )
    against: Annotated[Against, Later()] = ()
    among_equals: Order = Field(
        "first",
        description="which of equally large images represents a cluster: the first row of the dataset, or the "
        "smallest key, which does not depend on the order in which rows were added",
    )

    def identity(self) -> dict[str, Any]:
        """Without `among_equals` at its default, verdicts are what they were before there was such an option."""
        return {k: value for k, value in super().identity().items() if (k, value) != ("among_equals", "first")}


class KeyStatus(StrEnum):
    """What is known about a row."""

    ok = "ok"
    no_image = "no_image"  # an earlier step left the row without image bytes
    no_structure = "no_structure"  # one colour or a gradient: only equal bytes make it a copy
    undecodable = "undecodable"  # no perceptual hash; equal bytes are still found


class DedupeKeys(Step[DedupeConfig]):
    """Adds hashes and size under separate names, so that the verdicts read one file of numbers and no image.

    `download` and some importers have written `sha256`, `phash`, `width` and `height`; what is missing is computed, and
    `dedupe_cells` (pipelines/dedupe/detail.py) always. A picture without structure has no perceptual hash here.
    """

    name = "dedupe_keys"
    version = 3
    Config = DedupeConfig
    reads = ("key", "image")
    optional = ("sha256", "phash", "width", "height")
    adds = (
        pa.field("dedupe_sha256", pa.string()),
        pa.field("dedupe_phash", pa.string()),
        pa.field("dedupe_width", pa.int32()),
        pa.field("dedupe_height", pa.int32()),
        pa.field("dedupe_cells", pa.binary(SIZE)),
    )
    statuses = KeyStatus

    def fingerprint(self, inputs: dict[str, str]) -> str:
        """No option changes the keys, only what is made of them."""
        return fingerprint(self.name, self.version, inputs)

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Takes known values over column by column; only rows that lack one are looked at one by one."""
        held = pc.is_valid(pc.struct_field(batch.column("image"), "bytes"))
        known = {name: self._known(batch, name, held) for name in self.optional}
        lacking = np.zeros(batch.num_rows, bool)
        for column in known.values():
            lacking |= pc.and_(held, pc.is_null(column)).to_numpy(zero_copy_only=False)
        if lacking.any():
            known = _completed(known, np.flatnonzero(lacking), batch.column("image"))
        details, plain = _details(batch.column("image"), held)
        hashed = pc.if_else(known["phash"].is_valid(), KeyStatus.ok.value, KeyStatus.undecodable.value)
        status = pc.if_else(plain, KeyStatus.no_structure.value, hashed)
        known["phash"] = pc.if_else(plain, pa.scalar(None, pa.string()), known["phash"])
        columns = {f"dedupe_{name}": column for name, column in known.items()}
        columns["dedupe_cells"] = details
        columns[f"{self.name}_status"] = pc.if_else(held, status, KeyStatus.no_image.value)
        columns[f"{self.name}_detail"] = pa.nulls(batch.num_rows, pa.string())
        return canonical(pa.RecordBatch.from_pydict(columns, schema=self.output_schema))

    def _known(self, batch: pa.RecordBatch, name: str, held: pa.Array) -> pa.Array:
        """What earlier steps say of the rows whose bytes are there; null where they say nothing: no value, "" or 0."""
        kind = self.output_schema.field(f"dedupe_{name}").type
        nothing = pa.scalar(None, kind)
        if name not in batch.schema.names:
            return pa.repeat(nothing, batch.num_rows)
        column = batch.column(name).cast(kind)
        empty = pc.equal(column, pa.scalar("" if pa.types.is_string(kind) else 0, kind))
        return pc.if_else(pc.and_(held, pc.fill_null(pc.invert(empty), False)), column, nothing)


def _details(images: pa.StructArray, held: pa.Array) -> tuple[pa.Array, pa.Array]:
    """(the signature of each picture, null where it cannot be decoded; which pictures have no structure)."""
    found: list[Detail | None] = []
    for image, there in zip(images, held.to_pylist(), strict=True):
        try:
            found.append(detail_of(image["bytes"].as_py()) if there else None)
        except PictureError:
            found.append(None)
    signatures = [None if one is None else one.signature for one in found]
    plain = [one is not None and not one.structured for one in found]
    return pa.array(signatures, pa.binary(SIZE)), pa.array(plain, pa.bool_())


def _completed(known: dict[str, pa.Array], rows: np.ndarray, images: pa.StructArray) -> dict[str, pa.Array]:
    """`known` with what the bytes of `rows` tell where nothing was known."""
    values = {name: column.to_pylist() for name, column in known.items()}
    for row in rows.tolist():
        for name, value in _computed(images[row]["bytes"].as_py()).items():
            values[name][row] = values[name][row] or value
    return {name: pa.array(values[name], column.type) for name, column in known.items()}


def _computed(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"sha256": hashlib.sha256(data).hexdigest()}
    try:
        found["width"], found["height"] = read(data).size
    except PictureError:
        return found
    phash = perceptual_hash(data)
    return found | ({"phash": phash} if phash else {})
