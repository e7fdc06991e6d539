"""Structural limits for formats that only Pillow parses, checked before Pillow sees them.

Each check raises PictureError for what would take memory or time that the size of the picture does not announce.
"""

from __future__ import annotations

import struct

from schemas.pictureheader import read_header
from schemas.picturetypes import at_most, corrupt

MAX_TAGS = 1_000
"""Tags in the first directory of a TIFF; TIFF 6.0 and its extensions define about 200."""

MAX_ICONS = 100
MAX_TILES = 4_096
MAX_COMPONENTS = 4
MAX_LAYERS = 200
MAX_BOXES = 1_000

_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value of each type (TIFF 6.0 section 2; BigTIFF's 16 to 18)."""


_TIFF_SIDES = (256, 257, 322, 323)
"""Tags: width and height of the picture and of a tile (TIFF 6.0 sections 8 and 15)."""

MAX_TILE = 2**22
"""Pixels of a TIFF's tile, in a smaller picture; a decoder holds whole tiles."""


def check_structure(data: bytes) -> None:
    """Raises PictureError (corrupt) or struct.error; other formats than TIFF, ICO and JPEG 2000 pass."""
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        _check_tiff(data)
    elif data[:4] == b"\0\0\1\0":
        _check_ico(data)
    elif data[4:8] == b"jP  " or data[:4] == b"\xff\x4f\xff\x51":
        _check_jpeg2000(data)


def _check_tiff(data: bytes) -> None:
    """The first directory, which is the picture. Values may lie anywhere, so a megabyte of tags can name the same
    megabyte tens of thousands of times, and Pillow copies each."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (tags,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    at_most(tags, MAX_TAGS, "the tiff: tags")
    entry = struct.Struct(order + ("HHQ" if big else "HHI"))
    first, step = (start + 8, 20) if big else (start + 2, 12)
    total = 0
    sides: dict[int, int] = {}
    for number in range(tags):
        tag, kind, values = entry.unpack_from(data, first + number * step)
        total += values * _TIFF_BYTES.get(kind, 1)
        if tag in _TIFF_SIDES and kind in (3, 4):
            place = first + number * step + entry.size
            (sides[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, place)
    width, height, wide, high = (sides.get(tag, 0) for tag in _TIFF_SIDES)
    if wide * high > max(MAX_TILE, (width + 16) * (height + 16)):
        raise corrupt(f"the tiff is {width}x{height} in tiles of {wide}x{high}")
    if total > 2 * len(data) + 4096:
        raise corrupt(f"the tiff's tags take {total} bytes in a file of {len(data)}")


def _check_ico(data: bytes) -> None:
    """Every entry holds a PNG or a BMP of the size that it says: Pillow would decode whatever size is inside, when it
    opens the file. What bounds a PNG bounds one in here."""
    (icons,) = struct.unpack_from("<H", data, 4)
    at_most(icons, MAX_ICONS, "the ico: pictures")
    for number in range(icons):
        width, height = (side or 256 for side in data[6 + 16 * number : 8 + 16 * number])
        length, offset = struct.unpack_from("<II", data, 14 + 16 * number)
        if data[offset : offset + 8] == b"\x89PNG\r\n\x1a\n":
            header = read_header(data[offset : offset + length])
            inside = (header.width, header.height)
        else:
            wide, high = struct.unpack_from("<ii", data, offset + 4)
            inside = (wide, high // 2)  # the colours and, below them, the mask
        if inside != (width, height):
            raise corrupt(f"the ico says {width}x{height} and holds {inside[0]}x{inside[1]}")


def _check_jpeg2000(data: bytes) -> None:
    """The codestream (ISO/IEC 15444-1, annex A) has the size of the box before it, few components, tiles and layers."""
    said, position = None, 0
    if data[4:8] == b"jP  ":
        said, position = _boxes(data)
    if data[position : position + 4] != b"\xff\x4f\xff\x51":
        raise corrupt("the jpeg2000 has no codestream")
    right, low, left, top, wide, high, tile_left, tile_top = struct.unpack_from(">8I", data, position + 8)
    (components,) = struct.unpack_from(">H", data, position + 40)
    if said is not None and said != (right - left, low - top):
        raise corrupt(f"the jpeg2000 says {said[0]}x{said[1]} and holds {right - left}x{low - top}")
    if not wide or not high or right <= left or low <= top:
        raise corrupt("the jpeg2000 has no size")
    at_most(components, MAX_COMPONENTS, "the jpeg2000: components")
    tiles = -(-(right - tile_left) // wide) * -(-(low - tile_top) // high)
    at_most(tiles, MAX_TILES, "the jpeg2000: tiles")
    position += 2
    while (marker := data[position : position + 2]) and marker not in (b"\xff\x90", b"\xff\xd9"):  # tile, end
        if marker == b"\xff\x52":
            at_most(struct.unpack_from(">H", data, position + 6)[0], MAX_LAYERS, "the jpeg2000: layers")
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]


def _boxes(data: bytes) -> tuple[tuple[int, int], int]:
    """(width, height) of the image header box, and where the codestream begins (ISO/IEC 15444-1, annex I)."""
    said, position = None, 0
    for _ in range(MAX_BOXES):
        length, kind = struct.unpack_from(">I4s", data, position)
        header = 8
        if length == 1:
            (length,), header = struct.unpack_from(">Q", data, position + 8), 16
        if kind == b"jp2c" and said is not None:
            return said, position + header
        if kind == b"jp2h":
            length = header  # its boxes are read like the others
        elif kind == b"ihdr":
            height, width = struct.unpack_from(">II", data, position + header)
            if said is not None:
                raise corrupt("the jpeg2000 has two headers")
            said = (width, height)
        if length < header:
            break
        position += length
    raise corrupt("the jpeg2000 has no codestream after its header")
