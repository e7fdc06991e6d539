"""`dedupe_keys`: what makes two pictures the same, per row: computed where no earlier step did."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Config, Step
from schemas.fingerprint import fingerprint
from schemas.phash import perceptual_hash
from schemas.pictures import PictureError, read


class DedupeConfig(Config):
    """When two pictures count as the same."""

    near: bool = Field(True, description="find near-copies too, not only equal bytes")
    near_distance: int = Field(6, ge=0, le=16, description="bits of 64 in which near-copies may differ")
    near_min_size: int = Field(
        96, ge=0, description="shorter side in pixels below which only equal bytes count: small drawings look alike"
    )


class KeyStatus(StrEnum):
    """What is known about a row."""

    ok = "ok"
    no_image = "no_image"  # an earlier step left the row without image bytes
    undecodable = "undecodable"  # no perceptual hash; equal bytes are still found


class DedupeKeys(Step[DedupeConfig]):
    """Adds hashes and size under names of its own, so that the verdicts read one file of numbers and no image.

    `download` and some importers have written `sha256`, `phash`, `width` and `height`; what is missing is computed.
    """

    name = "dedupe_keys"
    version = 2
    Config = DedupeConfig
    reads = ("key", "image")
    optional = ("sha256", "phash", "width", "height")
    adds: ClassVar[tuple[pa.Field, ...]] = (
        pa.field("dedupe_sha256", pa.string()),
        pa.field("dedupe_phash", pa.string()),
        pa.field("dedupe_width", pa.int32()),
        pa.field("dedupe_height", pa.int32()),
    )
    statuses = KeyStatus

    def fingerprint(self, inputs: dict[str, str]) -> str:
        """No option changes the keys, only what is made of them."""
        return fingerprint(self.name, self.version, inputs)

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        known = {name: batch.column(name) for name in self.optional if name in batch.schema.names}
        images = batch.column("image")
        rows = []
        for row in range(batch.num_rows):
            values = {name: column[row].as_py() for name, column in known.items()}
            rows.append(_keys(images[row], values))
        return self.rows_to_batch(rows)


def _keys(image: pa.StructScalar, known: dict[str, Any]) -> dict[str, Any]:
    """The columns of one row. The bytes are looked at only when a value is missing."""
    if not image.is_valid or not image["bytes"].is_valid:
        return {"status": KeyStatus.no_image}
    if not all(known.get(name) for name in ("sha256", "phash", "width", "height")):
        known = _computed(image["bytes"].as_py()) | {name: value for name, value in known.items() if value}
    columns = {f"dedupe_{name}": known.get(name) for name in ("sha256", "phash", "width", "height")}
    return {**columns, "status": KeyStatus.ok if known.get("phash") else KeyStatus.undecodable}


def _computed(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"sha256": hashlib.sha256(data).hexdigest()}
    try:
        found["width"], found["height"] = read(data).size
    except PictureError:
        return found
    phash = perceptual_hash(data, found["width"], found["height"])
    return found | ({"phash": phash} if phash else {})
