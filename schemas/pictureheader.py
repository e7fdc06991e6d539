"""What a picture's structure says: format, size, orientation, and what sets it apart. No pixel is decoded.

Own parsers of a few fields each, because opening a file with an imaging library already allocates for some formats
(a 40-byte WebP may claim a canvas of a gigabyte). The whole structure is walked, so a file cut anywhere is noticed.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

from schemas.errors import InputError

MAGIC_BYTES = 16
"""Bytes that `check_magic` needs."""

MAX_SCANS = 200
"""Scans of a JPEG. Progressive encoders write about 10 (libjpeg's script), and every further one is another pass over
all coefficients: a megabyte with 20,000 of them takes half a minute."""

MAX_CHUNKS = 50_000
"""Chunks of a PNG; decoders keep a record of each. Encoders write one per 8 KiB or more of pixels."""

_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
)
# Pictures of a kind that is not taken. ISO base media files say theirs in the brand at byte 8.
_OTHER_PICTURES = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"8BPS", "PSD"),
    (b"\0\0\1\0", "ICO"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"%PDF", "PDF"),
)
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]")
_MARKUP = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")


class Defect(StrEnum):
    """Why bytes cannot be used as a picture."""

    not_image = "not_image"
    unsupported_format = "unsupported_format"
    truncated = "truncated"
    corrupt = "corrupt"
    too_many_pixels = "too_many_pixels"


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

    @property
    def mime(self) -> str:
        return f"image/{self.format}"

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright picture; orientations 5 to 8 swap the sides."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def check_magic(data: bytes) -> str:
    """The format that the first bytes announce; raises PictureError (not_image, unsupported_format)."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    for magic, name in _OTHER_PICTURES:
        if data.startswith(magic):
            raise PictureError(Defect.unsupported_format, name)
    if data[4:8] == b"ftyp":
        raise PictureError(Defect.unsupported_format, {b"avif": "AVIF"}.get(data[8:12], "HEIF or video"))
    text = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")):
        # An XML prologue in an answer about a picture: SVG, or an error page of an object store.
        is_svg = b"<svg" in text or b"svg" in text[:64]
        raise PictureError(*((Defect.unsupported_format, "SVG") if is_svg else (Defect.not_image, "XML")))
    if text.startswith(_MARKUP):
        raise PictureError(Defect.not_image, "HTML")
    raise PictureError(Defect.not_image, "unknown first bytes")


def read_header(data: bytes) -> Header:
    """Format, size and traits; raises PictureError (not_image, unsupported_format, truncated, corrupt)."""
    name = check_magic(data)
    try:
        header = _READERS[name](data)
    except (struct.error, IndexError):
        raise PictureError(Defect.truncated, f"the {name} ends inside its structure") from None
    if not header.width or not header.height:
        raise PictureError(Defect.corrupt, f"the {name} has no size")
    return header


def _header(name: str, width: int, height: int, traits: list[str], orientation: int = 1) -> Header:
    orientation = orientation if 1 <= orientation <= 8 else 1
    if orientation != 1:
        traits.append("rotated")
    return Header(name, width, height, not traits, tuple(traits), orientation)


def _truncated(name: str) -> PictureError:
    return PictureError(Defect.truncated, f"the {name} ends before its end mark")


def _jpeg(data: bytes) -> Header:
    """Segments up to the first scan (ISO/IEC 10918-1, annex B), and an end-of-image mark after it."""
    position, size, orientation, traits = 2, None, 1, []
    components, progressive, several = 0, False, False
    while True:
        position = _marker(data, position)
        marker = data[position + 1]
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # marks without a length
            position += 2
            continue
        length = struct.unpack_from(">H", data, position + 2)[0]
        # Start of frame: C0 to CF without the tables C4 and CC and the reserved C8.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if size is not None:
                raise PictureError(Defect.corrupt, "the jpeg has two frames")
            precision, height, width, components = struct.unpack_from(">BHHB", data, position + 4)
            size, progressive = (width, height), marker & 3 == 2
            traits += ["16-bit"] * (precision != 8) + ["cmyk"] * (components == 4)
        elif marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0" and orientation == 1:
            orientation = exif_orientation(data[position + 10 : position + 2 + length])
        elif marker == 0xDA:
            # Decoders take a single scan with all components in one pass; only other files can ask for more of them.
            several = progressive or data[position + 4] < components
            break
        position += 2 + length
    if size is None:
        raise PictureError(Defect.corrupt, "the jpeg has no frame before its scan")
    if data.rfind(b"\xff\xd9", position) < 0:
        raise _truncated("jpeg")
    if several and (scans := data.count(b"\xff\xda", position)) > MAX_SCANS:
        raise PictureError(Defect.corrupt, f"the jpeg has {scans} scans, more than {MAX_SCANS}")
    return _header("jpeg", *size, traits, orientation)


def _marker(data: bytes, position: int) -> int:
    """Where the next marker begins. Stray and fill bytes before it are passed over, as decoders do."""
    found = _JPEG_MARKER.search(data, position)
    if found is None:
        raise IndexError
    return found.end() - 2


def exif_orientation(exif: bytes) -> int:
    """Tag 274 of the first directory (TIFF 6.0 section 2), or 1 when it is absent or broken."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(entries):
            tag, kind = struct.unpack_from(order + "HH", exif, start + 2 + 12 * entry)
            if tag == 274:
                # A SHORT by the specification; some cameras write a LONG (type 4).
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), exif, start + 10 + 12 * entry)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _png(data: bytes) -> Header:
    """Chunks up to IEND (PNG specification, third edition, sections 5 and 11); APNG says acTL before the pixels."""
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    traits = ["16-bit"] * (depth == 16) + ["palette"] * (colour == 3) + ["alpha"] * (colour in (4, 6))
    position, orientation = 8, 1
    for number in count():
        length, kind = struct.unpack_from(">I4s", data, position)
        if (kind == b"IHDR") != (number == 0):
            raise PictureError(Defect.corrupt, "the png's header is not its first chunk, or not its only one")
        if number > MAX_CHUNKS:
            raise PictureError(Defect.corrupt, f"the png has more than {MAX_CHUNKS} chunks")
        if kind == b"acTL":
            traits.append("animated")
        elif kind == b"tRNS":
            traits.append("alpha")
        elif kind == b"eXIf":
            orientation = exif_orientation(data[position + 8 : position + 8 + length])
        elif kind == b"IEND":
            break
        position += 12 + length
    return _header("png", width, height, traits, orientation)


def _gif(data: bytes) -> Header:
    """Blocks up to the trailer (GIF89a, sections 18 to 27). Every GIF has a palette, so none is plain."""
    width, height, packed = struct.unpack_from("<HHB", data, 6)
    position, frames, alpha = 13 + _gif_palette(packed), 0, False
    while data[position] != 0x3B:
        if data[position] == 0x2C:  # an image: its descriptor, its palette, the size of its codes
            frames += 1
            position += 11 + _gif_palette(data[position + 9])
        elif data[position] == 0x21:  # an extension and its label; F9 says whether a colour is transparent
            alpha = alpha or (data[position + 1] == 0xF9 and bool(data[position + 3] & 1))
            position += 2
        else:
            raise PictureError(Defect.corrupt, "the gif's blocks are broken")
        while length := data[position]:  # blocks of data, ended by an empty one
            position += 1 + length
        position += 1
    return _header("gif", width, height, ["palette"] + ["animated"] * (frames > 1) + ["alpha"] * alpha)


def _gif_palette(packed: int) -> int:
    """Bytes of the palette that a packed field announces (GIF89a, sections 18 and 20)."""
    return 3 * 2 ** ((packed & 7) + 1) if packed & 0x80 else 0


def _bmp(data: bytes) -> Header:
    """The info header (BITMAPINFOHEADER or longer). Never kept as it is: no browser-sized picture should be one."""
    (length,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if length == 12 else "<ii", data, 18)
    return Header("bmp", abs(width), abs(height), plain=False)


def _webp(data: bytes) -> Header:
    """RIFF container (RFC 9649, section 2): the first chunk decides."""
    (length,) = struct.unpack_from("<I", data, 4)
    if len(data) < length + 8:
        raise _truncated("webp")
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return _header("webp", width & 0x3FFF, height & 0x3FFF, [])
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        alpha = ["alpha"] * bool(bits >> 28 & 1)
        return _header("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, alpha)
    if kind == b"VP8X":
        flags = data[20]
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        traits = ["animated"] * bool(flags & 2) + ["alpha"] * bool(flags & 16)
        return _header("webp", width, height, traits, _webp_orientation(data) if flags & 8 else 1)
    raise PictureError(Defect.corrupt, "the webp has no picture")


def _webp_orientation(data: bytes) -> int:
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return exif_orientation(data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0"))
        position += 8 + length + length % 2
    return 1


_READERS = {"jpeg": _jpeg, "png": _png, "gif": _gif, "bmp": _bmp, "webp": _webp}
