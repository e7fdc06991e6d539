"""How well a text matches its picture: the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from pipelines.models.encoder import unit
from pipelines.models.folder import embedding_model, needs_two_sides
from pipelines.models.loading import weights_version
from pipelines.score.scorer import Encoders, Sample, Scorer, TextSettings, Value
from schemas.errors import InputError


class SimilaritySettings(TextSettings):
    """A model that sees both, or two columns of embeddings that are there already."""

    model: str | None = Field(None, description="the folder of a CLIP or a SigLIP")
    image_embedding: str | None = Field(None, description="a column of picture embeddings, in place of a model")
    text_embedding: str | None = Field(None, description="a column of text embeddings by the same model")

    @model_validator(mode="after")
    def _one_way(self) -> SimilaritySettings:
        columns = [self.image_embedding, self.text_embedding]
        if self.model is None and None in columns:
            raise ValueError("give `model`, or both `image_embedding` and `text_embedding`")
        if self.model is not None and columns != [None, None]:
            raise ValueError("give `model` or columns of embeddings, not both")
        return self


class Similarity(Scorer[SimilaritySettings]):
    """The cosine of picture and text, -1 to 1, on the model's own scale.

    CLIPScore without its factor (Hessel et al., arXiv 2104.08718); LAION-400M kept 0.3 and more of CLIP ViT-B/32.
    """

    name, version, Settings = "similarity", 1, SimilaritySettings

    @property
    def sees(self) -> str:  # type: ignore[override]
        return "pixels" if self.settings.model else ""

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text_column,) if self.settings.model else ()

    @property
    def others(self) -> tuple[str, ...]:
        columns = (self.settings.image_embedding, self.settings.text_embedding)
        return tuple(column for column in columns if column)

    @property
    def models(self) -> tuple[str, ...]:
        return (self.settings.model,) if self.settings.model else ()

    def check(self) -> dict[str, Any]:
        if not self.settings.model:
            return {}
        needs_two_sides(self.settings.model, "similarity: model")
        embedding_model(self.settings.model, "texts", field="similarity: model")
        return {"weights": weights_version(embedding_model(self.settings.model, "pictures").folder)}

    def check_columns(self, schema: pa.Schema) -> None:
        super().check_columns(schema)
        widths = [_width(schema.field(column)) for column in self.others]
        if None not in widths and len(set(widths)) > 1:
            raise InputError(
                f"similarity: {self.others[0]} has {widths[0]} numbers and {self.others[1]} {widths[1]}. Both must "
                "come from one model."
            )

    def setup(self, encoders: Encoders) -> None:
        if self.settings.model:
            self._encoders = encoders
            self._pictures = encoders.of(embedding_model(self.settings.model, "pictures"))
            self._texts = encoders.of(embedding_model(self.settings.model, "texts"))

    def scores(self, samples: Sequence[Sample]) -> Sequence[Value]:
        if self.settings.model:
            pictures = picture_vectors(samples, self._pictures)
            texts = self._texts.encode([sample.text(self.text_column) for sample in samples])
        else:
            pictures, texts = (_stored(samples, column) for column in self.others)
            if pictures.shape != texts.shape:
                raise InputError(
                    f"similarity: {self.others[0]} has {pictures.shape[1]} numbers and {self.others[1]} "
                    f"{texts.shape[1]}. Both must come from one model."
                )
        return [float(cosine) for cosine in (pictures * texts).sum(axis=1)]


def picture_vectors(samples: Sequence[Sample], encoder: Any) -> np.ndarray:
    """float32 (samples, width) of length 1; each picture is shown to a model once, whoever asks."""
    folder = str(encoder.model.folder)
    new = [sample for sample in samples if folder not in sample.vectors]
    if new:
        for sample, vector in zip(new, encoder.encode([sample.pixels for sample in new]), strict=True):
            sample.vectors[folder] = vector
    return np.stack([sample.vectors[folder] for sample in samples])


def _width(field: pa.Field) -> int | None:
    """Numbers in an embedding, None where rows may differ; raises InputError for a column of anything else."""
    kind = field.type
    listed = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not listed or not pa.types.is_floating(kind.value_type):
        raise InputError(f"similarity: column {field.name!r} holds {kind}, expected lists of floating-point numbers.")
    return kind.list_size if pa.types.is_fixed_size_list(kind) else None


def _stored(samples: Sequence[Sample], column: str) -> np.ndarray:
    """The embeddings in a column at length 1."""
    rows = [sample.row[column] for sample in samples]
    if len({len(row) for row in rows}) > 1:
        raise InputError(f"similarity: column {column!r} holds embeddings of several widths: they are of two models.")
    return unit(np.array(rows, np.float32))
