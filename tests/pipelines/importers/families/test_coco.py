"""COCO's captions and instances: joined by picture, boxes as fractions, nothing dropped without a word."""

import io

import pytest
from PIL import Image

from pipelines.importers.families.coco import Coco, CocoConfig
from pipelines.importers.families.spill import Spill, taken
from schemas.errors import InputError
from tests.families import imported, written

BY = "http://creativecommons.org/licenses/by/2.0/"
PICTURES = [
    {
        "id": 9,
        "license": 4,
        "file_name": "000000000009.jpg",
        "width": 200,
        "height": 100,
        "coco_url": "http://images.cocodataset.org/train2017/000000000009.jpg",
    },
    {
        "id": 25,
        "license": 7,
        "file_name": "000000000025.jpg",
        "width": 100,
        "height": 100,
        "coco_url": "http://images.cocodataset.org/train2017/000000000025.jpg",
    },
]
CAPTIONS = [
    {"id": 3, "image_id": 25, "caption": "A giraffe. "},
    {"id": 1, "image_id": 9, "caption": "A bowl."},
    {"id": 2, "image_id": 9, "caption": "Some food."},
]
INSTANCES = [
    {
        "id": 8,
        "image_id": 9,
        "category_id": 90,
        "bbox": [20, 10, 100.0, 50.5],
        "iscrowd": 0,
        "segmentation": [[1.0, 2]],
    },
    {"id": 7, "image_id": 9, "category_id": 1, "bbox": [0, 0, 200, 100], "iscrowd": 1, "segmentation": {"counts": []}},
]
CATEGORIES = [{"id": 1, "name": "person", "supercategory": "person"}, {"id": 90, "name": "toothbrush"}]


def coco(folder, captions=CAPTIONS, instances=INSTANCES, pictures=PICTURES, **config):
    licenses = [{"id": 4, "url": BY, "name": "Attribution License"}]
    content = {"info": {}, "images": pictures, "licenses": licenses, "annotations": captions}
    path = written(folder, "captions_train2017.json", content)
    if instances is not None:
        boxes = {"images": pictures, "annotations": instances, "categories": CATEGORIES}
        config["instances"] = written(folder, "instances_train2017.json", boxes)
    return Coco(CocoConfig(path=path, **config))


def test_captions_and_boxes_of_a_picture(tmp_path):
    made = coco(tmp_path)
    first, second = imported(made)
    assert (first["key"], first["url"]) == ("coco/train2017/000000000009.jpg", PICTURES[0]["coco_url"])
    assert first["captions"] == ["A bowl.", "Some food."]
    (box,) = first["boxes"]
    assert box["label"] == "toothbrush"
    assert [round(box[side], 6) for side in ("x0", "y0", "x1", "y1")] == [0.1, 0.1, 0.6, 0.605]
    assert (first["license"], first["source"], first["import_status"]) == (BY, "coco", "ok")
    assert (second["captions"], second["boxes"], second["license"]) == (["A giraffe."], None, None)
    assert made.notes() == ["1 crowd whose box is left out."]


def test_crowds_may_be_kept(tmp_path):
    assert [box["label"] for box in imported(coco(tmp_path, crowd=True))[0]["boxes"]] == ["toothbrush", "person"]


def test_names(tmp_path):
    old = {**PICTURES[0], "file_name": "COCO_train2014_000000000009.jpg", "coco_url": ""}
    assert imported(coco(tmp_path, pictures=[old, PICTURES[1]]))[0]["key"] == "coco/train2017/000000000009.jpg"
    keys = [row["key"] for row in imported(coco(tmp_path, names="official"))]
    assert keys == ["000000000009.jpg", "000000000025.jpg"]


def test_the_order_of_members_does_not_matter(tmp_path):
    expected = imported(coco(tmp_path, instances=None))
    content = {"annotations": CAPTIONS, "images": PICTURES, "licenses": [{"id": 4, "url": BY}]}
    path = written(tmp_path, "sorted.json", content)
    assert imported(Coco(CocoConfig(path=path))) == expected


