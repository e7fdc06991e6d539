"""Decoding and batching for models of our own; failures stay alone."""

import io

import pytest
from PIL import Image

from pipelines.caption.engine import Caption, CaptionStatus, Picture
from pipelines.caption.local import captions_in_batches
from pipelines.llm.answer import AnswerStatus
from pipelines.models.loading import weights_version


def picture(color, size=(4, 3), **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, options.pop("format", "PNG"), **options)
    return Picture(color, buffer.getvalue())


def name_colors(pictures):
    """A model that fails on black pictures, and takes its batch down with it."""
    colors = [opened.image.getpixel((0, 0)) for opened in pictures]
    if (0, 0, 0) in colors:
        raise RuntimeError("too dark at <Image object at 0x7f00>")
    return [Caption(AnswerStatus.ok, str(color)) for color in colors]


def test_one_caption_per_picture_and_failures_alone():
    pictures = [picture("red"), Picture("junk", b"no picture"), picture("black"), picture("lime")]
    found = list(captions_in_batches(iter(pictures), 3, name_colors))
    assert [caption.status for caption in found] == ["ok", "undecodable", "failed", "ok"]
    assert (found[0].text, found[3].text) == ("(255, 0, 0)", "(0, 255, 0)")
    assert found[2].detail == "RuntimeError: too dark at the bytes"


def test_details_hold_no_memory_address():
    found = [next(captions_in_batches(iter([Picture("k", b"junk")]), 1, name_colors)) for _ in range(2)]
    assert found[0] == found[1]
    assert "0x" not in found[0].detail


def test_a_cut_file_is_undecodable():
    whole = picture("red", (64, 64), format="JPEG")
    found = list(captions_in_batches(iter([Picture("cut", whole.data[:300])]), 4, name_colors))
    assert found[0].status == CaptionStatus.undecodable


def test_pictures_arrive_as_rgb_and_upright():
    seen = []

    def look(pictures):
        seen.extend((opened.image.mode, opened.image.size) for opened in pictures)
        return [Caption(AnswerStatus.ok, "x") for _ in pictures]

    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter (TIFF 6.0, Orientation)
    grey = io.BytesIO()
    Image.new("L", (5, 2)).save(grey, "PNG")
    pictures = [picture("red", (4, 3), format="JPEG", exif=exif), Picture("grey", grey.getvalue())]
    list(captions_in_batches(iter(pictures), 2, look))
    assert seen == [("RGB", (3, 4)), ("RGB", (5, 2))]


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (2, [2]), (5, [2, 2, 1])])
def test_batches_are_no_larger_than_asked(count, sizes):
    seen = []

    def look(pictures):
        seen.append(len(pictures))
        return [Caption(AnswerStatus.ok, "x") for _ in pictures]

    assert len(list(captions_in_batches(iter([picture("red")] * count), 2, look))) == count
    assert seen == sizes


def test_weights_version_follows_content_and_names(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("about")
    first = weights_version(tmp_path)
    (tmp_path / "README.md").write_text("more about")
    assert weights_version(tmp_path) == first
    (tmp_path / "model.bin").write_bytes(b"other weights")
    assert weights_version(tmp_path) != first
    assert len(first) == 12
