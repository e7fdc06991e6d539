"""InfographicVQA (https://www.docvqa.org, arXiv 2104.12756), in DocVQA's envelope."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from pipelines.engine.step import Runtime
from pipelines.importers.families.docvqa import DocumentConfig, Documents, read
from pipelines.importers.families.question import Question


class InfographicvqaConfig(DocumentConfig):
    """InfographicVQA's file of a split."""

    path: Annotated[str | list[str], Runtime()] = Field(
        description="infographicVQA_train_v1.0.json, several, or a pattern; a test split has no answers"
    )


class Infographicvqa(Documents[InfographicvqaConfig]):
    """A row per infographic."""

    name = "infographicvqa"
    version = 1
    Config = InfographicvqaConfig

    def questions(self) -> Iterator[Question]:
        return read(self.config.path, "image_local_name")

    def places(self, picture: str) -> list[str]:
        # Names are short numbers, which other sets have too: nothing is looked for in just any folder.
        folders = ("infographicvqa/images", "infographicsvqa_images", "infographicvqa", "images")
        return [*(f"{folder}/{picture}" for folder in folders), f"/{picture}"]
