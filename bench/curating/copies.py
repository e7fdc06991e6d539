"""Pictures whose copies are known: photographs and made ones, what happens to pictures on the web, and a table of both.

    python -m bench.curating.copies

Photographs are those in scikit-image's wheel. Made ones are what a perceptual hash confuses: bar charts, cards, memes
and slides on one template each, flat colours and gradients, drawings on transparency, 16 bits.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from pipelines.dedupe.detail import detail_of
from pipelines.dedupe.keys import DedupeConfig
from schemas.phash import distance, hash_picture

PHOTOGRAPHS = (
    *("astronaut", "camera", "chelsea", "coffee", "rocket", "coins", "page", "text", "clock", "moon", "brick"),
    *("grass", "gravel", "immunohistochemistry", "hubble_deep_field", "retina", "colorwheel", "logo"),
)
WORDS = ("WHEN THE TEST|PASSES", "ONE DOES NOT|SIMPLY LEAK", "MONDAY|AGAIN", "ONE DOES NOT|SIMPLY MERGE")
CHARTS = ((50, 80, 30, 60), (60, 70, 40, 50), (45, 85, 30, 60), (50, 80, 30, 66))
SLIDES = ("Revenue grew by 4%|Costs fell", "Revenue fell by 9%|Costs rose", "We expect more|Markets open")


def photographs(names: tuple[str, ...] = PHOTOGRAPHS) -> dict[str, Image.Image]:
    """Name -> RGB picture, of those that the installed scikit-image has in its wheel."""
    from skimage import data

    return {name: Image.fromarray(getattr(data, name)()).convert("RGB") for name in names}


def made(photograph: Image.Image) -> dict[str, Image.Image]:
    """Name -> picture; those with one word before the blank are on one template, and no two are copies."""
    found = {f"chart {number}": chart(values) for number, values in enumerate(CHARTS)}
    found |= {f"card {letter}": card(letter) for letter in "174A"}
    found |= {f"meme {number}": meme(photograph, words) for number, words in enumerate(WORDS)}
    found |= {f"slide {number}": slide(words) for number, words in enumerate(SLIDES)}
    found |= {f"flat {colour}": Image.new("RGB", (320, 240), colour) for colour in ("white", "#fdfdfd", "#204060")}
    found |= {f"gradient {angle}": gradient(angle) for angle in (0, 90, 180)}
    found |= {f"drawing {sides}": drawing(sides) for sides in (3, 4, 6)}
    found |= {f"deep {seed}": deep(seed) for seed in (1, 2)}
    return found


def chart(values: tuple[int, ...]) -> Image.Image:
    picture, draw = _page((480, 360))
    draw.text((240, 8), "Sales by region", "black", _font(20), anchor="ma")
    draw.line((50, 40, 50, 320, 460, 320), fill="black")
    for place, value in enumerate(values):
        left = 70 + 98 * place
        draw.rectangle((left, 320 - 2.7 * value, left + 58, 320), fill="#4472c4")
        draw.text((left + 29, 326), "ABCD"[place], "black", _font(16), anchor="ma")
    return picture


def card(letter: str) -> Image.Image:
    picture, draw = _page((300, 420))
    draw.rounded_rectangle((10, 10, 290, 410), 20, outline="black", width=4)
    draw.text((150, 210), letter, "#c00000", _font(160), anchor="mm")
    draw.text((25, 20), letter, "#c00000", _font(36))
    return picture


def meme(photograph: Image.Image, words: str) -> Image.Image:
    picture = photograph.resize((400, 400))
    draw, (above, below) = ImageDraw.Draw(picture), words.split("|")
    for height, line in ((10, above), (350, below)):
        draw.text((200, height), line, "white", _font(32), anchor="ma", stroke_width=2, stroke_fill="black")
    return picture


def slide(words: str) -> Image.Image:
    picture, draw = _page((960, 540))
    draw.rectangle((0, 0, 960, 80), fill="#1f3864")
    draw.text((30, 20), "Results", "white", _font(36))
    for place, line in enumerate(words.split("|")):
        draw.text((60, 120 + 50 * place), f"- {line}", "black", _font(28))
    return picture


def gradient(angle: int) -> Image.Image:
    ramp = np.tile(np.linspace(0, 255, 320).astype(np.uint8), (320, 1))
    return Image.fromarray(np.ascontiguousarray(np.rot90(ramp, angle // 90))).convert("RGB")


def drawing(sides: int) -> Image.Image:
    picture = Image.new("RGBA", (400, 400), (0, 0, 0, 0))
    ImageDraw.Draw(picture).regular_polygon((200, 200, 150), sides, fill=(20, 20, 20, 255))
    return picture


def deep(seed: int) -> Image.Image:
    """16 bits a pixel, as X-rays are: light blobs on a dark ground."""
    coarse = np.random.default_rng(seed).random((9, 9)) ** 2
    smooth = np.asarray(Image.fromarray(coarse.astype(np.float32)).resize((384, 384), Image.Resampling.BICUBIC))
    return Image.fromarray((np.clip(smooth, 0, 1) * 65535).astype(np.uint16))


@dataclass(frozen=True)
class Change:
    """One thing that happens to pictures: `apply` gives the encoded copy."""

    name: str
    apply: Callable[[Image.Image], bytes]


def changes() -> list[Change]:
    found = [Change(f"saved as JPEG {quality}", _saved(quality)) for quality in (30, 50, 75, 95)]
    found += [Change(f"resized by {factor}", _resized(factor)) for factor in (0.5, 0.75, 1.5, 2)]
    found += [Change(f"brightness {factor}", _brightened(factor)) for factor in (0.7, 0.85, 1.15, 1.3)]
    found += [Change(f"cropped by {percent}%", _cropped(percent)) for percent in (5, 10, 20)]
    return [*found, Change("mirrored", lambda one: encoded(ImageOps.mirror(opaque(one)))), Change("EXIF turn", _turned)]


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def opaque(picture: Image.Image) -> Image.Image:
    """8 bits on white, as a web site would save it."""
    if picture.mode == "I;16":
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")


@dataclass(frozen=True)
class Known:
    """What `dedupe_keys` knows of a picture."""

    phash: str
    detail: np.ndarray
    structured: bool

    @classmethod
    def of(cls, data: bytes) -> Known:
        detail = detail_of(data)
        return cls(hash_picture(data), np.frombuffer(detail.signature, np.int8).astype(int), detail.structured)

    def near(self, other: Known, config: DedupeConfig) -> tuple[bool, bool]:
        """Whether the hashes alone call the two near, and whether all checks do."""
        alike = distance(self.phash, other.phash) <= config.near_distance
        within = int(np.abs(self.detail - other.detail).max()) <= config.near_detail
        return alike, alike and within and self.structured and other.structured


def table(originals: dict[str, Image.Image], asked: list[Change] | None = None) -> Iterator[tuple[str, int, int, int]]:
    """(change, pictures with a structure, copies that the hash finds, copies that all checks find)."""
    config = DedupeConfig()
    known = {name: Known.of(encoded(picture)) for name, picture in originals.items()}
    kept = {name: one for name, one in known.items() if one.structured}
    for change in asked or changes():
        found = [one.near(Known.of(change.apply(originals[name])), config) for name, one in kept.items()]
        yield change.name, len(found), sum(alike for alike, _ in found), sum(both for _, both in found)


def false_pairs(originals: dict[str, Image.Image]) -> tuple[list[str], list[str]]:
    """Pairs of different pictures that the hash alone calls near, and that all checks call near."""
    config, names = DedupeConfig(), list(originals)
    known = [Known.of(encoded(picture)) for picture in originals.values()]
    pairs = [(one, other) for one in range(len(names)) for other in range(one)]
    judged = [(f"{names[other]} / {names[one]}", *known[one].near(known[other], config)) for one, other in pairs]
    return [name for name, alike, _ in judged if alike], [name for name, _, both in judged if both]


def main(arguments: list[str] | None = None) -> None:
    photos = photographs()
    originals = {**photos, **made(photos["chelsea"])}
    print("| change | pictures | the hash alone | with the second check |\n|---|---|---|---|")
    for name, count, alike, both in table(originals):
        print(f"| {name} | {count} | {alike / count:.0%} | {both / count:.0%} |")
    by_hash, by_all = false_pairs(originals)
    print(f"| false pairs among {len(originals)} | | {len(by_hash)} | {len(by_all)} |")
    print("\n".join(by_all))


def _saved(quality: int) -> Callable[[Image.Image], bytes]:
    return lambda picture: encoded(opaque(picture), "JPEG", quality=quality)


def _resized(factor: float) -> Callable[[Image.Image], bytes]:
    def apply(picture: Image.Image) -> bytes:
        width, height = (round(side * factor) for side in picture.size)
        return encoded(opaque(picture).resize((width, height), Image.Resampling.LANCZOS), "JPEG", quality=85)

    return apply


def _brightened(factor: float) -> Callable[[Image.Image], bytes]:
    return lambda picture: encoded(ImageEnhance.Brightness(opaque(picture)).enhance(factor), "JPEG", quality=85)


def _cropped(percent: int) -> Callable[[Image.Image], bytes]:
    def apply(picture: Image.Image) -> bytes:
        width, height = picture.size
        x, y = round(width * percent / 200), round(height * percent / 200)
        return encoded(opaque(picture).crop((x, y, width - x, height - y)), "JPEG", quality=85)

    return apply


def _turned(picture: Image.Image) -> bytes:
    """Stored lying on its side, with the orientation that turns it upright (Exif 2.32, section 4.6.4, value 6)."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(opaque(picture).rotate(90, expand=True), "JPEG", quality=90, exif=exif)


def _page(size: tuple[int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", size, "white")
    return picture, ImageDraw.Draw(picture)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


if __name__ == "__main__":
    main()
