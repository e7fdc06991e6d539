"""Import pictures out of Hugging Face datasets: Parquet and Arrow files, and folders of them.

The conversations that such files hold beside their pictures are imported by huggingface_chat.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Later
from pipelines.importers.base import Slice
from pipelines.importers.boxes import BoxUnit
from pipelines.importers.cells import is_list, picture_in
from pipelines.importers.huggingface_files import (
    DataFile,
    DataSource,
    HuggingFaceFilesConfig,
    HuggingFaceImporter,
    opened,
    picture_keys,
    rows_in,
    rows_per_row,
)
from pipelines.importers.mapping import SIZES, image_row, key_text, lacking, match
from pipelines.importers.stored import stored_row, stored_table
from schemas.chat.shapes import TURN_KEYS, shape_of
from schemas.errors import InputError

Target = Literal["key", "url", "alt_text", "captions", "boxes", "facts", "source", "license"]


class HuggingFaceConfig(HuggingFaceFilesConfig):
    """Where the dataset is and what its columns mean."""

    columns: dict[Target, str | None] = Field(
        {}, description="mapping of our column to the dataset's column, if the names differ; null ignores a column"
    )
    boxes: Annotated[BoxUnit | None, Later()] = Field(None, description="what the four numbers of a box are")
    folder: Annotated[str | None, Later()] = Field(
        None, description="what paths in cells are relative to; by default the folder of the file that names them"
    )
    source: str | None = Field(None, description="value of `source` if the dataset has no such column")
    license: str | None = Field(None, description="value of `license` if the dataset has no such column")


class HuggingFace(HuggingFaceImporter[HuggingFaceConfig]):
    """One row per picture. Pictures of a column of lists are called `FILE/NUMBER/0`, `FILE/NUMBER/1`, ...

    Whether a file changed is decided by its name, size and time of change, as for `image_folder`.
    """

    name = "huggingface"
    version = 3
    makes = "images"
    Config = HuggingFaceConfig

    def __init__(self, config: HuggingFaceConfig):
        super().__init__(config)
        self._talks, self._others = "", list[str]()
        self._matched: dict[str, set[str]] = {}

    def check(self, source: DataSource, file: DataFile) -> None:
        if self.picture_column(source.columns) is None:
            raise InputError(
                f"{file.path}: no column {self.config.image or 'image'!r} with pictures. "
                f"Columns found: {', '.join(source.columns)}. Select it with `image`."
            )
        missing = next((name for name in self.config.columns.values() if name and name not in source.columns), None)
        if missing is not None:
            raise InputError(f"{file.path}: no column {missing!r}. Columns found: {', '.join(source.columns)}.")
        self.check_pictures(source, file)
        self._matched[file.path] = set(match(self.config.columns, source.columns))
        self._talks = self._talks or shape_of(dict.fromkeys(source.columns, True)) or ""
        read = {self.picture_column(source.columns), *match(self.config.columns, source.columns).values()}
        self._others += [name for name in source.columns if name not in {*read, *self._others, *TURN_KEYS}]

    def key_column(self, columns: Iterable[str]) -> str | None:
        return match(self.config.columns, columns).get("key")

    def sizes(self, source: DataSource) -> Iterable[int]:
        return rows_per_row(source, self.picture_column(source.columns))

    def notes(self) -> list[str]:
        notes = [f"ignored columns: {', '.join(self._others)}."] if self._others else []
        notes += lacking(self._matched)
        if self._talks:
            how = "`lavabeam import huggingface_chat` with the same --path makes a dataset of them"
            notes.append(f"conversations (column `{self._talks}`) are not imported here: {how}.")
        return notes

    def rows(self, slice: Slice) -> pa.Table:
        where = slice.location
        source = opened(where["path"])
        column = str(self.picture_column(source.columns))
        names = [column, *dict.fromkeys(match(self.config.columns, source.columns).values())]
        names = [*dict.fromkeys([*names, *_sizes(source.columns)])]
        several = is_list(source.schema.field(column).type)
        file = DataFile(where["path"], where["name"])
        numbered = enumerate(rows_in(source, where["row"], where["rows"], names), where["row"])
        return stored_table(
            [row for number, values in numbered for row in self._rows(values, column, several, file, number)]
        )

    def _rows(
        self, values: dict[str, Any], column: str, several: bool, file: DataFile, number: int
    ) -> list[dict[str, Any]]:
        image = values.pop(column)
        columns = match(self.config.columns, values)
        key = self.key(file.name, number, key_text(values.get(columns.get("key", ""))))
        pictures = (image or [None]) if several else [image]
        keys = picture_keys(key, len(pictures)) if several and image else [key]
        return [self._row(values, columns, *pair, file) for pair in zip(pictures, keys, strict=True)]

    def _row(
        self, values: dict[str, Any], columns: dict[str, str], image: Any, key: str, file: DataFile
    ) -> dict[str, Any]:
        cell = picture_in(image, self.config.folder if self.config.folder is not None else file.folder)
        picture = stored_row(cell.data, cell.name)
        if cell.data is None or not cell.data:
            picture["import_detail"] = cell.problem
        size = (picture.get("width"), picture.get("height"))
        row = image_row(values, columns, needs_url=False, boxes=self.config.boxes, size=size)
        if row["import_status"] != "ok" and picture["import_status"] == "ok":
            picture.pop("import_status")
        row |= picture
        row["key"] = key
        row["source"] = row.get("source") or self.config.source
        row["license"] = row.get("license") or self.config.license
        return row


def _sizes(columns: Sequence[str]) -> list[str]:
    """Columns with the size of the picture that boxes refer to."""
    return [name for pair in SIZES for name in pair if name in columns]
