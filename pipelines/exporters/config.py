"""The options of an export, and the formats there are."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from schemas.config import StrictModel

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class ExportConfig(StrictModel):
    """One export. What is left at None is decided by the format."""

    to: Literal["llava_json", "parquet", "webdataset", "energon"]
    """The format."""
    images: str | None = Field(None, description="of conversations: the images dataset that has their pictures")
    shard_size: int | None = Field(None, ge=1, description="bytes after which a new file is begun, as 500MB or 2GB")
    duplicates: Literal["keep", "drop"] = Field("keep", description="drop pictures that `dedupe` calls copies")
    left_out: bool = Field(False, description="parquet: write the rows too that cannot be used, with their reason")

    @field_validator("shard_size", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        found = _SIZE.fullmatch(value.strip())
        if found is None:
            raise ValueError(f"{value!r} is not a size; expected a number of bytes, or one with KB, MB, GB or TB")
        return int(float(found[1]) * _UNITS[found[2].upper()])
