"""Import a list of image URLs: txt, csv, tsv, json, jsonl or parquet, columns mapped by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from pipelines.engine.step import Config, Runtime
from pipelines.importers.base import ROWS_PER_SLICE, Importer, Slice, cut, digest, image_table
from pipelines.importers.files import expand, format_of
from pipelines.importers.mapping import check_key, image_row, match, resolve
from pipelines.importers.parquet import ParquetSource
from pipelines.importers.records import TEXT_FORMATS, Span, TextSource, span_of
from schemas.records import BASE, STORED_IMAGE

TAKEN = frozenset((*BASE["images"].names, *(field.name for field in STORED_IMAGE)))
Target = Literal["key", "url", "alt_text", "captions", "boxes", "facts", "source", "license"]


class UrlListConfig(Config):
    """Where the list is and what its columns mean."""

    path: Annotated[str | list[str], Runtime()] = Field(
        description="a file, several, or a pattern with *; any place that fsspec reaches, may be gzipped"
    )
    format: Literal["txt", "csv", "tsv", "json", "jsonl", "parquet"] | None = Field(
        None, description="how the file is written; by default what its extension says"
    )
    columns: dict[Target, str] = Field({}, description="our column: the list's column, where the names differ")
    extra: dict[str, str] = Field(
        {}, description="further columns of the list to keep, as text (scores, hashes for --verify-hash): name: column"
    )
    source: str | None = Field(None, description="written into `source` where the list has no such column")
    license: str | None = Field(None, description="written into `license` where the list has no such column")
    rows_per_slice: Annotated[int, Runtime()] = Field(ROWS_PER_SLICE, ge=1, description="rows per fragment")

    @field_validator("extra")
    @classmethod
    def _own_names(cls, extra: dict[str, str]) -> dict[str, str]:
        for name in extra:
            if name in TAKEN or name.endswith(("_status", "_detail")):
                raise ValueError(
                    f"{name!r} is one of LavaBeam's own columns; choose another name, such as {name}_of_list"
                )
        return extra

    def identity(self) -> dict[str, Any]:
        """Without `extra` the rows are what they were before there was such an option."""
        return {name: value for name, value in super().identity().items() if name != "extra" or value}


class UrlList(Importer):
    """Rows of a url list become rows of `images`, none dropped: a row without a URL keeps its place.

    Without a `key` column a row's key is its number in the list.
    """

    name = "url_list"
    version = 1
    makes = "images"
    Config = UrlListConfig

    def __init__(self, config: UrlListConfig):
        super().__init__(config)
        self.config: UrlListConfig = config
        self._columns: dict[Any, str] = {**config.columns, **config.extra}

    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        remaining = [rows for rows in known if rows > 0]
        made: list[Slice] = []
        seen: set[str] = set()
        for path in expand(self.config.path):
            format = format_of(path, self.config.format, (*TEXT_FORMATS, "parquet"))
            start = made[-1].start + made[-1].rows if made else 0
            cuts = self._parquet_slices if format == "parquet" else self._text_slices
            made += cuts(path, format, start, remaining[len(made) :], seen)
        return made

    def rows(self, slice: Slice) -> pa.Table:
        path, format = slice.location["path"], slice.location["format"]
        if format == "parquet":
            values = ParquetSource(path).read(slice.location["row"], slice.rows)
        else:
            source = TextSource(path, format)
            values = [source.parse(raw) for raw in source.records_in(Span(**slice.location["span"]))]
        extra = [pa.field(name, pa.string()) for name in self.config.extra]
        return image_table([self._row(value, slice.first + index) for index, value in enumerate(values)], extra)

    def _row(self, values: dict[str, Any], number: int) -> dict[str, Any]:
        # Objects of a JSON list need not all have the same names, so names are matched row by row.
        row = image_row(values, match(self._columns, values))
        row["key"] = row.get("key") or f"{number:09d}"
        row["source"] = row.get("source") or self.config.source
        row["license"] = row.get("license") or self.config.license
        return row

    def _text_slices(self, path: str, format: str, start: int, known: Sequence[int], seen: set[str]) -> Iterator[Slice]:
        """Reads the file once: every record is parsed, so that a broken one stops the import before it begins."""
        source = TextSource(path, format)
        columns: dict[str, str] = {}
        for records in cut(source.records(), known, self.config.rows_per_slice):
            for raw in records:
                values = source.parse(raw)
                columns = columns or resolve(self._columns, values, path)
                check_key(values.get(columns.get("key", "")), f"{path}:{raw.line}", seen)
            content = [",".join(source.header).encode(), *(raw.data.rstrip(b"\r\n") for raw in records)]
            location = {"path": path, "format": format, "span": asdict(span_of(records))}
            yield Slice(start, len(records), digest(start, *content), location)
            start += len(records)

    def _parquet_slices(
        self, path: str, format: str, start: int, known: Sequence[int], seen: set[str]
    ) -> Iterator[Slice]:
        source = ParquetSource(path)
        columns = resolve(self._columns, source.columns, path)
        for number, key in enumerate(source.values(columns["key"]) if "key" in columns else ()):
            check_key(key, f"{path}, row {number}", seen)
        row = 0
        for group in cut(range(source.rows), known, self.config.rows_per_slice):
            content = source.digests(row, len(group))
            yield Slice(start, len(group), digest(start, *content), {"path": path, "format": format, "row": row})
            start, row = start + len(group), row + len(group)
