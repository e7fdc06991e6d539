"""What first bytes say, and that nothing is allocated to find out."""

from __future__ import annotations

import io
import resource
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from schemas.jpegheader import without_metadata
from schemas.pictureheader import PictureError, check_magic, exif_orientation, read_header
from schemas.pictures import check
from tests.pipelines.download.images import encoded, jpeg, png_claiming, scene, webp_claiming


def failure(data: bytes) -> tuple[str, str]:
    with pytest.raises(PictureError) as caught:
        read_header(data)
    return caught.value.defect.value, caught.value.detail


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True})],
)
def test_plain_pictures(kind, options):
    header = read_header(encoded(scene(97, 61), kind, **options))
    assert (header.format, header.width, header.height, header.plain) == (kind.lower(), 97, 61, True)


def png_chunks(count: int, chunk: bytes = b"\0\0\0\0abCd\x6d\x8b\x79\x0f") -> bytes:
    data = encoded(scene(16, 16), "PNG")
    return data[:33] + chunk * count + data[33:]


def bmp_claiming(width: int, height: int) -> bytes:
    data = bytearray(encoded(scene(16, 16), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def animation(kind: str) -> bytes:
    return encoded(scene(), kind, save_all=True, append_images=[scene().rotate(90)], duration=50)


@pytest.mark.parametrize(
    ("data", "trait"),
    [
        (animation("WEBP"), "animated"),
        (animation("PNG"), "animated"),
        (animation("GIF"), "palette"),
        (encoded(scene().convert("CMYK")), "cmyk"),
        (encoded(scene().convert("P"), "PNG"), "palette"),
        (encoded(scene().convert("RGBA"), "PNG"), "alpha"),
        (encoded(scene().convert("LA"), "PNG"), "alpha"),
        (encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 4)), "WEBP"), "alpha"),
        (encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 4)), "WEBP", lossless=True), "alpha"),
        (encoded(scene(), "PNG", transparency=(0, 0, 0)), "alpha"),
        (encoded(Image.fromarray(np.zeros((9, 9), np.uint16)), "PNG"), "16-bit"),
    ],
)
def test_pictures_that_are_not_plain(data, trait):
    header = read_header(data)
    assert trait in header.traits
    assert not header.plain


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_of_every_format(kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    header = read_header(encoded(scene(), kind, exif=exif))
    assert header.orientation == orientation
    assert header.plain == (orientation == 1)


def test_broken_exif_counts_as_upright():
    assert exif_orientation(b"II*\0\xff\xff\xff\xff") == 1
    assert exif_orientation(b"") == 1
    assert exif_orientation(b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0") == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_cut_files_are_truncated(kind, share):
    data = encoded(scene(300, 200), kind)
    assert failure(data[: int(len(data) * share)])[0] == "truncated"


def test_stray_bytes_between_the_segments_of_a_jpeg_are_passed_over_as_decoders_do():
    data = jpeg(97, 61)
    frame = data.index(b"\xff\xc0")
    for stray in (b"\0\0", b"junk", b"\xff\xff\xff", b"\xff\0\xff"):
        header = read_header(data[:frame] + stray + data[frame:])
        assert (header.width, header.height, header.plain) == (97, 61, True)


def test_a_gif_ends_with_its_trailer_whatever_follows():
    data = animation("GIF")
    assert read_header(data + b"<!-- served by -->" * 9).width == 96
    assert failure(data[:-1])[0] == "truncated"
    # A cut whose last bytes happen to hold the trailer's value.
    assert failure(data[: len(data) // 2] + b";" * 16)[0] in ("truncated", "corrupt")


def test_a_jpeg_with_a_thumbnail_is_still_noticed_when_cut():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + jpeg(16, 16)
    data = encoded(scene(300, 200), "JPEG", exif=exif)
    assert read_header(data).width == 300
    assert failure(data[:-200]) == ("truncated", "the jpeg ends before its end mark")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"<!DOCTYPE html><html>nope</html>", ("not_image", "HTML")),
        (b"  \n<html><body>x</body>", ("not_image", "HTML")),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ("unsupported_format", "SVG")),
        (b"<?xml version='1.0'?><svg xmlns='x'/>", ("unsupported_format", "SVG")),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", ("not_image", "XML")),
        (b"\0\0\0\x20ftypavif........", ("unsupported_format", "AVIF")),
        (b"\0\0\0\x20ftypheic........", ("unsupported_format", "HEIF or video")),
        (b"8BPS\0\1............", ("unsupported_format", "PSD")),
        (b'{"error": "no such image"}', ("not_image", "unknown first bytes")),
        (b"\xff\xd8\xff", ("truncated", "the jpeg ends inside its structure")),
        (b"\xff\xd8\xff\xda\0\2\xff\xd9", ("corrupt", "the jpeg has no frame before its scan")),
    ],
)
def test_what_is_no_picture(data, expected):
    assert failure(data) == expected


