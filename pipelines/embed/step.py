"""Embeds images or texts with a model folder: CLIP, SigLIP, ViT, DINOv2, BERT and similar."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Config, Context, Needs, Runtime, Step
from pipelines.models.batches import Failed, in_batches
from pipelines.models.encoder import Encoder
from pipelines.models.folder import EmbeddingModel, Pooling, Side, embedding_model
from pipelines.models.loading import weights_version
from pipelines.models.needs import model_needs
from pipelines.models.pictures import decoded
from pipelines.models.words import check_text, text_of
from schemas.dataset import Dataset, Fragment
from schemas.pictures import PictureError


class EmbedStatus(StrEnum):
    """Why a row has no embedding."""

    ok = "ok"
    no_image = "no_image"  # the row has no picture bytes
    undecodable = "undecodable"  # the bytes are there and no decoder reads them
    no_text = "no_text"  # the text is null, or blank
    failed = "failed"  # the model raised on this row alone, or returned no direction; the detail says what


class EmbedConfig(Config):
    """Which model, and how its output becomes one vector."""

    model: str = Field(description="a model folder: CLIP, SigLIP, ViT, DINOv2...")
    pooling: Pooling | None = Field(
        None, description="by default projected for CLIP and SigLIP, the model's pooler, or cls, for a vision tower"
    )
    batch: Annotated[int, Runtime()] = Field(32, ge=1, description="rows per forward pass")
    device: Annotated[str | None, Runtime()] = Field(None, description="cpu, cuda...; by default cuda if there is one")


class EmbedTextConfig(EmbedConfig):
    """Which model embeds which text column."""

    model: str = Field(description="a model folder: BERT, MiniLM, MPNet, CLIP, SigLIP...")
    pooling: Pooling | None = Field(
        None, description="by default projected for CLIP and SigLIP, else what 1_Pooling/config.json says, else mean"
    )
    text: str = Field("alt_text", description="the column: text, a list of texts (the first counts), or `messages`")


C = TypeVar("C", bound=EmbedConfig)


class _Embeds(Step[C], Generic[C]):
    """What both steps share: one vector per row, float16, of length 1; null where a row has none."""

    statuses = EmbedStatus
    passed_over = frozenset({EmbedStatus.no_image, EmbedStatus.no_text})
    side: Side
    column: str
    """Of the vectors; `<column>_model` says whose they are."""

    @property
    def adds(self) -> tuple[pa.Field, ...]:
        vector = pa.list_(pa.float16(), self._described.width)
        return (pa.field(self.column, vector), pa.field(f"{self.column}_model", pa.string()))

    @property
    def needs(self) -> Needs:
        return model_needs([self.config.model], self.config.device)

    def depends_on(self) -> dict[str, Any]:
        """The model by its content, and what is made of its output."""
        made = self._described
        return {"weights": weights_version(made.folder), "pooling": made.pooling, "width": made.width}

    def setup(self, context: Context) -> None:
        self._encoder = Encoder(self._described, self.config.device)
        made = self._described
        self._name = f"{made.folder.name}@{weights_version(made.folder)} {made.pooling}"

    def teardown(self) -> None:
        del self._encoder

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        rows = [dict[str, Any](status=EmbedStatus.ok, detail=None) for _ in range(batch.num_rows)]
        places = list(range(batch.num_rows))
        vectors: dict[int, np.ndarray] = {}
        for start in range(0, len(places), self.config.batch):
            part = places[start : start + self.config.batch]
            given = [(place, item) for place in part if (item := self._item(batch, place, rows[place])) is not None]
            items = [item for _, item in given]
            for (place, _), made in zip(given, in_batches(items, self.config.batch, self._encoded), strict=True):
                if isinstance(made, Failed):
                    rows[place].update(status=EmbedStatus.failed, detail=made.detail)
                elif np.isnan(made[0]):
                    detail = "the model returned a vector without a direction"
                    rows[place].update(status=EmbedStatus.failed, detail=detail)
                else:
                    vectors[place] = made
        return self._output(rows, vectors)

    def _encoded(self, items: Sequence[Any]) -> Sequence[np.ndarray]:
        return list(self._encoder.encode(items))

    def _item(self, batch: pa.RecordBatch, place: int, row: dict[str, Any]) -> Any:
        """What the model gets of one row; None, and the reason in `row`, where there is nothing."""
        raise NotImplementedError

    def _output(self, rows: list[dict[str, Any]], vectors: dict[int, np.ndarray]) -> pa.RecordBatch:
        width = self._described.width
        values = np.zeros((len(rows), width), np.float16)
        for place, vector in vectors.items():
            values[place] = vector
        empty = np.array([place not in vectors for place in range(len(rows))])
        flat = pa.array(values.reshape(-1))
        made = pa.FixedSizeListArray.from_arrays(flat, width, mask=pa.array(empty))
        names = [None if gone else self._name for gone in empty]
        columns = [made, pa.array(names, pa.string())]
        columns += [pa.array([row[name] for row in rows], pa.string()) for name in ("status", "detail")]
        return pa.RecordBatch.from_arrays(columns, schema=self.output_schema)

    @cached_property
    def _described(self) -> EmbeddingModel:
        return embedding_model(self.config.model, self.side, self.config.pooling)


class Embed(_Embeds[EmbedConfig]):
    """Adds `embedding`, a unit vector of every picture, and `embedding_model`: folder name, content hash, pooling."""

    name, version, Config = "embed", 1, EmbedConfig
    reads = ("image",)
    side: Side = "pictures"
    column = "embedding"

    def _item(self, batch: pa.RecordBatch, place: int, row: dict[str, Any]) -> np.ndarray | None:
        data = (batch.column("image")[place].as_py() or {}).get("bytes")
        if not data:
            row["status"] = EmbedStatus.no_image
            return None
        try:
            return decoded(data)
        except PictureError as error:
            row.update(status=EmbedStatus.undecodable, detail=str(error))
            return None


class EmbedText(_Embeds[EmbedTextConfig]):
    """Adds `text_embedding`, a unit vector of every row's text, and `text_embedding_model`."""

    name, version, Config = "embed_text", 1, EmbedTextConfig
    side: Side = "texts"
    column = "text_embedding"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.config.text,)

    def fragments(self, dataset: Dataset) -> Sequence[Fragment]:
        """All. Raises InputError where the column holds no text."""
        first = next(iter(dataset.fragments), None)
        if first is not None and self.config.text in first.owner:
            check_text(first.read([self.config.text]).schema.field(0))
        return dataset.fragments

    def _item(self, batch: pa.RecordBatch, place: int, row: dict[str, Any]) -> str | None:
        words = text_of(batch.column(self.config.text)[place].as_py(), self.config.text)
        if words is None:
            row["status"] = EmbedStatus.no_text
        return words
