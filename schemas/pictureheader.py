"""Image headers: format, size, orientation, and properties that matter for decoding. No pixel is decoded.

Own parsers of a few fields each, because opening a file with an imaging library already allocates for some formats
(a 40-byte WebP may claim a canvas of a gigabyte). The whole structure is walked, so a file cut anywhere is noticed.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import count

from schemas.jpegheader import exif_orientation, jpeg_header
from schemas.picturetypes import Defect, Header, PictureError, at_most, corrupt, make_header, truncated

__all__ = ["MAGIC_BYTES", "Defect", "Header", "PictureError", "check_magic", "exif_orientation", "read_header"]

MAGIC_BYTES = 16
"""Bytes that `check_magic` needs."""

MAX_CHUNKS = 50_000
"""Chunks of a PNG or WebP; decoders keep a record of each. Encoders write one per 8 KiB or more of pixels."""

MAX_PROFILES = 10
"""Colour profiles of a PNG; the specification allows one. Pillow unpacks each, to a megabyte."""

MAX_WEBP_SIDE = 16_384
"""Pixels of a frame's side (RFC 9649 sections 2.5 and 2.6); a canvas may claim 2^24 around it, for nothing."""

MAX_BLOCKS = 1_000_000
"""Blocks of a GIF, of up to 255 bytes each."""

MAX_COMMENT = 2**18
"""Bytes of comments in a GIF. Pillow joins their blocks one by one, in a time that grows with the square."""

MAX_EXPANSION = 1032
"""Bytes of pixels that a byte of a PNG's data holds at most: deflate repeats 258 bytes in 2 bits (RFC 1951)."""

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
_MARKUP = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")


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


def _png(data: bytes) -> Header:
    """Chunks up to IEND (PNG specification, third edition, sections 5 and 11); APNG says acTL before the pixels."""
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    traits = ["16-bit"] * (depth == 16) + ["palette"] * (colour == 3) + ["alpha"] * (colour in (4, 6))
    position, orientation, pixel_bytes, profiles = 8, 1, 0, 0
    for number in count():
        length, kind = struct.unpack_from(">I4s", data, position)
        if (kind == b"IHDR") != (number == 0):
            raise corrupt("the png's header is not its first chunk, or not its only one")
        at_most(number, MAX_CHUNKS, "the png: chunks")
        if kind == b"IDAT":
            pixel_bytes += length
        elif kind == b"iCCP":
            profiles += 1
            at_most(profiles, MAX_PROFILES, "the png: colour profiles")
        elif kind == b"acTL":
            traits.append("animated")
        elif kind == b"tRNS":
            traits.append("alpha")
        elif kind == b"eXIf":
            orientation = exif_orientation(data[position + 8 : position + 8 + length])
        elif kind == b"IEND":
            break
        position += 12 + length
    channels = {2: 3, 4: 2, 6: 4}.get(colour, 1)
    needed = width * channels * depth // 8 * height
    header = make_header("png", width, height, traits, orientation)
    short = needed > MAX_EXPANSION * (pixel_bytes + 1)
    return replace(header, shortage=f"{pixel_bytes} bytes of data for {needed} of pixels") if short else header


def _gif(data: bytes) -> Header:
    """Blocks up to the trailer (GIF89a, sections 18 to 27). Every GIF has a palette, so none is plain."""
    width, height, packed = struct.unpack_from("<HHB", data, 6)
    position, frames, alpha, blocks, comments = 13 + _gif_palette(packed), 0, False, 0, 0
    while data[position] != 0x3B:
        started, is_comment = position, False
        if data[position] == 0x2C:  # an image: its descriptor, its palette, the size of its codes
            frames += 1
            if frames == 1:
                left, top, wide, high = struct.unpack_from("<4H", data, position + 1)
                if left + wide > width or top + high > height:
                    raise corrupt(f"the gif is {width}x{height} and its first frame ends at {left + wide}x{top + high}")
            position += 11 + _gif_palette(data[position + 9])
        elif data[position] == 0x21:  # an extension and its label; F9 says whether a colour is transparent
            alpha = alpha or (data[position + 1] == 0xF9 and bool(data[position + 3] & 1))
            is_comment = data[position + 1] == 0xFE
            position += 2
        else:
            raise corrupt("the gif's blocks are broken")
        while length := data[position]:  # blocks of data, ended by an empty one
            position += 1 + length
            blocks += 1
        position += 1
        blocks += 1
        comments += (position - started) * is_comment
        at_most(blocks, MAX_BLOCKS, "the gif: blocks")
        at_most(comments, MAX_COMMENT, "the gif: bytes of comments")
    if not frames:
        raise corrupt("the gif has no frame")
    traits = ["palette"] + ["animated"] * (frames > 1) + ["alpha"] * alpha
    return make_header("gif", width, height, traits)


def _gif_palette(packed: int) -> int:
    """Bytes of the palette that a packed field announces (GIF89a, sections 18 and 20)."""
    return 3 * 2 ** ((packed & 7) + 1) if packed & 0x80 else 0


def _bmp(data: bytes) -> Header:
    """The info header (BITMAPINFOHEADER or longer). Never kept as it is: no browser-sized picture should be one."""
    (length,) = struct.unpack_from("<I", data, 14)
    old = length == 12
    width, height, _, bits = struct.unpack_from("<HHHH" if old else "<iiHH", data, 18)
    width, height = abs(width), abs(height)
    needed = width * bits // 8 * height
    run_lengths = not old and struct.unpack_from("<I", data, 30)[0] in (1, 2)  # of 8 and of 4 bits
    short = f"{len(data)} bytes of data for {needed} of pixels" if needed > len(data) and not run_lengths else ""
    return Header("bmp", width, height, plain=False, shortage=short)


def _webp(data: bytes) -> Header:
    """RIFF container (RFC 9649, section 2): the first chunk decides."""
    (length,) = struct.unpack_from("<I", data, 4)
    if len(data) < length + 8:
        raise truncated("webp")
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return make_header("webp", width & 0x3FFF, height & 0x3FFF, [])
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        alpha = ["alpha"] * bool(bits >> 28 & 1)
        return make_header("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, alpha)
    if kind == b"VP8X":
        flags = data[20]
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        if max(width, height) > MAX_WEBP_SIDE:
            raise corrupt(f"the webp's canvas is {width}x{height}, and its frames are at most {MAX_WEBP_SIDE} a side")
        traits = ["animated"] * bool(flags & 2) + ["alpha"] * bool(flags & 16)
        return make_header("webp", width, height, traits, _webp_orientation(data))
    raise corrupt("the webp has no picture")


def _webp_orientation(data: bytes) -> int:
    """The orientation of an EXIF chunk that the first chunk announces. Counts all chunks on the way."""
    position, orientation, announced = 12, 1, bool(data[20] & 8)
    for number in count():
        if position + 8 > len(data):
            break
        at_most(number, MAX_CHUNKS, "the webp: chunks")
        kind, length = struct.unpack_from("<4sI", data, position)
        if announced and kind == b"EXIF":
            announced = False
            orientation = exif_orientation(data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0"))
        position += 8 + length + length % 2
    return orientation


_READERS = {"jpeg": jpeg_header, "png": _png, "gif": _gif, "bmp": _bmp, "webp": _webp}
