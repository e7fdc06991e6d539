"""Import a list of image URLs: txt, csv, tsv, json, jsonl or parquet, columns mapped by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import AfterValidator, Field, field_validator

from pipelines.engine.step import Config, Later, Runtime
from pipelines.importers.base import ROWS_PER_SLICE, Importer, Slice, cut, digest, image_table
from pipelines.importers.boxes import BoxUnit
from pipelines.importers.extra import (
    Extra,
    ExtraColumns,
    check_names,
    converters,
    fields,
    is_binary,
    mark,
    schema_of,
    text,
)
from pipelines.importers.files import expand, format_of
from pipelines.importers.mapping import check_key, image_row, lacking, match, resolve
from pipelines.importers.parquet import ParquetSource
from pipelines.importers.records import TEXT_FORMATS, Layout, TextSource

Target = Literal["key", "url", "alt_text", "captions", "boxes", "facts", "source", "license"]


class UrlListConfig(Config):
    """Where the list is and what its columns mean."""

    path: Annotated[str | list[str], Runtime()] = Field(
        description="a file, several, or a pattern with *; any fsspec location, optionally compressed"
    )
    format: Literal["txt", "csv", "tsv", "json", "jsonl", "parquet"] | None = Field(
        None, description="the file format; by default from its extension"
    )
    header: Annotated[bool, Later()] = Field(
        True, description="whether the first line of csv or tsv names the columns; else they are 0, 1, 2"
    )
    separator: Annotated[str | None, Later()] = Field(
        None, min_length=1, max_length=1, description="the cell separator, if it is not a comma or tab"
    )
    quotes: Annotated[bool, Later()] = Field(
        True, description="whether cells may be quoted; false if quotes are plain text"
    )
    records: Annotated[str | None, Later()] = Field(
        None, description="for a JSON object: the member with the list of rows"
    )
    columns: dict[Target, str | None] = Field(
        {}, description="mapping of our column to the list's column, if the names differ; null ignores a column"
    )
    extra: Annotated[Extra, Later(), AfterValidator(check_names)] = Field(
        {},
        description="further columns of the list to keep, with their types (scores, hashes for --verify-hash): name: "
        "column, or name: {column: NAME, type: float} to say the type",
    )
    boxes: Annotated[BoxUnit | None, Later()] = Field(
        None, description="what the four numbers of a box are; pixels need the columns width and height"
    )
    source: str | None = Field(None, description="value of `source` if the list has no such column")
    license: str | None = Field(None, description="value of `license` if the list has no such column")
    key_prefix: Annotated[str, Later()] = Field(
        "", description="prefix of every key, such as 2026-11-28/, so that row numbers of several lists do not collide"
    )
    rows_per_slice: Annotated[int, Runtime()] = Field(ROWS_PER_SLICE, ge=1, description="rows per fragment")

    @field_validator("columns", mode="before")
    @classmethod
    def _positions(cls, columns: Any) -> Any:
        """Columns without names are given by number."""
        if not isinstance(columns, dict):
            return columns
        return {name: str(column) if type(column) is int else column for name, column in columns.items()}

    @field_validator("separator", mode="before")
    @classmethod
    def _tab(cls, separator: Any) -> Any:
        """A shell hands over a tab that is written as two characters as it stands."""
        return "\t" if separator == r"\t" else separator

    def layout(self, format: str) -> Layout:
        return Layout(format, self.header, self.separator, self.quotes, self.records)


class UrlList(Importer[UrlListConfig]):
    """Rows of a url list become rows of `images`, none dropped: a row without a URL keeps its place.

    Without a `key` column a row's key is its number in the list. With `key_prefix` keys do not depend on how many
    sources the dataset has already.
    """

    name = "url_list"
    version = 1
    makes = "images"
    Config = UrlListConfig

    def __init__(self, config: UrlListConfig):
        super().__init__(config)
        self._extra = ExtraColumns(config.extra)
        self._columns: dict[Any, str | None] = {**config.columns, **self._extra.columns}
        self._matched: dict[str, set[str]] = {}

    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        remaining = [rows for rows in known if rows > 0]
        made: list[Slice] = []
        seen: set[str] = set()
        self._extra, self._matched = ExtraColumns(self.config.extra), {}
        for path in expand(self.config.path):
            format = format_of(path, self.config.format, (*TEXT_FORMATS, "parquet"))
            start = made[-1].start + made[-1].rows if made else 0
            cuts = self._parquet_slices if format == "parquet" else self._text_slices
            made += cuts(path, format, start, remaining[len(made) :], seen)
        return self._typed(made)

    def notes(self) -> list[str]:
        return [*self._extra.notes(), *lacking(self._matched)]

    def rows(self, slice: Slice) -> pa.Table:
        path, format, types = (slice.location[name] for name in ("path", "format", "types"))
        if format == "parquet":
            values = ParquetSource(path).read(slice.location["row"], slice.rows)
        else:
            values = list(TextSource.at(slice.location, self.config.layout(format)))
        first = slice.start if self.config.key_prefix else slice.first
        read = converters(types)
        return image_table([self._row(value, first + index, read) for index, value in enumerate(values)], fields(types))

    def _row(self, values: dict[str, Any], number: int, read: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
        # Objects of a JSON list need not all have the same names, so names are matched row by row.
        row = image_row(values, match(self._columns, values), extra=read, boxes=self.config.boxes)
        row["key"] = self.config.key_prefix + (row.get("key") or f"{number:09d}")
        row["source"] = row.get("source") or self.config.source
        row["license"] = row.get("license") or self.config.license
        return row

    def _typed(self, slices: list[Slice]) -> list[Slice]:
        """The slices with the types that the whole source gives their extra columns."""
        types = self._extra.types()
        marked = mark(types)
        return [
            replace(
                one,
                digest=digest(one.start, one.digest.encode(), *marked) if marked else one.digest,
                location={**one.location, "types": types},
            )
            for one in slices
        ]

    def _text_slices(self, path: str, format: str, start: int, known: Sequence[int], seen: set[str]) -> Iterator[Slice]:
        """Reads the file once: every record is parsed, so that a broken one stops the import before it begins."""
        source = TextSource(path, self.config.layout(format))
        columns: dict[str, str] = {}
        for records in cut(source.records(), known, self.config.rows_per_slice):
            for raw in records:
                values = source.parse(raw)
                columns = columns or resolve(self._columns, values, path)
                check_key(values.get(columns.get("key", "")), f"{path}:{raw.line}", seen)
                self._extra.see(values)
            yield Slice(start, len(records), digest(start, *source.content(records)), source.location(records))
            start += len(records)
        if columns and source.header:  # objects of JSON need not all have the same names
            self._matched[path] = set(columns)

    def _parquet_slices(
        self, path: str, format: str, start: int, known: Sequence[int], seen: set[str]
    ) -> Iterator[Slice]:
        source = ParquetSource(path)
        columns = resolve(self._columns, source.columns, path)
        types = schema_of(path)
        self._matched[path] = set(columns)
        self._extra.see_types(types)
        # Columns of bytes had no text before: their rows are made again.
        binary = [name.encode() for name in sorted(columns.values()) if is_binary(types[name])]
        for number, key in enumerate(source.values(columns["key"]) if "key" in columns else ()):
            check_key(text(key) if isinstance(key, bytes) else key, f"{path}, row {number}", seen)
        row = 0
        for group in cut(range(source.rows), known, self.config.rows_per_slice):
            content = [*source.digests(row, len(group)), *binary]
            yield Slice(start, len(group), digest(start, *content), {"path": path, "format": format, "row": row})
            start, row = start + len(group), row + len(group)
