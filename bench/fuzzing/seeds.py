"""Ten small pictures of each format that LavaBeam opens, of different modes, sizes and encoders' options."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, features

PER_FORMAT = 10


def seeds() -> dict[str, list[bytes]]:
    """Format -> PER_FORMAT encoded pictures. The same on every run of the same Pillow."""
    makers = {
        "jpeg": _jpegs(),
        "png": _pngs(),
        "webp": _webps(),
        "gif": _gifs(),
        "bmp": _many("BMP", ["RGB", "L", "P", "1", "RGBA"]),
        "tiff": _tiffs(),
        "ico": _many("ICO", ["RGB", "RGBA", "L", "P", "1"]),
        "ppm": _many("PPM", ["RGB", "L", "1", "I", "RGB"]),
    }
    if features.check("jpg_2000"):
        makers["jpeg2000"] = _many("JPEG2000", ["RGB", "L", "RGBA", "LA", "RGB"])
    if features.check("avif"):
        makers["avif"] = _many("AVIF", ["RGB", "RGBA", "L", "RGB", "RGBA"])
    assert all(len(made) == PER_FORMAT for made in makers.values())
    return makers


def scene(number: int, mode: str = "RGB") -> Image.Image:
    """A small picture of soft shapes and some noise, another size and look for each number."""
    rng = np.random.default_rng(number)
    width, height = 24 + 5 * (number % 7), 20 + 3 * (number % 5)
    soft = Image.fromarray(rng.integers(0, 255, (4, 5, 4), np.uint8), "RGBA").resize((width, height))
    noise = rng.integers(-9, 10, (height, width, 4))
    noisy = Image.fromarray(np.clip(np.asarray(soft) + noise, 0, 255).astype(np.uint8), "RGBA")
    if mode in ("I;16", "I", "F"):
        grey = np.asarray(noisy.convert("L"))
        return Image.fromarray(grey.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]) * 200)
    return noisy if mode == "RGBA" else noisy.convert("RGB").convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274], exif[271] = orientation, "camera"
    return exif.tobytes()


def _jpegs() -> list[bytes]:
    progressive = {"progressive": True}
    return [
        encoded(scene(0), "JPEG"),
        encoded(scene(1), "JPEG", quality=95, subsampling=0),
        encoded(scene(2), "JPEG", **progressive),
        encoded(scene(3, "L"), "JPEG"),
        encoded(scene(4, "L"), "JPEG", **progressive),
        encoded(scene(5, "CMYK"), "JPEG"),
        encoded(scene(6), "JPEG", exif=_exif(6)),
        encoded(scene(7), "JPEG", optimize=True, restart_marker_blocks=2),
        encoded(scene(8), "JPEG", keep_rgb=True),
        encoded(scene(9), "MPO", save_all=True, append_images=[scene(10)]),
    ]


def _pngs() -> list[bytes]:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("parameters", "a prompt " * 20, zip=True)
    text.add_itxt("words", "more words " * 20, zip=True)
    return [
        encoded(scene(0), "PNG"),
        encoded(scene(1, "L"), "PNG", pnginfo=text),
        encoded(scene(2, "P"), "PNG"),
        encoded(scene(3, "1"), "PNG"),
        encoded(scene(4, "RGBA"), "PNG"),
        encoded(scene(5, "LA"), "PNG"),
        encoded(scene(6, "I;16"), "PNG"),
        encoded(scene(7), "PNG", exif=_exif(8)),
        encoded(scene(8), "PNG", save_all=True, append_images=[scene(8).rotate(9)], duration=50),
        encoded(scene(9), "PNG", transparency=(0, 0, 0), icc_profile=b"profile" * 40),
    ]


def _webps() -> list[bytes]:
    lossless = {"lossless": True}
    more = {"save_all": True, "duration": 50}
    return [
        encoded(scene(0), "WEBP"),
        encoded(scene(1), "WEBP", **lossless),
        encoded(scene(2, "RGBA"), "WEBP"),
        encoded(scene(3, "RGBA"), "WEBP", **lossless),
        encoded(scene(4, "L"), "WEBP"),
        encoded(scene(5), "WEBP", exif=_exif(3)),
        encoded(scene(6), "WEBP", exif=_exif(6), icc_profile=b"profile" * 40, **lossless),
        encoded(scene(7), "WEBP", append_images=[scene(7).rotate(90)], **more),
        encoded(scene(8, "RGBA"), "WEBP", append_images=[scene(8, "RGBA").rotate(90)], **more, **lossless),
        encoded(scene(9), "WEBP", quality=10, method=6),
    ]


def _gifs() -> list[bytes]:
    more = {"save_all": True, "duration": 50}
    plain = [encoded(scene(number, mode), "GIF") for number, mode in enumerate(["RGB", "L", "P", "1", "RGBA", "P"])]
    return [
        *plain,
        encoded(scene(6), "GIF", append_images=[scene(6).rotate(9)], **more),
        encoded(scene(7, "RGBA"), "GIF", append_images=[scene(7, "RGBA").rotate(9)], disposal=2, **more),
        encoded(scene(8), "GIF", interlace=True, comment=b"a comment" * 40),
        encoded(scene(9, "P"), "GIF", transparency=3),
    ]


def _tiffs() -> list[bytes]:
    kinds = [("RGB", None), ("L", "tiff_lzw"), ("RGBA", "tiff_adobe_deflate"), ("1", "group4"), ("CMYK", None)]
    kinds += [("I;16", None), ("F", "packbits"), ("RGB", "jpeg"), ("P", "tiff_lzw"), ("LA", None)]
    return [encoded(scene(number, mode), "TIFF", compression=how) for number, (mode, how) in enumerate(kinds)]


def _many(kind: str, modes: list[str]) -> list[bytes]:
    return [encoded(scene(number, (modes * 2)[number]), kind) for number in range(PER_FORMAT)]
