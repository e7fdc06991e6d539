"""The interface of caption engines: a stream of images in, one caption for each out, in the same order.

Engines are interchangeable: an image classifier (`labels`), any transformers model folder
(`transformers`), any OpenAI-compatible endpoint (`endpoint`). The step knows only this page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from pipelines.engine.choosing import NOT_CHOSEN
from pipelines.llm.answer import Answer, AnswerStatus


class CaptionStatus(StrEnum):
    """Why a row has no caption, beside an endpoint's reasons (`AnswerStatus`, which has `ok` too)."""

    not_chosen = NOT_CHOSEN  # limit or sample leaves this row for a later run
    not_asked = "not_asked"  # the step's `only` leaves this row out
    no_image = "no_image"  # an earlier step left the row without image bytes
    skipped_input = "skipped_input"  # an earlier step says that the row cannot be used; the detail says which
    undecodable = "undecodable"  # the bytes are there and no decoder reads them
    empty = "empty"  # the engine answered with no words
    unsure = "unsure"  # a classifier whose labels are too close to one another; the detail has the likeliest
    low_score = "low_score"  # no candidate matches the picture well enough; the detail has the best one
    failed = "failed"  # the engine raised on this picture; the detail says what


@dataclass(frozen=True)
class Picture:
    """One image to describe: its row's key, its encoded bytes (JPEG, PNG, WebP...), and the words it came with."""

    key: str
    data: bytes
    alt_text: str | None = None
    after: str | None = None
    """Of a row that is made again because an endpoint's answer was no good, the id of that answer."""


@dataclass(frozen=True)
class Caption:
    """What an engine says about one picture: words when `status` is ok, a reason otherwise.

    `score` is how well they match the picture, where `scorer` (a model and its version) was asked. `writer` is who
    wrote them when it was not the engine's model. `answer` is what an endpoint was paid for, also where it is no use.
    """

    status: AnswerStatus | CaptionStatus
    text: str | None = None
    detail: str | None = None
    score: float | None = None
    scorer: str | None = None
    writer: str | None = None
    answer: Answer | None = None


@dataclass(frozen=True)
class Identity:
    """Who wrote a caption. All three go into the row, so a caption can be traced years later.

    `version` changes whenever the same picture could get other words: a hash of the weights for a
    local model, the prompt's id and version for an endpoint.
    """

    engine: str
    model: str
    version: str


class Engine(Protocol):
    """Built once per worker from its frozen config; holds the model or the client from `setup` to `close`."""

    def setup(self, context: Any) -> None:
        """Load the weights or open the client. `context` is the step's (run id, workers, run log)."""

    @property
    def identity(self) -> Identity:
        """Who captions; known after `setup`."""

    @property
    def source_version(self) -> str | None:
        """What decides the words beside the config: a hash of weights or prompt. Known before `setup`."""

    def captions(self, pictures: Iterator[Picture]) -> Iterator[Caption]:
        """Yield one caption per picture, in the order of the pictures.

        The engine pulls as many pictures ahead as it wants to work on at once (a batch for a model,
        the number of open requests for an endpoint) and no more: a picture pulled is held in memory.
        A picture that fails becomes a caption with a status; only a broken engine raises.
        """

    def close(self) -> None:
        """Give back what `setup` took."""
