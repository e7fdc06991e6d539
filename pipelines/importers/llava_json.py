"""Import LLaVA's instruction JSON: a list of `{id, image, conversations: [{from, value}]}`, or one per line.

The pictures are imported apart (`image_folder`), under the paths that `image` names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import fsspec
import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Config, Runtime
from pipelines.importers.base import ROWS_PER_SLICE, Importer, ImportStatus, Slice, conversation_table, cut, digest
from pipelines.importers.files import expand, format_of
from pipelines.importers.records import Span, TextSource, span_of
from schemas.chat.llava_json import from_llava, image_paths
from schemas.errors import InputError


class LlavaJsonConfig(Config):
    """Where the conversations are, and what they are called."""

    path: Annotated[str | list[str], Runtime()] = Field(description="a json or jsonl file, several, or a pattern")
    format: Literal["json", "jsonl"] | None = Field(None, description="by default what the file's extension says")
    images: str | None = Field(None, description="the image folder, to tell rows whose picture is missing")
    kind: str = Field("conversation", description="written into `kind`")
    source: str | None = Field(None, description="written into `source`; by default the image path's first folder")
    rows_per_slice: Annotated[int, Runtime()] = Field(ROWS_PER_SLICE, ge=1, description="rows per fragment")


class LlavaJson(Importer):
    """One conversation per row; ids repeat in published files, so a key is the row's number and its id.

    A row of another shape keeps its place with `bad_conversation`, one without its picture with `no_image`.
    """

    name = "llava_json"
    version = 1
    makes = "conversations"
    Config = LlavaJsonConfig

    def __init__(self, config: LlavaJsonConfig):
        super().__init__(config)
        self.config: LlavaJsonConfig = config

    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        remaining = [rows for rows in known if rows > 0]
        made: list[Slice] = []
        for path in expand(self.config.path):
            format = format_of(path, self.config.format, ("json", "jsonl"))
            source = TextSource(path, format)
            for records in cut(source.records(), remaining[len(made) :], self.config.rows_per_slice):
                for raw in records:
                    source.parse(raw)  # a broken line stops the import before anything is written
                start = made[-1].start + made[-1].rows if made else 0
                content = digest(start, *(raw.data.rstrip(b"\r\n") for raw in records))
                location = {"path": path, "format": format, "span": asdict(span_of(records))}
                made.append(Slice(start, len(records), content, location))
        return made

    def rows(self, slice: Slice) -> pa.Table:
        source = TextSource(slice.location["path"], slice.location["format"])
        rows = []
        for index, raw in enumerate(source.records_in(Span(**slice.location["span"]))):
            rows.append(self._row(source.parse(raw), slice.first + index))
        return conversation_table(rows)

    def _row(self, values: dict[str, Any], number: int) -> dict[str, Any]:
        named = values.get("id")
        row: dict[str, Any] = {"key": f"{number:09d}" if named in (None, "") else f"{number:09d}/{named}"}
        row |= {"kind": self.config.kind, "source": self.config.source, "status": ImportStatus.ok}
        try:
            messages, images = from_llava(values, f"row {number}")
        except InputError as error:
            return {**row, "image_keys": _paths(values), "status": ImportStatus.bad_conversation, "detail": str(error)}
        row |= {"messages": messages, "image_keys": images}
        if images and not row["source"]:
            row["source"] = PurePosixPath(images[0]).parts[0] if "/" in images[0] else None
        missing = [image for image in images if not self._exists(image)]
        if missing:
            row |= {"status": ImportStatus.no_image, "detail": f"{missing[0]} is not in the image folder"}
        return row

    def _exists(self, image: str) -> bool:
        if self.config.images is None:
            return True
        fs, root = fsspec.core.url_to_fs(self.config.images)
        return bool(fs.isfile(f"{root}/{image}"))


def _paths(values: dict[str, Any]) -> list[str]:
    try:
        return image_paths(values)
    except InputError:
        return []
