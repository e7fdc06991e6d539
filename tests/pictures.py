"""One table of small pictures of every mode, format and kind of damage, with what every step must make of them.

The upright picture is always 30 x 20 pixels of four quadrants; `corners` are their colours, as training sees them.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, features

from schemas.pictures import upright

SIZE = (30, 20)
WHITE = (255, 255, 255)
RED, GREEN, BLUE, DIM = (200, 30, 40), (30, 180, 60), (40, 60, 200), (120, 120, 120)
COLOURS = (RED, GREEN, BLUE, DIM)
"""Top left, top right, bottom left, bottom right."""

LEVELS = (10, 90, 170, 250)
GREYS = tuple((level, level, level) for level in LEVELS)
INVERSE = {5: 5, 6: 8, 7: 7, 8: 6}
"""The orientation that undoes one that swaps the sides; the others undo themselves."""


@dataclass(frozen=True)
class Case:
    """Encoded bytes and the right answer. `defect`: why they cannot be used. `sent`: what an endpoint gets."""

    name: str
    data: bytes
    corners: tuple = COLOURS
    defect: str | None = None
    sent: str = "jpeg"
    unchanged: bool = False
    """Sent to an endpoint as it is."""
    near: int = 0
    """How far the colours of a lossy format may be away, 0 to 255."""

    def __str__(self) -> str:
        return self.name


def quadrants(values: tuple, dtype: Any = np.uint8, size: tuple[int, int] = SIZE) -> np.ndarray:
    width, height = size
    pixels = np.empty((height, width, *np.shape(values[0])), dtype)
    for number, value in enumerate(values):
        down, across = divmod(number, 2)
        rows = slice(0, height // 2) if down == 0 else slice(height // 2, None)
        pixels[rows, slice(0, width // 2) if across == 0 else slice(width // 2, None)] = value
    return pixels


def corners_of(pixels: np.ndarray) -> np.ndarray:
    """The mean colour of each quadrant of (height, width, 3)."""
    high, wide = pixels.shape[0] // 2, pixels.shape[1] // 2
    parts = [pixels[:high, :wide], pixels[:high, wide:], pixels[high:, :wide], pixels[high:, wide:]]
    return np.stack([part.reshape(-1, 3).mean(axis=0) for part in parts])


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def colour() -> Image.Image:
    return Image.fromarray(quadrants(COLOURS))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(pixels: np.ndarray, depth: int, colour_type: int, *extra: bytes, size: tuple[int, int] | None = None) -> bytes:
    """A PNG of big-endian `pixels` (height, width, ...); `extra` chunks come after the header."""
    height, width = pixels.shape[:2]
    head = struct.pack(">IIBBBBB", *(size or (width, height)), depth, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    parts = (chunk(b"IHDR", head), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[274] = orientation
    return made.tobytes()


def turned(orientation: int, kind: str, picture: np.ndarray | None = None) -> bytes:
    """A picture as a camera held that way stores it."""
    pixels = upright(quadrants(COLOURS) if picture is None else picture, INVERSE.get(orientation, orientation))
    lossless = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    return encoded(pixels, kind, exif=exif(orientation), **lossless)


def with_exif(content: bytes, kind: str) -> bytes:
    """The picture with an EXIF block of any content, which Pillow would refuse to write."""
    if kind == "PNG":
        return png(quadrants(COLOURS), 8, 2, chunk(b"eXIf", content))
    if kind == "JPEG":
        whole, block = encoded(colour(), "JPEG", quality=95, subsampling=0), b"Exif\0\0" + content
        return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + whole[2:]
    whole, marker = encoded(colour(), "WEBP", lossless=True, exif=b"EXIF" * 4), b"EXIF" + struct.pack("<I", 16)
    place = whole.index(marker)
    body = whole[12:place] + b"EXIF" + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def ycck() -> bytes:
    """A JPEG in YCCK, as Photoshop writes them: a CMYK one of the converted planes that says so in its Adobe marker."""
    planes = Image.fromarray(255 - quadrants(COLOURS)).convert("YCbCr").split()
    inverted = [Image.fromarray(255 - np.asarray(plane)) for plane in planes]
    data = bytearray(encoded(Image.merge("CMYK", (*inverted, Image.new("L", SIZE))), "JPEG", quality=95, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def frames(kind: str, **options: Any) -> bytes:
    return encoded(colour(), kind, save_all=True, append_images=[Image.new("RGB", SIZE)], duration=50, **options)


def clear(mode: str) -> Image.Image:
    """The four colours, the top right one transparent over black."""
    image = Image.fromarray(np.dstack([quadrants((RED, (0, 0, 0), BLUE, DIM)), quadrants((255, 0, 255, 255))]))
    return image.convert(mode)


CLEAR = (RED, WHITE, BLUE, DIM)
GREY_CLEAR = (GREYS[0], WHITE, GREYS[2], GREYS[3])
WIDE = quadrants(tuple(level << 8 | 77 for level in LEVELS), ">u2")
JPEG = encoded(colour(), "JPEG", quality=95, subsampling=0)
JPEG_OPTIONS: dict[str, Any] = {"quality": 95, "subsampling": 0}


def _modes() -> Iterator[Case]:
    grey, palette = quadrants(LEVELS), colour().quantize(4)
    yield Case("jpeg", JPEG, near=4, unchanged=True)
    yield Case("jpeg grey", encoded(grey, "JPEG", quality=95), GREYS, near=4, unchanged=True)
    yield Case("jpeg progressive", encoded(colour(), "JPEG", progressive=True, **JPEG_OPTIONS), near=4, unchanged=True)
    yield Case("jpeg rgb", encoded(colour(), "JPEG", keep_rgb=True, quality=95), near=4, unchanged=True)
    yield Case("jpeg cmyk", encoded(colour().convert("CMYK"), "JPEG", quality=95), near=4, sent="any")
    yield Case("jpeg ycck", ycck(), near=6, sent="any")
    more = [Image.new("RGB", SIZE)]
    mpo = encoded(colour(), "MPO", save_all=True, append_images=more, **JPEG_OPTIONS)
    yield Case("mpo", mpo, near=4, unchanged=True)
    yield Case("png", encoded(colour()), sent="png", unchanged=True)
    yield Case("png grey", encoded(grey), GREYS, sent="png", unchanged=True)
    yield Case("png 16-bit grey", png(WIDE, 16, 0), GREYS, sent="png")
    yield Case("png 16-bit rgb", png((quadrants(COLOURS, np.uint16) * 256 + 77).astype(">u2"), 16, 2), sent="png")
    yield Case("png 1-bit", encoded(Image.fromarray(quadrants((0, 255, 255, 0))).convert("1")),
               ((0, 0, 0), WHITE, WHITE, (0, 0, 0)), sent="png", unchanged=True)  # fmt: skip
    yield Case("png palette", encoded(palette), sent="png", unchanged=True)
    hidden = encoded(palette, transparency=palette.getpixel((SIZE[0] - 1, 0)))
    yield Case("png palette transparent", hidden, CLEAR, sent="png")
    yield Case("png rgba", encoded(clear("RGBA")), CLEAR, sent="png")
    levels = np.dstack([quadrants((10, 0, 170, 250)), quadrants((255, 0, 255, 255))])
    yield Case("png la", encoded(Image.fromarray(levels)), GREY_CLEAR, sent="png")
    yield Case("png rgb transparent", encoded(colour(), transparency=GREEN), CLEAR, sent="png")
    yield Case("png grey transparent", encoded(grey, transparency=LEVELS[1]), GREY_CLEAR, sent="png")
    key = struct.pack(">H", LEVELS[1] << 8 | 77)
    yield Case("png 16-bit grey transparent", png(WIDE, 16, 0, chunk(b"tRNS", key)), GREY_CLEAR, sent="png")
    yield Case("apng", frames("PNG"), sent="png")


def _formats() -> Iterator[Case]:
    yield Case("webp", encoded(colour(), "WEBP", quality=100), near=16, sent="webp", unchanged=True)
    yield Case("webp lossless", encoded(colour(), "WEBP", lossless=True), sent="webp", unchanged=True)
    yield Case("webp rgba", encoded(clear("RGBA"), "WEBP", lossless=True), CLEAR, sent="png")
    yield Case("webp animated", frames("WEBP", lossless=True), sent="png")
    yield Case("gif", encoded(colour(), "GIF"), sent="gif", unchanged=True)
    yield Case("gif animated", frames("GIF"), sent="png")
    yield Case("gif transparent", encoded(clear("RGBA"), "GIF"), CLEAR, sent="png")
    yield Case("bmp", encoded(colour(), "BMP"), sent="png")
    noisy = quadrants(COLOURS) + np.random.default_rng(0).integers(-20, 21, (*SIZE[::-1], 3))
    yield Case("bmp of many colours", encoded(noisy.astype(np.uint8), "BMP"), near=4)
    yield Case("tiff", encoded(colour(), "TIFF"), sent="png")
    yield Case("tiff cmyk", encoded(colour().convert("CMYK"), "TIFF"), sent="png")
    yield Case("tiff 16-bit", encoded(WIDE.astype(np.uint16), "TIFF"), GREYS, sent="png")
    spread = ((0, 0, 0), (85, 85, 85), (170, 170, 170), WHITE)
    yield Case("tiff 32-bit", encoded(quadrants((-300, 0, 300, 600), np.int32), "TIFF"), spread, sent="png")
    yield Case("tiff float", encoded(quadrants((-1.5, 0, 1.5, 3), np.float32), "TIFF"), spread, sent="png")
    yield Case("tiff not a number", encoded(quadrants((np.nan, 0, 0, 3), np.float32), "TIFF"),
               ((0, 0, 0),) * 3 + (WHITE,), sent="png")  # fmt: skip
    yield Case("tiff turned", encoded(upright(quadrants(COLOURS), 8), "TIFF", exif=exif(6)), sent="png")
    yield Case("ico", encoded(colour(), "ICO", sizes=[SIZE]), sent="png")
    yield Case("ppm", encoded(colour(), "PPM"), sent="png")
    if features.check("jpg_2000"):
        yield Case("jpeg 2000", encoded(colour(), "JPEG2000"), sent="png")
    if features.check("avif"):
        yield Case("avif", encoded(colour(), "AVIF", quality=100, subsampling="4:4:4"), near=4, sent="any")


def _exif() -> Iterator[Case]:
    near = {"JPEG": 4}
    for kind in ("JPEG", "PNG", "WEBP"):
        same = {"near": near.get(kind, 0), "sent": kind.lower()}
        for orientation in range(1, 9):
            # Four colours make a drawing; a JPEG of them has more after decoding.
            sent = kind.lower() if orientation == 1 else "any" if kind == "JPEG" else "png"
            data = turned(orientation, kind)
            yield Case(f"{kind} orientation {orientation}", data, near=same["near"], sent=sent,
                       unchanged=orientation == 1)  # fmt: skip
        circular = b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08"
        broken = {
            "4 bytes": b"MM\0*",
            "nothing": b"",
            "a circle": circular,
            "an end far away": b"II*\0\xff\xff\xff\xff",
        }
        broken |= {"0": exif(0).removeprefix(b"Exif\0\0"), "99": exif(99).removeprefix(b"Exif\0\0")}
        for name, content in broken.items():
            yield Case(f"{kind} exif of {name}", with_exif(content, kind), unchanged=True, **same)
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation="6"/>'
    data = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + JPEG[2:]
    yield Case("an orientation in xmp is not exif's", data, near=4, unchanged=True)


def _broken() -> Iterator[Case]:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    whole = {kind: encoded(noise, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")}
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        defect = "corrupt" if kind == "TIFF" else "truncated"
        yield Case(f"{kind} cut", whole[kind][: len(whole[kind]) * 2 // 3], defect=defect)
    yield Case("empty", b"", defect="not_image")
    yield Case("text", b"not a picture either", defect="not_image")
    yield Case("html", b"<!doctype html><html>404</html>", defect="not_image")
    yield Case("svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', defect="unsupported_format")
    yield Case("psd", b"8BPS\0\1" + bytes(40), defect="unsupported_format")
    square = quadrants(COLOURS, size=(8, 8))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 13000, 13000, 8, 2, 0, 0, 0))
    yield Case("png with two headers", png(square, 8, 2, head), defect="corrupt")
    yield Case("png with less data than its header says", png(square, 8, 2, size=(90, 90)), defect="corrupt")
    yield Case("png of more pixels than may be", png(square, 8, 2, size=(30000, 30000)), defect="too_many_pixels")
    damaged = bytearray(whole["PNG"])
    damaged[len(damaged) // 2] ^= 0xFF
    yield Case("png with damaged data", bytes(damaged), defect="corrupt")
    beyond = bytearray(encoded(colour(), "GIF"))
    beyond[6:10] = struct.pack("<HH", 8, 8)
    yield Case("gif with a frame beyond its screen", bytes(beyond), defect="corrupt")
    passes = encoded(colour(), "JPEG", progressive=True)
    many = passes[:-2] + passes[passes.rindex(b"\xff\xda") : -2] * 300 + passes[-2:]
    yield Case("jpeg of 310 scans", many, defect="corrupt")


USABLE = [*_modes(), *_formats(), *_exif()]
BROKEN = list(_broken())
CASES = [*USABLE, *BROKEN]
