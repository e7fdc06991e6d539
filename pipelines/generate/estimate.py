"""What `generate` would ask about the rows of a dataset, for an estimate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipelines.generate.config import GenerateConfig
from pipelines.generate.context import known_from
from pipelines.generate.writer import build_request, picture_for
from pipelines.llm.estimate import estimate_requests
from pipelines.llm.pictures import sendable
from pipelines.llm.request import ChatRequest
from schemas.pictures import PictureError
from schemas.standing import LEFT_OUT


def estimate(config: GenerateConfig, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What `generate` would take for `rows`, as the step gets them.

    Rejected answers asked again and repairs come on top.
    """
    kinds = config.prompts()
    return estimate_requests(config, (request for row in rows for request in _asked(config, kinds, row)))


def _asked(config: GenerateConfig, kinds: list, row: Mapping[str, Any]) -> Iterator[tuple[ChatRequest, int]]:
    if row.get(LEFT_OUT):
        return
    known = known_from(row, config.caption_columns)
    for kind, prompt in kinds:
        if (kind.sources and row.get("source") not in kind.sources) or not known.has(prompt.needs):
            continue
        try:
            found = picture_for(row, prompt)
            image = sendable(found) if found else None
        except PictureError:
            continue
        if image or not prompt.image:
            yield build_request(config, prompt, known, image), prompt.expected_output_tokens
