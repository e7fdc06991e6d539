"""Regions of pictures as LLaVA-1.5's training file asks about them: in words for a box, or with a box for words."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from pipelines.importers.families.base import FamilyConfig, Turn
from pipelines.importers.families.question import FamilyStatus, Question, Unusable
from schemas.chat.shapes import MEDIA_PLACEHOLDERS, PLACEHOLDER

DESCRIBE = "Please provide a short description for this region: {box}."
LOCATE = "Please provide the bounding box coordinate of the region this sentence describes: {phrase}"
"""As in the training file; the paper's Table 7 (arXiv 2310.03744) has both without `Please`."""


class RegionConfig(FamilyConfig):
    """The options of every set of regions."""

    direction: Literal["hash", "describe", "locate"] = Field(
        "hash",
        description="whether a region is to be described or located; hash: one of both, by key and seed. "
        "LLaVA's own choice is random, its seed is not published",
    )
    pad: bool = Field(
        True,
        description="boxes as fractions of the picture padded to a square, as in training; false: of the original. "
        "Agreed for Visual Genome's part of LLaVA-1.5's file, disputed for RefCOCO's",
    )
    seed: int = Field(0, description="seed of all decisions by hash")
    suffix: Literal["first", "every", "none"] = Field("none", description="which questions end with suffix_text")
    suffix_text: str = Field("", description="the line appended to a question")
    capitalize: bool = Field(True, description="capitalise answers")

    @model_validator(mode="after")
    def _suffix_with_text(self) -> Self:
        if self.suffix != "none" and not self.suffix_text:
            raise ValueError("a suffix needs its words: set suffix_text")
        return self


class Box(NamedTuple):
    """Pixels of the upright picture, (x0, y0) top left."""

    x0: float
    y0: float
    x1: float
    y1: float


def box_in(sides: Sequence[Any], width: int, height: int) -> Box:
    """The box of [x, y, width, height] in a picture of `width` x `height`, cut at its edges.

    Raises Unusable for other values than numbers, and for a box without area in the picture.
    """
    if len(sides) != 4 or not all(type(side) in (int, float) and math.isfinite(side) for side in sides):
        raise Unusable(FamilyStatus.bad_question, f"the box {_short(sides)} is not x, y, width, height")
    x, y, wide, high = sides
    box = Box(max(x, 0), max(y, 0), min(x + wide, width), min(y + high, height))
    if box.x0 >= box.x1 or box.y0 >= box.y1:
        raise Unusable(
            FamilyStatus.bad_question, f"the box {_short(sides)} has no area in a picture of {width} x {height}"
        )
    return box


def box_text(box: Box, width: int, height: int, pad: bool) -> str:
    """`[0.53, 0.2, 0.63, 0.37]`: x0, y0, x1, y1 in two decimals without trailing zeros, as Python prints numbers.

    pad: as fractions of the square that the picture becomes when its short sides are padded evenly, an odd pixel after
    (`expand2square` of LLaVA); else as fractions of width and height.
    """
    side = max(width, height)
    left, top = ((side - width) // 2, (side - height) // 2) if pad else (0, 0)
    across, down = (side, side) if pad else (width, height)
    x0, y0, x1, y1 = box
    fractions = ((x0 + left) / across, (y0 + top) / down, (x1 + left) / across, (y1 + top) / down)
    return str([round(fraction, 2) for fraction in fractions])


def region_turn(question: Question, config: RegionConfig) -> Turn:
    """The turn of a region: `text` is its phrase, the facts `box`, `width` and `height` where it is."""
    facts = question.facts
    if "problem" in facts:
        raise Unusable(FamilyStatus.bad_question, facts["problem"])
    phrase = " ".join(question.text.split()).rstrip(" .")
    if not phrase:
        raise Unusable(FamilyStatus.bad_question, "its phrase is empty")
    if found := next((one for one in (PLACEHOLDER, *MEDIA_PLACEHOLDERS) if one in phrase), None):
        # As a question it would be refused anyway; a region's direction is not to decide whether it counts.
        raise Unusable(FamilyStatus.bad_question, f"{found} is in its text")
    phrase += "" if phrase[-1] in "?!" else "."
    where = box_text(box_in(facts["box"], facts["width"], facts["height"]), facts["width"], facts["height"], config.pad)
    describe = config.direction == "describe"
    if config.direction == "hash":
        describe = fraction_of("direction", question.id, config.seed) < 0.5
    if describe:
        return DESCRIBE.format(box=where), phrase
    return LOCATE.format(phrase=phrase), where


def fraction_of(what: str, key: str, seed: int) -> float:
    """A number in [0, 1) that depends on these alone, so that no other row changes what is drawn for this one."""
    hashed = hashlib.blake2b(f"{what}\0{seed}\0{key}".encode(), digest_size=8).digest()
    return (int.from_bytes(hashed, "big") >> 11) / 2**53


def _short(sides: Sequence[Any]) -> str:
    return f"{list(sides[:6])!r:.80}"
