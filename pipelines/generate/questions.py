"""Decides which requests a row needs, or why it needs none: shared by runs and estimates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.engine.choosing import NOT_CHOSEN
from pipelines.generate.config import GenerateConfig, Kind
from pipelines.generate.statuses import GenerateStatus
from pipelines.llm.context import Known, known_from
from pipelines.llm.pictures import sendable
from pipelines.llm.prompts import Prompt
from pipelines.llm.reading.parsers import PAIRS_SCHEMA
from pipelines.llm.request import ChatRequest
from schemas.pictures import PictureError
from schemas.standing import LEFT_OUT


@dataclass(frozen=True)
class Question:
    """One prompt about one row. `image` is the picture as it is sent, where the prompt sends it."""

    kind: Kind
    prompt: Prompt
    known: Known
    image: bytes | None = None


@dataclass(frozen=True)
class Unasked:
    """Why a row is not asked about; without a kind when that holds for all of them."""

    status: GenerateStatus
    detail: str | None
    kind: Kind | None = None
    prompt: Prompt | None = None


class Questions:
    """The prompts of a configuration, and the rows that each is for."""

    def __init__(self, config: GenerateConfig):
        self._config, self._kinds = config, config.prompts()
        self._shows_picture = any(prompt.image for _, prompt in self._kinds)

    def picture(self, row: Mapping[str, Any]) -> bytes | None:
        """The row's encoded picture, if it has one and any prompt sends it."""
        return (row.get("image") or {}).get("bytes") if self._shows_picture else None

    def about(self, row: Mapping[str, Any]) -> list[Question | Unasked]:
        """At least one for every row of an `images` dataset. Encodes the picture again if no provider accepts it."""
        skipped = row.get(LEFT_OUT)
        if skipped == NOT_CHOSEN:
            return [Unasked(GenerateStatus.not_chosen, None)]
        if skipped:
            return [Unasked(GenerateStatus.skipped_input, skipped)]
        return list(self._of_source(row)) or [Unasked(GenerateStatus.not_asked, f"source {row.get('source')!r}")]

    @property
    def columns(self) -> tuple[str, ...]:
        """What `has_any` looks at."""
        needed = {name for _, prompt in self._kinds for name in prompt.needs}
        captions = self._config.caption_columns if "captions" in needed else ()
        others = {"boxes": "objects", "facts": "facts"}
        return ("source", *captions, *(column for column, name in others.items() if name in needed))

    def has_any(self, row: Mapping[str, Any]) -> bool:
        """Whether a prompt is for the row, as far as its `columns` tell: not whether its picture can be sent."""
        known = known_from(row, self._config.caption_columns)
        return any(known.has(prompt.needs) for _, prompt in self._kinds_for(row))

    def request(self, question: Question, sample: int = 0) -> ChatRequest:
        """The request for one sample of an answer."""
        return build_request(self._config, question.prompt, question.known, question.image, sample)

    def _of_source(self, row: Mapping[str, Any]) -> Iterator[Question | Unasked]:
        known, data = known_from(row, self._config.caption_columns), self.picture(row)
        image, broken = None, ""
        try:
            image = sendable(data) if data else None
        except PictureError as error:
            broken = f"the picture cannot be decoded: {error}"
        for kind, prompt in self._kinds_for(row):
            if prompt.image and broken:
                yield Unasked(GenerateStatus.skipped_input, broken, kind, prompt)
            elif not known.has(prompt.needs) or (prompt.image and image is None):
                needs = "the picture" if prompt.image else " or ".join(prompt.needs)
                yield Unasked(GenerateStatus.no_context, f"prompt {prompt.id} needs {needs}", kind, prompt)
            else:
                yield Question(kind, prompt, known, image if prompt.image else None)

    def _kinds_for(self, row: Mapping[str, Any]) -> Iterator[tuple[Kind, Prompt]]:
        for kind, prompt in self._kinds:
            if not kind.sources or row.get("source") in kind.sources:
                yield kind, prompt


def build_request(
    config: GenerateConfig, prompt: Prompt, known: Known, image: bytes | None, sample: int = 0
) -> ChatRequest:
    """The request for one prompt about one picture."""
    first = ChatRequest(
        provider=config.provider,
        model=config.model,
        messages=prompt.messages(known.values(), (image,) if image else ()),
        max_output_tokens=config.max_output_tokens,
        parameters=config.request_parameters(),
        schema=PAIRS_SCHEMA if prompt.answer == "json_pairs" else None,
        prompt=f"{prompt.id}/{prompt.version}",
    )
    return first.sampled(sample)
