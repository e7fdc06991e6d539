"""What is kept, what is changed, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipelines.download import pictures
from pipelines.download.config import DownloadConfig
from pipelines.download.pictures import keep
from pipelines.download.statuses import Failure
from schemas.phash import distance, perceptual_hash
from schemas.pictures import upright
from tests.pipelines.download.images import encoded, jpeg, opened, png_claiming, scene, webp_claiming

DEFAULT = DownloadConfig()


def refused(data: bytes, **options) -> str:
    with pytest.raises(Failure) as caught:
        keep(data, DownloadConfig(**options))
    return caught.value.status.value


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_plain_small_picture_keeps_its_bytes(kind):
    data = encoded(scene(), kind)
    kept = keep(data, DEFAULT)
    assert kept.data == data
    assert (kept.width, kept.height, kept.original_width, kept.original_height) == (96, 64, 96, 64)
    assert kept.mime == f"image/{kind.lower()}"


def test_without_skip_reencode_everything_is_encoded():
    data = encoded(scene(), "PNG")
    kept = keep(data, DownloadConfig(skip_reencode=False))
    assert (kept.mime, opened(kept.data).size) == ("image/jpeg", (96, 64))


def test_more_bytes_than_max_kept_bytes_are_encoded_again():
    data = encoded(scene(), "PNG")
    assert keep(data, DownloadConfig(max_kept_bytes=len(data))).data == data
    assert keep(data, DownloadConfig(max_kept_bytes=len(data) - 1)).mime == "image/jpeg"


def test_a_large_picture_is_shrunk():
    kept = keep(jpeg(3000, 2000), DEFAULT)
    assert (kept.width, kept.height) == opened(kept.data).size == (1024, 683)
    assert (kept.original_width, kept.original_height) == (3000, 2000)


@pytest.mark.parametrize(
    "data",
    [
        encoded(scene(), "GIF", save_all=True, append_images=[scene().rotate(180)]),
        encoded(scene(), "PNG", save_all=True, append_images=[scene().rotate(180)]),
        encoded(scene(), "WEBP", save_all=True, append_images=[scene().rotate(180)], quality=95),
        encoded(scene().quantize(256), "PNG"),
        encoded(scene().convert("RGBA"), "PNG"),
        encoded(scene(), "BMP"),
    ],
    ids=["gif", "apng", "animated webp", "palette", "alpha", "bmp"],
)
def test_unusual_pictures_become_their_first_frame_in_rgb(data):
    kept = keep(data, DEFAULT)
    picture = opened(kept.data)
    assert (kept.mime, picture.mode, picture.size) == ("image/jpeg", "RGB", (96, 64))
    assert getattr(picture, "n_frames", 1) == 1
    difference = np.abs(np.asarray(picture).astype(int) - np.asarray(scene()).astype(int))
    assert difference.mean() < 8


def test_cmyk_becomes_rgb():
    kept = keep(encoded(scene().convert("CMYK"), quality=95), DEFAULT)
    picture = opened(kept.data)
    assert picture.mode == "RGB"
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(scene()).astype(int)).mean() < 8


def test_sixteen_bits_become_eight_without_clipping():
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    kept = keep(encoded(Image.fromarray(ramp), "PNG"), DownloadConfig(encode_format="png", encode_quality=3))
    pixels = np.asarray(opened(kept.data).convert("L"))
    assert np.abs(pixels[0].astype(int) - (ramp[0] >> 8)).max() <= 1


def test_transparency_becomes_white():
    clear = encoded(Image.new("RGBA", (32, 32), (255, 0, 0, 0)), "PNG")
    half = encoded(Image.new("RGBA", (32, 32), (0, 0, 0, 128)), "WEBP", lossless=True)
    assert opened(keep(clear, DEFAULT).data).getpixel((5, 5)) == (255, 255, 255)
    assert opened(keep(half, DEFAULT).data).getpixel((5, 5))[0] == pytest.approx(127, abs=2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_rotation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}[orientation]  # Image.Transpose that stores it so
    stored = scene().transpose({0: 0, 3: 3, 1: 1, 5: 5, 4: 2, 6: 6, 2: 4}[turn])
    kept = keep(encoded(stored, kind, exif=exif), DEFAULT)
    picture = opened(kept.data)
    assert picture.size == (kept.width, kept.height) == (96, 64)
    assert (kept.original_width, kept.original_height) == stored.size
    assert picture.getexif().get(274, 1) == 1
    red = picture.getpixel((6, 5))
    assert red[0] > 200 and red[1] < 60, orientation


def test_upright_of_a_literal_array():
    stored = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)[..., None]
    turned = {value: upright(stored, value)[..., 0].tolist() for value in (1, 3, 6, 8)}
    assert turned == {
        1: [[1, 2, 3], [4, 5, 6]],
        3: [[6, 5, 4], [3, 2, 1]],
        6: [[4, 1], [5, 2], [6, 3]],
        8: [[3, 6], [2, 5], [1, 4]],
    }


def test_bombs_are_refused_before_decoding(monkeypatch):
    def decode(*_):
        raise AssertionError("a bomb reached the decoder")

    monkeypatch.setattr(pictures, "_keep", decode)
    assert refused(png_claiming(30_000, 30_000)) == "too_many_pixels"
    assert refused(webp_claiming(16_384, 16_384)) == "too_many_pixels"


def test_size_limits():
    assert refused(jpeg(), max_image_area=96 * 64 - 1) == "too_many_pixels"
    assert refused(jpeg(), min_image_size=65) == "too_small"
    assert refused(jpeg(), max_aspect_ratio=1.4) == "aspect_ratio"
    assert keep(jpeg(), DownloadConfig(max_image_area=96 * 64, min_image_size=64, max_aspect_ratio=1.5)).width == 96


def test_resizing_makes_nothing_gigantic(monkeypatch):
    narrow = encoded(Image.new("RGB", (1, 400)), "PNG")
    enlarge = {"image_size": 336, "resize_only_if_bigger": False}
    assert keep(narrow, DownloadConfig(resize_mode="keep_ratio_largest", **enlarge)).height == 336
    monkeypatch.setattr(pictures, "shrunk", lambda *_: pytest.fail("what is refused is not decoded"))
    assert refused(narrow, resize_mode="keep_ratio", **enlarge) == "too_many_pixels"
    assert refused(narrow, resize_mode="center_crop", **enlarge) == "too_many_pixels"
    assert refused(narrow, resize_mode="border", image_size=10_000, resize_only_if_bigger=False) == "too_many_pixels"


@pytest.mark.parametrize(("kind", "side"), [("webp", 16_384), ("jpg", 65_501)])
def test_a_side_that_the_format_cannot_hold_is_refused(kind, side):
    data = encoded(Image.new("RGB", (side, 2)), "PNG")
    options = {"resize_mode": "no", "skip_reencode": False, "encode_format": kind}
    assert refused(data, **options) == "too_many_pixels"
    assert keep(encoded(Image.new("RGB", (side - 1, 2)), "PNG"), DownloadConfig(**options)).width == side - 1


def test_a_gif_frame_beyond_its_screen_is_refused():
    data = bytearray(encoded(scene(), "GIF"))
    data[6:10] = b"\x01\x00\x01\x00"  # the screen claims 1 x 1, the frame stays 96 x 64
    assert refused(bytes(data)) == "corrupt"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_damaged_pixels_are_corrupt(kind):
    data = bytearray(encoded(scene(200, 150), kind, **({"lossless": True} if kind == "WEBP" else {})))
    middle = len(data) // 2
    data[middle : middle + 40] = b"\xaa" * 40
    assert refused(bytes(data)) == "corrupt"


@pytest.mark.parametrize("data", [jpeg(700, 500), jpeg(2000, 1500), encoded(scene().convert("P"), "PNG")])
def test_the_perceptual_hash_is_that_of_the_kept_bytes(data):
    kept = keep(data, DEFAULT)
    assert kept.phash == perceptual_hash(kept.data)


def test_the_perceptual_hash_survives_quality_and_size_and_tells_pictures_apart():
    sizes = [keep(jpeg(width, width * 2 // 3, quality=quality), DEFAULT).phash
             for width, quality in ((600, 90), (600, 40), (300, 90), (1500, 90))]  # fmt: skip
    assert max(distance(sizes[0], other) for other in sizes) <= 8
    mirrored = keep(encoded(scene(600, 400).transpose(Image.Transpose.FLIP_LEFT_RIGHT)), DEFAULT).phash
    assert distance(sizes[0], mirrored) > 16


def test_the_same_bytes_give_the_same_picture():
    data = jpeg(2000, 1500)
    assert keep(data, DEFAULT) == keep(data, DEFAULT)
