"""Configuration of `generate`: the endpoint, the prompts per row, and the strictness of the checks."""

from __future__ import annotations

import itertools
from typing import Any

from pydantic import Field, PrivateAttr, field_validator, model_validator

from pipelines.engine.choosing import ChosenRows
from pipelines.llm.context import CAPTION_COLUMNS, CaptionColumn
from pipelines.llm.prompts import Prompt, load_prompt
from pipelines.llm.reading.language import KNOWN
from pipelines.llm.settings import EndpointConfig
from schemas.config import StrictModel


class Kind(StrictModel):
    """One kind of conversation to make: its prompt, and the rows it is made of."""

    kind: str
    """Part of the row keys: `photo-7/detail`. Two kinds for the same rows need different names."""
    prompt: str | None = None
    """A prompt's name, or the path of your own file; by default the prompt of the kind's name."""
    sources: tuple[str, ...] = ()
    """Only rows of these sources (the `source` column); empty is all."""

    @property
    def prompt_name(self) -> str:
        return self.prompt or self.kind


class GenerateConfig(EndpointConfig, ChosenRows):
    """`generate`: every kind is asked about every row that its sources and its prompt's needs allow."""

    kinds: tuple[Kind, ...] = Field(
        default=(Kind(kind="conversation"), Kind(kind="detail"), Kind(kind="reasoning")), min_length=1
    )
    """Names (`[conversation, detail]`), or tables (`{kind: describe, sources: [easy-vqa]}`)."""
    caption_columns: tuple[CaptionColumn, ...] = CAPTION_COLUMNS
    """The columns used as captions in a prompt, in this order."""
    samples: int = Field(default=1, ge=1)
    """Maximum samples per row while answers are rejected. Each answer is a row."""
    repairs: int = Field(default=1, ge=0)
    """How often an answer that violates its JSON schema is sent back to the model."""
    language: str | None = "en"
    """The required language of answers; null disables the check."""
    checks: bool = True
    """Whether answers are checked (mentions of notes, duplicates, language, contradictions)."""
    skip_duplicates: bool = True
    """Skip rows that `dedupe` marked as duplicates."""
    _loaded: tuple[Prompt, ...] = PrivateAttr()

    @field_validator("kinds", mode="before")
    @classmethod
    def _names_as_kinds(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [{"kind": item} if isinstance(item, str) else item for item in value]
        return value

    @field_validator("language")
    @classmethod
    def _is_checkable(cls, value: str | None) -> str | None:
        if value is not None and value not in KNOWN:
            raise ValueError(
                f"answers can be checked for these languages: {', '.join(KNOWN)}; null turns the check off"
            )
        return value

    @field_validator("kinds")
    @classmethod
    def _names_each_row_once(cls, value: tuple[Kind, ...]) -> tuple[Kind, ...]:
        for one, other in itertools.combinations(value, 2):
            same_rows = not one.sources or not other.sources or set(one.sources) & set(other.sources)
            if one.kind == other.kind and same_rows:
                raise ValueError(
                    f"kind {one.kind!r} is given twice for the same rows, which would get the same key. "
                    f"Rename one of them: {{kind: {one.kind}_2, prompt: {other.prompt_name}}}"
                )
        return value

    @model_validator(mode="after")
    def _reads_prompts(self) -> GenerateConfig:
        """Raises InputError for a prompt that does not exist or does not parse."""
        self._loaded = tuple(load_prompt(kind.prompt_name) for kind in self.kinds)
        return self

    def prompts(self) -> list[tuple[Kind, Prompt]]:
        """Each kind with its prompt, as its file was when this was made: workers get it with the configuration."""
        return list(zip(self.kinds, self._loaded, strict=True))
