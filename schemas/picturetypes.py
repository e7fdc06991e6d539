"""Shared types of image decoding: the header, and the reason why bytes are unusable."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from schemas.errors import InputError


class Defect(StrEnum):
    """Why bytes cannot be used as a picture."""

    not_image = "not_image"
    unsupported_format = "unsupported_format"
    truncated = "truncated"
    corrupt = "corrupt"
    too_many_pixels = "too_many_pixels"
    too_slow = "too_slow"  # a worker process had to be ended while it decoded


class PictureError(InputError):
    """Bytes that cannot be used as a picture. `detail` is a function of the bytes alone."""

    def __init__(self, defect: Defect, detail: str):
        super().__init__(f"{defect}: {detail}")
        self.defect, self.detail = defect, detail

    def __reduce__(self) -> tuple:
        return type(self), (self.defect, self.detail)


@dataclass(frozen=True)
class Header:
    """`width` and `height` as stored, before any rotation; pixels. `orientation` is EXIF's, 1 to 8."""

    format: str
    width: int
    height: int
    plain: bool
    """8 bits, grey or RGB, opaque, one frame, upright: the bytes may be kept as they are."""
    traits: tuple[str, ...] = ()
    """What makes it not plain: animated, 16-bit, cmyk, palette, alpha, rotated."""
    orientation: int = 1
    several_scans: bool = False
    """A JPEG whose coefficients are all held while it is decoded: progressive, or a scan per colour."""
    shortage: str = ""
    """How the length of the data shows that pixels are missing; such a picture is not decoded."""

    @property
    def mime(self) -> str:
        return f"image/{self.format}"

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright picture; orientations 5 to 8 swap the sides."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def make_header(
    name: str, width: int, height: int, traits: list[str], orientation: int = 1, several_scans: bool = False
) -> Header:
    """A header of `traits` and of an orientation that may be out of its range."""
    orientation = orientation if 1 <= orientation <= 8 else 1
    if orientation != 1:
        traits.append("rotated")
    return Header(name, width, height, not traits, tuple(traits), orientation, several_scans)


def corrupt(detail: str) -> PictureError:
    return PictureError(Defect.corrupt, detail)


def truncated(name: str) -> PictureError:
    return PictureError(Defect.truncated, f"the {name} ends before its end mark")


def at_most(count: int, limit: int, what: str) -> None:
    """Raise PictureError (corrupt) for more than `limit` of `what`, as in "the png: chunks"."""
    if count > limit:
        name, _, things = what.partition(": ")
        raise corrupt(f"{name} has more than {limit} {things}")