def test_what_cannot_be_used_is_named(tmp_path):
    captions = [*CAPTIONS, {"id": 4, "image_id": 25, "caption": None}, {"id": 5, "image_id": 77, "caption": "?"}]
    instances = [
        {"id": 1, "image_id": 25, "category_id": 90, "bbox": [0, 0, 0, 9]},
        {"id": 2, "image_id": 25, "category_id": 12, "bbox": [0, 0, 9, 9]},
        {"id": 3, "image_id": 25, "category_id": 90, "bbox": [90, 90, 20, 20]},
    ]
    made = coco(
        tmp_path, captions, instances, [*PICTURES, {**PICTURES[0], "id": 30, "coco_url": "", "file_name": "x.jpg"}]
    )
    first, second, third = imported(made)
    assert first["import_status"] == "ok"
    assert (second["import_status"], len(second["boxes"]), second["captions"]) == ("bad_value", 1, ["A giraffe."])
    assert second["boxes"][0]["x1"] == 1
    assert second["import_detail"] == (
        "caption 4 is None; box 1: the box [0, 0, 0, 9] has no area in a picture of 100 x 100; "
        "box 2: there is no category 12"
    )
    assert (third["key"], third["import_status"]) == ("x.jpg", "no_url")
    assert made.notes() == [
        "1 annotation about pictures that are not listed.",
        "1 picture without a caption.",
    ]


def test_pictures_of_a_folder_are_stored(tmp_path):
    folder = tmp_path / "coco" / "train2017"
    folder.mkdir(parents=True)
    Image.new("RGB", (200, 100), "red").save(folder / "000000000009.jpg")
    first, second = imported(coco(tmp_path, images=str(tmp_path / "coco")))
    assert Image.open(io.BytesIO(first["image"]["bytes"])).size == (first["width"], first["height"]) == (200, 100)
    assert (first["import_status"], first["captions"]) == ("ok", ["A bowl.", "Some food."])
    assert (second["import_status"], second["image"]) == ("no_image", None)
    assert "is not in the image folder" in second["import_detail"]
    (folder / "000000000009.jpg").unlink()
    Image.new("RGB", (2, 1)).save(folder / "000000000001.jpg")
    with pytest.raises(InputError, match="not one of the 2 pictures"):
        coco(tmp_path, images=str(tmp_path / "coco")).slices()


@pytest.mark.parametrize(
    ("captions", "pictures", "found"),
    [
        ([{"id": 1, "image_id": 9}], PICTURES, "'caption' is missing"),
        ([{"id": 1, "caption": "a"}], PICTURES, "'image_id' is missing"),
        ([{"id": 1, "image_id": 1, "caption": "a"}], PICTURES, "annotations are about none of the 2 pictures"),
        (CAPTIONS, [PICTURES[0], PICTURES[0]], "picture 9 is listed twice"),
        (CAPTIONS, [PICTURES[0], {**PICTURES[0], "id": 25}], "two pictures have the key"),
        (CAPTIONS, [{"id": 9}], "'width' is missing"),
    ],
)
def test_other_layouts_stop_the_import(tmp_path, captions, pictures, found):
    with pytest.raises(InputError, match=found):
        coco(tmp_path, captions, None, pictures).slices()


def test_a_file_without_captions_gives_its_pictures(tmp_path):
    path = written(tmp_path, "image_info_test2017.json", {"info": {}, "images": PICTURES, "categories": CATEGORIES})
    made = Coco(CocoConfig(path=path))
    assert [row["captions"] for row in imported(made)] == [None, None]
    assert made.notes() == ["2 pictures without a caption."]


def test_captions_are_not_counted_twice(tmp_path):
    made = coco(tmp_path, instances=CAPTIONS)
    with pytest.raises(InputError, match=r"'bbox' is missing .*; expected a box, as instances_"):
        made.slices()


def test_rows_wait_in_a_file_of_this_machine(tmp_path):
    made = coco(tmp_path, rows_per_slice=1)
    parts = made.slices()
    assert [sorted(part.location) for part in parts] == [["bytes", "file", "start"]] * 2
    (later,) = Coco(made.config).rows(parts[1]).to_pylist()
    assert later["key"] == "coco/train2017/000000000025.jpg"
    made.slices()  # a second look at the source makes a file of its own, and the first one goes
    with pytest.raises(InputError, match="are not here"):
        made.rows(parts[0])


def test_rows_of_other_places_travel():
    location = Spill("gs://bucket/captions.json").put(["{}", "[1]"])
    assert taken(location) == ["{}", "[1]"]
    assert "file" not in location
