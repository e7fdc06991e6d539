"""Boxes of many shapes and units, as fractions."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.importers.boxes import boxes_of
from pipelines.importers.huggingface import HuggingFace, HuggingFaceConfig
from pipelines.importers.url_list import UrlList, UrlListConfig
from pipelines.importers.webdataset import WebDataset, WebDatasetConfig
from tests.pipelines.importers.archives import all_rows, archive, png
from tests.pipelines.importers.test_huggingface_chat import write

SIZE = (200, 100)
CAT = {"label": "cat", "x0": 0.1, "y0": 0.2, "x1": 0.4, "y1": 0.6}
BARE = {**CAT, "label": None}


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        ([CAT], None, [CAT]),
        ([{"category": "cat", "bbox": [0.1, 0.2, 0.4, 0.6]}], None, [CAT]),
        ([[0.1, 0.2, 0.4, 0.6]], None, [BARE]),
        ([0.1, 0.2, 0.4, 0.6], None, [BARE]),
        ({"category": "cat", "bbox": [0.1, 0.2, 0.4, 0.6]}, None, [CAT]),
        ([{"category": "cat", "bbox": [20, 20, 60, 40]}], "xywh pixel", [CAT]),
        ([{"category_name": "cat", "bbox": [20, 20, 80, 60]}], "xyxy pixel", [CAT]),
        ([{"label": "cat", "bbox_2d": [100, 200, 400, 600]}], "xyxy thousandth", [CAT]),
        ([{"label": "cat", "box": [0.1, 0.2, 0.3, 0.4]}], "xywh fraction", [CAT]),
        ([{"label": "cat", "x0": 20, "y0": 20, "x1": 80, "y1": 60}], "xywh pixel", [CAT]),
        ([{"name": "cat", "x": 20, "y": 20, "w": 60, "h": 40}], "xyxy pixel", [CAT]),
        ([{"name": "cat", "x": 20, "y": 20, "width": 60, "height": 40}], "xywh pixel", [CAT]),
        ({"bbox": [[20, 20, 60, 40]], "category": ["cat"], "id": [1]}, "xywh pixel", [CAT]),
        ({"bbox": [[20, 20, 60, 40]]}, "xywh pixel", [BARE]),
        ({"ref": ["cat"], "bbox": [[20, 20, 80, 60]]}, None, [CAT]),
        ({"ref": ["cat"], "bbox": [[0.1, 0.2, 0.4, 0.6]], "bbox_type": "norm1"}, "xywh pixel", [CAT]),
        ({"bbox": [], "category": []}, None, None),
        ([], "xywh pixel", None),
        (None, None, None),
        ([[-0.5, 0, 200.6, 100]], "xyxy pixel", [{"label": None, "x0": 0, "y0": 0, "x1": 1, "y1": 1}]),
    ],
)
def test_boxes_that_are_read(value, unit, expected):
    found = boxes_of(value, unit, SIZE)
    assert found == expected or [{**box, **_rounded(box)} for box in found] == expected


def _rounded(box):
    return {side: round(box[side], 9) for side in ("x0", "y0", "x1", "y1")}


@pytest.mark.parametrize(
    ("value", "unit", "size", "reason"),
    [
        ([[20, 20, 80, 60]], None, SIZE, "not within the picture.*Say what the numbers are with `boxes`"),
        ([[20, 20, 80, 60]], "xyxy pixel", (None, None), "is in pixels, and the row has no width and height"),
        ([[20, 20, 280, 60]], "xyxy pixel", SIZE, "not within.*read as xyxy pixel of a picture of 200 x 100 pixels"),
        ([[0.4, 0.2, 0.1, 0.6]], None, SIZE, "is empty, or not x0, y0, x1, y1"),
        ([[20, 20, 0, 40]], "xywh pixel", SIZE, "is empty"),
        ([[0.1, 0.2, 0.4]], None, SIZE, "is not a box"),
        ([{"bbox": [0.1, None, 0.4, 0.6]}], None, SIZE, "is not a box"),
        (["cat"], None, SIZE, "is not a box"),
        ("cat", None, SIZE, "is not a list of boxes"),
        ([[0.1, float("nan"), 0.4, 0.6]], None, SIZE, "a side that is no number"),
        ([{"category_id": 17, "bbox": [0.1, 0.2, 0.4, 0.6]}], None, SIZE, "the label of a box is 17"),
        ({"bbox": [[0, 0, 1, 1]], "category": [3]}, None, SIZE, "the label of a box is 3"),
        ({"bbox": [[0, 0, 1, 1]], "category": ["a", "b"]}, None, SIZE, "1 boxes and 2 labels"),
        ({"ref": [], "bbox": [[0, 0, 1, 1]], "bbox_type": "norm1000"}, None, SIZE, "expected real or norm1"),
    ],
)
def test_boxes_that_are_refused_with_a_reason(value, unit, size, reason):
    with pytest.raises(ValueError, match=reason):
        boxes_of(value, unit, size)


@given(
    st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    st.tuples(*[st.floats(0, 1)] * 4).filter(lambda box: box[0] + 0.01 < box[2] and box[1] + 0.01 < box[3]),
)
def test_every_unit_says_the_same(size, box):
    (width, height), (x0, y0, x1, y1) = size, box
    spelled = {
        "xyxy fraction": [x0, y0, x1, y1],
        "xyxy pixel": [x0 * width, y0 * height, x1 * width, y1 * height],
        "xyxy thousandth": [side * 1000 for side in box],
        "xywh fraction": [x0, y0, x1 - x0, y1 - y0],
        "xywh pixel": [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height],
    }
    for unit, four in spelled.items():
        (found,) = boxes_of([four], unit, size)
        assert [found[side] for side in ("x0", "y0", "x1", "y1")] == pytest.approx(box, abs=1e-6)


PIXELS = [{"category": "cat", "bbox": [1, 1, 2, 1]}]
WHERE = {"label": "cat", "x0": pytest.approx(1 / 6), "y0": pytest.approx(1 / 3), "x1": 0.5, "y1": pytest.approx(2 / 3)}


def test_lists_of_urls_need_a_size_for_pixels(tmp_path):
    rows = [
        {"url": "http://x.test/1.png", "boxes": PIXELS, "width": 6, "height": 3},
        {"url": "http://x.test/2.png", "boxes": PIXELS},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sized, unsized = all_rows(UrlList(UrlListConfig(path=str(path), boxes="xywh pixel")))
    assert (sized["boxes"], sized["import_status"]) == ([WHERE], "ok")
    assert (unsized["boxes"], unsized["import_status"]) == (None, "bad_value")
    assert "the row has no width and height" in unsized["import_detail"]
    unstated = all_rows(UrlList(UrlListConfig(path=str(path))))
    assert {row["import_status"] for row in unstated} == {"bad_value"}


def test_pictures_that_are_there_give_the_size(tmp_path):
    path = write(tmp_path / "t.parquet", image=[png("red")], objects=[{"bbox": [[1, 1, 2, 1]], "category": ["cat"]}])
    config = HuggingFaceConfig(path=path, columns={"boxes": "objects"}, boxes="xywh pixel")
    assert all_rows(HuggingFace(config))[0]["boxes"] == [WHERE]
    tar = archive(tmp_path / "s.tar", [("0.png", png("red")), ("0.json", {"boxes": PIXELS})])
    assert all_rows(WebDataset(WebDatasetConfig(path=str(tar), boxes="xywh pixel")))[0]["boxes"] == [WHERE]
    (row,) = all_rows(WebDataset(WebDatasetConfig(path=str(tar))))
    assert (row["import_status"], row["boxes"], row["width"]) == ("bad_value", None, 6)
