"""Every user of pictures in the pipelines gives the answer of the table in tests/pictures.py."""

import base64
import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.caption.engine import Caption, Picture
from pipelines.caption.local import captions_in_batches
from pipelines.dedupe.keys import DedupeConfig, DedupeKeys
from pipelines.download.config import DownloadConfig
from pipelines.download.pictures import keep
from pipelines.download.statuses import Failure
from pipelines.importers.stored import stored_row
from pipelines.llm.answer import AnswerStatus
from pipelines.llm.pictures import sendable
from pipelines.llm.request import ChatRequest, Message
from pipelines.mix.pictures import stored
from pipelines.mix.recipe import Pictures
from pipelines.report.pictures import thumbnail
from schemas.pictures import PictureError
from schemas.records import IMAGE
from tests.pictures import BROKEN, CASES, SIZE, USABLE, Case, corners_of


def assert_right(image: Image.Image, case: Case, slack: float = 1) -> None:
    assert image.size == SIZE
    assert np.abs(corners_of(np.asarray(image.convert("RGB"))) - np.asarray(case.corners)).max() <= case.near + slack


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_import_knows_the_upright_size_or_why_there_is_no_picture(case):
    row = stored_row(case.data, "a.jpg")
    if case.defect is None:
        assert (row["import_status"], row["width"], row["height"]) == ("ok", *SIZE)
        assert row["image"] == {"bytes": case.data, "path": "a.jpg"}
        return
    assert row.keys() == {"import_status", "import_detail"}
    if not case.data:
        assert row["import_status"] == "no_image"
        return
    assert row["import_status"] == "undecodable"
    assert row["import_detail"].startswith(f"a.jpg ({len(case.data)} bytes): {case.defect}: ")


def test_dedupe_keys_have_the_upright_size_and_a_hash():
    images = pa.array([{"bytes": case.data, "path": None} for case in CASES], IMAGE)
    batch = pa.RecordBatch.from_arrays([pa.array([case.name for case in CASES]), images], names=["key", "image"])
    rows = DedupeKeys(DedupeConfig()).process(batch).to_pylist()
    for case, row in zip(CASES, rows, strict=True):
        if case.defect is None:
            found = (row["dedupe_width"], row["dedupe_height"], row["dedupe_keys_status"])
            assert found == (*SIZE, "ok"), case.name
        else:
            assert (row["dedupe_phash"], row["dedupe_keys_status"]) == (None, "undecodable"), case.name
        assert row["dedupe_sha256"]


@pytest.mark.parametrize("case", USABLE, ids=str)
def test_a_mix_stores_the_upright_picture(case):
    assert stored(case.data, Pictures()) == (case.data, SIZE)
    made, size = stored(case.data, Pictures(format="png"))
    assert (size, opened(made).format) == (SIZE, "PNG")
    assert_right(opened(made), case)
    smaller, size = stored(case.data, Pictures(format="jpeg", max_side=15))
    assert size == opened(smaller).size == (15, 10)


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_a_mix_says_what_it_cannot_read(case):
    with pytest.raises(PictureError):
        stored(case.data, Pictures(format="png"))


@pytest.mark.parametrize("case", USABLE, ids=str)
def test_an_endpoint_gets_what_providers_take_under_its_true_type(case):
    data = sendable(case.data)
    assert (data == case.data) == case.unchanged
    body = ChatRequest("p", "m", (Message("user", "u", (data,)),), 5).body()
    label, content = body["messages"][0]["content"][0]["image_url"]["url"].split(",")
    sent = opened(base64.b64decode(content))
    kind = {"MPO": "jpeg"}.get(sent.format, sent.format.lower())
    assert label == f"data:image/{kind};base64"
    assert kind in (("jpeg", "png") if case.sent == "any" else (case.sent,))
    assert getattr(sent, "n_frames", 1) == 1 or "mpo" in case.name
    assert_right(sent, case, slack=1 if kind == "png" else 6)


@pytest.mark.parametrize("case", [case for case in BROKEN if case.defect != "corrupt"], ids=str)
def test_an_endpoint_is_not_asked_about_what_cannot_be_read(case):
    if case.defect == "too_many_pixels":
        return  # as received: nothing is decoded here
    with pytest.raises(PictureError):
        sendable(case.data)


def test_a_local_model_sees_the_upright_picture():
    seen = []

    def look(pictures):
        seen.extend(one.image for one in pictures)
        return [Caption(AnswerStatus.ok, "x") for _ in pictures]

    made = list(captions_in_batches(iter([Picture(case.name, case.data) for case in CASES]), 16, look))
    assert [one.status == "ok" for one in made] == [case.defect is None for case in CASES]
    assert all(one.status == "undecodable" for one, case in zip(made, CASES, strict=True) if case.defect)
    for image, case in zip(seen, USABLE, strict=True):
        assert_right(image, case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_report_shows_the_upright_picture(case):
    shown = thumbnail({"bytes": case.data, "path": None})
    if case.defect is not None:
        assert shown is None or shown.uri is None
        return
    assert (shown.width, shown.height) == SIZE
    assert_right(opened(base64.b64decode(shown.uri.split(",")[1])), case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_download_keeps_the_upright_picture_of_the_formats_it_takes(case):
    config = DownloadConfig(encode_format="png", encode_quality=3)
    try:
        kept = keep(case.data, config)
    except Failure as failure:
        assert failure.status in (case.defect, "unsupported_format") or case.name == "ppm"
        return
    assert case.defect is None
    assert (kept.width, kept.height) == SIZE
    assert_right(opened(kept.data), case)
