"""TIFF, ICO and JPEG 2000 whose structure asks for more than their size: refused before Pillow follows it."""

import struct

import numpy as np
import pytest
from PIL import features

from schemas.otherformats import check_structure
from schemas.pictures import PictureError, check
from tests.pictures import COLOURS, colour, encoded, quadrants


def tiff(tags: int, values: int, order: str = "<") -> bytes:
    """A directory of `tags`, each of `values` bytes that all lie at the start of the file."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    entries = b"".join(struct.pack(order + "HHII", 1000 + number, 1, values, 0) for number in range(tags))
    return head + struct.pack(order + "H", tags) + entries + bytes(2000)


def refused(data: bytes) -> str:
    with pytest.raises(PictureError) as caught:
        check(data)
    return str(caught.value)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tags_of_a_tiff_that_name_the_same_bytes_again_and_again(order):
    assert refused(tiff(500, 5000, order)) == "corrupt: the tiff's tags take 2500000 bytes in a file of 8010"
    assert refused(tiff(1001, 1, order)) == "corrupt: the tiff has more than 1000 tags"
    check_structure(encoded(colour(), "TIFF", compression="tiff_lzw"))


def test_a_tile_that_is_much_larger_than_its_picture():
    sides = ((256, 8), (257, 8), (322, 16384), (323, 16384))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, side) for tag, side in sides)
    data = b"II*\0" + struct.pack("<IH", 8, len(sides)) + entries + bytes(4)
    assert refused(data) == "corrupt: the tiff is 8x8 in tiles of 16384x16384"


def test_an_icon_of_another_size_than_it_says():
    for options in ({}, {"bitmap_format": "bmp"}):
        data = bytearray(encoded(colour(), "ICO", sizes=[(30, 20)], **options))
        check(bytes(data))
        data[6:8] = bytes([16, 16])
        assert refused(bytes(data)) == "corrupt: the ico says 16x16 and holds 30x20"
    data[4:6] = struct.pack("<H", 101)
    assert refused(bytes(data)) == "corrupt: the ico has more than 100 pictures"


def test_an_icon_whose_png_has_two_headers():
    picture = encoded(colour(), "PNG")
    twice = picture[:33] + picture[8:]
    entry = struct.pack("<4BHHII", 30, 20, 0, 0, 1, 32, len(twice), 22)
    detail = "corrupt: the png's header is not its first chunk, or not its only one"
    assert refused(b"\0\0\1\0\1\0" + entry + twice) == detail


needs_openjpeg = pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")


def jpeg2000(place: int, content: bytes, **options) -> bytes:
    """A JPEG 2000 with `content` in its SIZ marker's segment, `place` bytes after the marker."""
    data = bytearray(encoded(colour(), "JPEG2000", **options))
    start = data.index(b"\xff\x4f\xff\x51") + 2 + place
    data[start : start + len(content)] = content
    return bytes(data)


@needs_openjpeg
@pytest.mark.parametrize(
    ("place", "content", "detail"),
    [
        (6, struct.pack(">II", 13000, 13000), "the jpeg2000 says 30x20 and holds 13000x13000"),
        (22, struct.pack(">II", 0, 1), "the jpeg2000 has no size"),
        (38, struct.pack(">H", 16384), "the jpeg2000 has more than 4 components"),
    ],
)
def test_a_codestream_of_another_size_than_its_box(place, content, detail):
    assert refused(jpeg2000(place, content)) == f"corrupt: {detail}"


@needs_openjpeg
def test_tiles_and_layers_of_a_jpeg_2000_are_bounded():
    check(encoded(colour(), "JPEG2000", tile_size=(8, 8)))
    large = np.kron(quadrants(COLOURS), np.ones((5, 5, 1), np.uint8))
    data = bytearray(encoded(large, "JPEG2000"))
    start = data.index(b"\xff\x51") + 22
    data[start : start + 8] = struct.pack(">II", 1, 2)
    assert refused(bytes(data)) == "corrupt: the jpeg2000 has more than 4096 tiles"
    data = bytearray(encoded(colour(), "JPEG2000"))
    start = data.index(b"\xff\x52") + 6
    data[start : start + 2] = struct.pack(">H", 65535)
    assert refused(bytes(data)) == "corrupt: the jpeg2000 has more than 200 layers"
