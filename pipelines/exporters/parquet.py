"""Parquet as Hugging Face `datasets` reads it, with a card (README.md) and a Croissant description beside it.

Rows keep the columns of their dataset. Conversations and samples have `images`, a list of pictures, and `messages`,
whose parts of type `image` show them in order; images have `image`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.exporters.base import Exporter, Facts, Item, Shard, Written
from pipelines.exporters.card import card
from pipelines.exporters.croissant import croissant
from pipelines.exporters.source import Row, Source
from pipelines.exporters.state import write_json, write_text
from schemas.columnfile import BATCH_ROWS
from schemas.errors import SchemaError
from schemas.records import BASE, IMAGE, with_features
from schemas.standing import LEFT_OUT

GROUP_BYTES = 100_000_000
"""Bytes of a row group: what a reader fetches at least, and what is held in memory."""

DATA = "data"


class Parquet(Exporter):
    """`data/train-00000.parquet`, ..., `README.md` and `croissant.json`."""

    name = "parquet"
    version = 1
    takes = ("conversations", "samples", "images")
    shard_bytes = 500_000_000

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.schema = _schema(self.source)

    def shard_path(self, number: int) -> str:
        return f"{DATA}/train-{number:05d}.parquet"

    def open(self, path: Path) -> Shard:
        return _Groups(path, self.schema)

    def item(self, row: Row, number: int) -> Item:
        pictures = [{"bytes": one.content, "path": one.name} for one in row.pictures]
        if self.source.kind == "images":
            held: dict[str, Any] = {"image": pictures[0] if pictures else None}
        else:
            held = {"images": [one for one in pictures if one["bytes"]]}
        values = {**row.values, **held, LEFT_OUT: row.reason}
        size = sum(len(one.content) for one in row.pictures) + _text_bytes(row.values)
        return Item(values, size)

    def finish(self, facts: Facts) -> list[Written]:
        write_text(self.folder / "README.md", card(self.source, facts))
        write_json(self.folder / "croissant.json", croissant(self.source, facts, self.schema))
        return list(facts.shards)

    def notes(self) -> list[str]:
        return self.columns_note()


class _Groups(Shard):
    """A parquet file that is written a row group at a time."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.schema, self.path = schema, path
        self.rows: list[dict[str, Any]] = []
        self.batches: list[pa.RecordBatch] = []
        self.size = 0
        leaves = [leaf for column in schema for leaf in _leaves(column.name, column.type)]
        flat = [column.name for column in schema if pa.types.is_string(column.type) and column.name != "key"]
        self.writer = pq.ParquetWriter(
            path,
            schema,
            # Pictures are compressed already.
            compression={leaf: "none" if leaf.endswith("bytes") else "zstd" for leaf in leaves},
            use_dictionary=flat,
            write_page_index=True,
        )

    def add(self, item: Item) -> None:
        self.rows.append(item.content)
        self.size += item.size
        if len(self.rows) == BATCH_ROWS:
            self._batch()
        if self.size >= GROUP_BYTES:
            self._flush()

    def _batch(self) -> None:
        """The rows since the last batch, in Arrow's memory alone."""
        try:
            self.batches.append(pa.RecordBatch.from_pylist(self.rows, self.schema))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            first = self.rows[0]["key"]
            raise SchemaError(
                f"the {len(self.rows)} rows from {first!r} on have a column of another type than the first rows of the "
                f"dataset: {error}. Make that column again, in all fragments."
            ) from error
        self.rows = []

    def _flush(self) -> None:
        if self.rows:
            self._batch()
        table = pa.Table.from_batches(self.batches, self.schema)
        self.batches, self.size = [], 0
        if table.num_rows:
            self.writer.write_table(table, row_group_size=table.num_rows)

    def close(self) -> None:
        self._flush()
        self.writer.close()


def _schema(source: Source) -> pa.Schema:
    """The columns that are written, with the features that `datasets` reads."""
    first = source.dataset.fragments[0].read(source.columns).schema if source.rows else BASE[source.kind]
    fields = {field.name: pa.field(field.name, IMAGE if field.name == "image" else field.type) for field in first}
    if source.kind == "conversations":
        fields = {"key": fields.pop("key"), "images": pa.field("images", pa.list_(IMAGE)), **fields}
        fields.pop("image_keys", None)
    if source.config.left_out:
        fields[LEFT_OUT] = pa.field(LEFT_OUT, pa.string())
    return with_features(pa.schema(list(fields.values())))


def _leaves(name: str, kind: pa.DataType) -> list[str]:
    """The paths of a column's leaves, as parquet names them."""
    if pa.types.is_struct(kind):
        return [leaf for inner in kind for leaf in _leaves(f"{name}.{inner.name}", inner.type)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _leaves(f"{name}.list.element", kind.value_type)
    return [name]


def _text_bytes(value: Any) -> int:
    """Bytes of a row's values, about."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_text_bytes, value.values()))
    if isinstance(value, list):
        return sum(map(_text_bytes, value))
    return 8
