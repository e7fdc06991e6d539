"""Rows whose picture comes with them: what a picture's bytes say, and the columns that an importer of bytes writes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.importers.base import ImportStatus, image_table
from schemas.pictures import PictureError, check
from schemas.records import STORED_IMAGE


def stored_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of `images` with the bytes and what was read from them."""
    return image_table(rows, STORED_IMAGE)


def stored_row(data: bytes | None, path: str | None) -> dict[str, Any]:
    """The columns of one picture and its import status. `width` and `height` are those of the upright picture.

    The picture is decoded to prove that it can be, as training will do it; bytes that cannot be used are not kept, as
    `download` keeps none. The perceptual hash is left to `dedupe`, which needs it.
    """
    if not data:
        return {"import_status": ImportStatus.no_image, "import_detail": f"{path or 'the row'} holds no bytes"}
    try:
        width, height = check(data).size
    except PictureError as error:
        detail = f"{path or 'the cell'} ({len(data)} bytes): {error}"
        return {"import_status": ImportStatus.undecodable, "import_detail": detail}
    return {
        "image": {"bytes": data, "path": path},
        "width": width,
        "height": height,
        "sha256": hashlib.sha256(data).hexdigest(),
        "import_status": ImportStatus.ok,
    }