def test_sizes_of_bombs_are_read_without_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_header(png_claiming(30_000, 30_000)).width == 30_000
    assert read_header(webp_claiming(16_384, 16_384)).height == 16_384
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def jpeg_segments(count: int, kind: bytes = b"\xff\xe5\0\2") -> bytes:
    data = jpeg(16, 16)
    return data[:2] + kind * count + data[2:]


def gif_with(block: bytes) -> bytes:
    data = encoded(scene(16, 16), "GIF")
    end = 13 + 3 * 256
    assert data[end : end + 1] in (b"!", b",")
    return data[:end] + block + data[end:]


def webp_chunks(count: int) -> bytes:
    data = encoded(scene(16, 16), "WEBP", exif=b"Exif\0\0MM\0*")
    body = data[12:] + b"abcd\0\0\0\0" * count
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (jpeg_segments(10_001), "the jpeg has more than 10000 segments before its first scan"),
        (jpeg_segments(1, b"\xff\xd8"), "the jpeg begins twice"),
        (png_chunks(50_001), "the png has more than 50000 chunks"),
        (png_chunks(11, b"\0\0\0\4iCCPa\0\0a\x3c\xfe\xb1\x4b"), "the png has more than 10 colour profiles"),
        (webp_chunks(50_001), "the webp has more than 50000 chunks"),
        (gif_with(b"!\xfe" + (b"\xff" + bytes(255)) * 1100 + b"\0"), "the gif has more than 262144 bytes of comments"),
        (gif_with(b"!\xff" + b"\1\0" * 1_000_000 + b"\0"), "the gif has more than 1000000 blocks"),
        (b"GIF89a\x10\0\x10\0\0\0\0;", "the gif has no frame"),
    ],
    ids=[
        "jpeg segments",
        "jpeg starts",
        "png chunks",
        "png profiles",
        "webp chunks",
        "gif comments",
        "gif blocks",
        "gif frames",
    ],
)
def test_structure_is_bounded_before_a_decoder_sees_it(data, detail):
    assert failure(data) == ("corrupt", detail)


@pytest.mark.parametrize("data", [png_claiming(5000, 5000), bmp_claiming(5000, 5000)], ids=["png", "bmp"])
def test_what_cannot_hold_its_pixels_is_not_decoded(data, monkeypatch):
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("it was opened"))
    assert read_header(data).width == 5000
    with pytest.raises(PictureError, match=r"truncated: the \w+ holds \d+ bytes of data for \d+ of pixels"):
        check(data)


def test_a_canvas_that_takes_more_memory_than_there_is_for_decoding_is_refused():
    """5 KB of WebP, whose animation has a canvas of 16,000 x 6,000 pixels: 1.8 GB."""
    data = bytearray(animation("WEBP"))
    data[24:30] = (15_999).to_bytes(3, "little") + (5_999).to_bytes(3, "little")
    with pytest.raises(PictureError, match="too_many_pixels: 16000x6000, 1831 MB to decode as webp"):
        check(bytes(data))
    data[24:30] = (1_048_599).to_bytes(3, "little") + (25).to_bytes(3, "little")
    assert failure(bytes(data))[1].startswith("the webp's canvas is 1048600x26, and its frames are at most 16384")


def test_segments_that_say_nothing_of_pixels_are_left_out():
    exif = Image.Exif()
    exif[274] = 6
    data = encoded(scene(40, 30).convert("CMYK"), "JPEG", exif=exif, icc_profile=b"x" * 999, comment=b"y" * 99)
    bare = without_metadata(data)
    assert b"Exif" not in bare
    assert b"ICC_PROFILE" not in bare
    assert b"Adobe" in bare
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(bare))), np.asarray(Image.open(io.BytesIO(data))))


@given(st.binary(max_size=300), st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP"]), st.integers(0, 400))
def test_damaged_headers_never_raise_anything_else(noise, kind, position):
    data = encoded(scene(20, 10), kind)
    damaged = data[:position] + noise + data[position + len(noise) :]
    try:
        assert read_header(damaged).width >= 0
    except PictureError as caught:
        assert caught.defect in ("not_image", "unsupported_format", "truncated", "corrupt")


def test_magic_of_every_taken_format():
    kinds = ["JPEG", "PNG", "GIF", "BMP", "WEBP"]
    assert [check_magic(encoded(scene(), kind)) for kind in kinds] == [kind.lower() for kind in kinds]
