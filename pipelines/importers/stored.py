"""Rows whose picture comes with them: what a picture's bytes say, and the columns that an importer of bytes writes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from PIL import Image

from pipelines.importers.base import ImportStatus, image_table
from schemas.records import STORED_IMAGE


def stored_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of `images` with the bytes and what was read from them."""
    return image_table(rows, STORED_IMAGE)


def stored_row(data: bytes | None, path: str | None) -> dict[str, Any]:
    """The columns of one picture and its import status; only the header is decoded.

    Bytes that no decoder knows are not kept. The perceptual hash is left to `dedupe`, which needs it.
    """
    if not data:
        return {"import_status": ImportStatus.no_image, "import_detail": f"{path or 'the row'} holds no bytes"}
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        detail = f"{path or 'the cell'} is no picture ({len(data)} bytes)"
        return {"import_status": ImportStatus.no_image, "import_detail": detail}
    return {
        "image": {"bytes": data, "path": path},
        "width": width,
        "height": height,
        "sha256": hashlib.sha256(data).hexdigest(),
        "import_status": ImportStatus.ok,
    }
