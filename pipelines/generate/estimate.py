"""What `generate` would ask about the rows of a dataset, for an estimate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.generate.config import GenerateConfig
from pipelines.generate.writer import build_request, picture_for, unusable
from pipelines.llm.context import known_from
from pipelines.llm.estimate import estimate_requests
from pipelines.llm.pictures import sendable
from pipelines.llm.request import ChatRequest
from schemas import Dataset
from schemas.pictures import PictureError


def estimate(config: GenerateConfig, columns: Sequence[str], images: str | Path) -> dict[str, Any]:
    """What `generate`, which reads `columns`, would take for the dataset `images`.

    Rejected answers asked again and repairs come on top.
    """
    return estimate_requests(config, _requests(config, columns, images))


def _requests(config: GenerateConfig, columns: Sequence[str], images: str | Path) -> Iterator[tuple[ChatRequest, int]]:
    kinds, dataset = config.prompts(), Dataset.open(images)
    present = [name for name in columns if name in dataset.columns]
    for fragment in dataset.fragments:
        for batch in fragment.batches(present):
            for row in batch.to_pylist():
                yield from _asked(config, kinds, row)


def _asked(config: GenerateConfig, kinds: list, row: Mapping[str, Any]) -> Iterator[tuple[ChatRequest, int]]:
    if unusable(row, config.skip_duplicates):
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
