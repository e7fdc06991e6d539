"""The context of an image for text-only prompts: captions, objects with their positions, and facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

CaptionColumn = Literal["captions", "alt_text", "caption"]
CAPTION_COLUMNS: tuple[CaptionColumn, ...] = ("captions", "alt_text", "caption")


@dataclass(frozen=True)
class Box:
    """An object and its position: fractions of width and height, (x0, y0) top left."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Known:
    """The symbolic context of one picture; the template variables of a prompt."""

    key: str
    captions: tuple[str, ...] = ()
    objects: tuple[Box, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    def has(self, names: Sequence[str]) -> bool:
        """Whether any of the named parts says something; no names ask for nothing."""
        return not names or any(getattr(self, name) for name in names)

    def values(self) -> dict[str, Any]:
        return {"captions": self.captions, "objects": self.objects, "facts": self.facts}


def known_from(row: Mapping[str, Any], caption_columns: Sequence[str]) -> Known:
    """The context of a row of an `images` dataset; captions in the order of `caption_columns`, each once."""
    captions: dict[str, None] = {}
    for column in caption_columns:
        value = row.get(column)
        for caption in value if isinstance(value, list) else [value]:
            words = " ".join((caption or "").split())
            if words:
                captions[words] = None
    objects = tuple(Box(**box) for box in row.get("boxes") or () if box["label"])  # what has no name says nothing
    facts = {fact["name"]: fact["value"] for fact in row.get("facts") or ()}
    return Known(row["key"], tuple(captions), objects, facts)
