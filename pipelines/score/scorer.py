"""The scorer interface: a small class that gives each row a value, or None.

To add one, subclass `RowScorer` (one row at a time) or `Scorer` (batches) and register it in registry.py, or by the
entry
point `lavabeam.scorers` of an installed package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import pyarrow as pa
from pydantic import Field

from pipelines.models.words import check_text, text_of
from schemas.config import StrictModel

if TYPE_CHECKING:
    import numpy as np

    from pipelines.models.encoder import Encoder
    from pipelines.models.folder import EmbeddingModel
    from schemas.pictures import Header

Value = float | str | tuple[Any, ...] | None
"""The score of a row: one value, one per column if a scorer has several, or None."""


class Settings(StrictModel):
    """The options of a scorer; subclasses add their own."""

    name: str
    """The scorer."""
    column: str | None = Field(
        None, pattern="^[a-z][a-z0-9_]*$", description="the column; by default the scorer's name"
    )


class TextSettings(Settings):
    """Options of text scorers."""

    text: str | None = Field(None, description="the text column; by default the step's `text`")


@dataclass
class Sample:
    """One row as scorers see it. Scorers that need a picture or a text see only rows that have one."""

    row: dict[str, Any]
    """The columns that scorers read beside the picture."""
    header: Header | None = None
    """Format and size of the picture."""
    pixels: np.ndarray | None = None
    """The upright picture, uint8 (height, width, 3), its longer side 2,047 pixels at most."""
    side: int = 512
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    """Image embeddings by model folder: two scorers with the same model compute it once."""

    @cached_property
    def small(self) -> np.ndarray:
        """The picture with a longer side of `side` pixels at most, averaged over areas: what bounds each measure's
        cost, and makes the measures of a large and a small copy comparable."""
        from pipelines.models.pictures import fitted

        assert self.pixels is not None
        return fitted(self.pixels, self.side)

    @cached_property
    def grey(self) -> np.ndarray:
        """`small` as luma, uint8 (height, width): 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""
        import cv2

        return cv2.cvtColor(self.small, cv2.COLOR_RGB2GRAY)

    def text(self, column: str) -> str:
        """The text of a row that has one."""
        words = text_of(self.row[column], column)
        assert words is not None
        return words


class Encoders:
    """Embedding models, each loaded once per process, however many scorers share it."""

    def __init__(self, device: str | None):
        self.device = device
        self._loaded: dict[tuple[str, str, str], Encoder] = {}

    def of(self, model: EmbeddingModel) -> Encoder:
        from pipelines.models.encoder import Encoder

        key = (str(model.folder), model.side, model.pooling)
        if key not in self._loaded:
            self._loaded[key] = Encoder(model, self.device)
        return self._loaded[key]


S = TypeVar("S", bound=Settings)


class Scorer(Generic[S]):
    """Scores batches. One instance serves a worker process."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Incremented when the value of a row can change."""
    Settings: type[Settings] = Settings
    sees: ClassVar[Literal["", "header", "pixels"]] = ""
    """What it needs of the picture: nothing, the header, or the pixels."""
    type: ClassVar[pa.DataType] = pa.float32()

    def __init__(self, settings: S, text: str = "alt_text"):
        self.settings, self._text = settings, text

    @property
    def column(self) -> str:
        return self.settings.column or self.name

    @property
    def adds(self) -> tuple[pa.Field, ...]:
        """The columns that it fills; one of `type`, unless a scorer has several."""
        return (pa.field(self.column, self.type),)

    @property
    def texts(self) -> tuple[str, ...]:
        """The text columns that it needs."""
        return (self.text_column,) if isinstance(self.settings, TextSettings) else ()

    @property
    def others(self) -> tuple[str, ...]:
        """Further columns that it needs."""
        return ()

    @property
    def models(self) -> tuple[str, ...]:
        """Files and folders with weights. A step with any of them uses a single process, which loads them once."""
        return ()

    @property
    def text_column(self) -> str:
        return getattr(self.settings, "text", None) or self._text

    def check(self) -> dict[str, Any]:
        """What determines the values besides settings and version (hashes of weights), as JSON values.

        Called before any work, without loading weights; raises InputError for unusable settings.
        """
        return {}

    def check_columns(self, schema: pa.Schema) -> None:
        """Called before any work with the columns that the step reads; raises InputError for one of another type."""
        for column in self.texts:
            check_text(schema.field(column))

    def setup(self, encoders: Encoders) -> None:
        """Once per worker process: load models."""

    def scores(self, samples: Sequence[Sample]) -> Sequence[Value]:
        """One value per sample, in order. If it raises, samples are retried one by one; a failing one is `failed`."""
        raise NotImplementedError


class RowScorer(Scorer[S]):
    """Scores one row at a time: a subclass has a name, a version and `score`."""

    def scores(self, samples: Sequence[Sample]) -> Sequence[Value]:
        return [self.score(sample) for sample in samples]

    def score(self, sample: Sample) -> Value:
        raise NotImplementedError
