"""Images as stored in a mix: unchanged, or upright, RGB and shrunk."""

from __future__ import annotations

import io
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile

from PIL import Image

from pipelines.mix.recipe import Pictures
from schemas.pictures import Defect, Header, PictureError, check, check_cost, open_rgb, read

Size = tuple[int, int]

LONGEST = 65_500
"""Pixels of a side that libjpeg encodes."""

SPOOLED_BYTES = 32 << 20
"""Encoded pictures of a fragment that are held in memory; what goes beyond is in a temporary file."""


def stored(content: bytes, pictures: Pictures) -> tuple[bytes, Size]:
    """The bytes to store and the (width, height) in pixels that training will see: `content` itself unless the recipe
    asks for a change.

    Raises PictureError for bytes that training cannot decode, and where it could not decode what would be stored.
    """
    header = read(content)
    too_large = pictures.max_side is not None and max(header.size) > pictures.max_side
    if pictures.format == "keep" and not too_large:
        return content, check(content).size
    image = open_rgb(content)
    if too_large:
        image.thumbnail((pictures.max_side, pictures.max_side), Image.Resampling.BICUBIC)  # type: ignore[arg-type]
    file = io.BytesIO()
    if max(image.size) > LONGEST:
        raise PictureError(Defect.too_many_pixels, f"{image.width}x{image.height}, a side of more than {LONGEST}")
    is_jpeg = pictures.format == "jpeg" or (pictures.format == "keep" and header.format == "jpeg")
    # A JPEG of 100 megapixels is decoded in 300 MB, the same as a PNG in 900.
    check_cost(Header("jpeg" if is_jpeg else "png", *image.size, plain=True))
    if is_jpeg:
        image.save(file, "JPEG", quality=pictures.quality)
    else:
        image.save(file, "PNG")
    return file.getvalue(), image.size


@dataclass(frozen=True)
class ReadyPicture:
    """A picture that can be stored: in the spool when it was encoded anew, else in row `row` of its dataset.

    size: (width, height) in pixels as stored in the mix.
    """

    row: int
    size: Size
    spooled: slice | None = None


class Spool:
    """Pictures that were encoded while rows were chosen, until the rows are written: nothing is decoded twice."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(max_size=SPOOLED_BYTES)  # noqa: SIM115 (closed by `close`)
        self._end = 0

    def put(self, content: bytes) -> slice:
        self._file.seek(self._end)
        self._file.write(content)
        start, self._end = self._end, self._end + len(content)
        return slice(start, self._end)

    def get(self, part: slice) -> bytes:
        self._file.seek(part.start)
        return self._file.read(part.stop - part.start)

    def close(self) -> None:
        self._file.close()
