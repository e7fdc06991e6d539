"""Visual Genome: the folder from the address, at most ten annotations drawn by hash, a row per picture."""

import pytest

from pipelines.importers.families.visual_genome import VgQa, VgQaConfig, VgRegions, VgRegionsConfig
from schemas.errors import InputError
from tests.families import imported, talk, written

SITE = "https://cs.stanford.edu/people/rak248"
IMAGES = [
    {"width": 800, "height": 600, "url": f"{SITE}/VG_100K_2/1.jpg", "image_id": 1, "coco_id": None, "flickr_id": None},
    {"width": 1024, "height": 768, "url": f"{SITE}/VG_100K/61512.jpg", "image_id": 61512},
]
CLOCK = {
    "region_id": 1382,
    "x": 421,
    "y": 57,
    "width": 82,
    "height": 139,
    "image_id": 1,
    "phrase": "the clock is green.",
}

ONE = [{"id": 1, "regions": [CLOCK]}]


def region(number, phrase=None, **values):
    return {**CLOCK, "region_id": number, "phrase": phrase or f"phrase {number}", **values}


def regions(folder, entries, images=IMAGES, **config):
    written(folder, "image_data.json", images)
    return VgRegions(VgRegionsConfig(path=written(folder, "region_descriptions.json", entries), **config))


def qas(folder, entries, images=IMAGES, **config):
    written(folder, "image_data.json", images)
    return VgQa(VgQaConfig(path=written(folder, "question_answers.json", entries), **config))


def test_regions_in_both_directions(tmp_path):
    entries = [{"id": 1, "regions": [CLOCK]}, {"id": 61512, "regions": [region(1, "A brown, sleek horse", x=511)]}]
    first, second = imported(regions(tmp_path, entries, direction="describe"))
    asked = "<image>\nPlease provide a short description for this region: [0.53, 0.2, 0.63, 0.37]."
    assert talk(first) == [asked, "The clock is green."]
    assert (first["key"], first["image_keys"]) == ("vg_regions/1", ["vg/VG_100K_2/1.jpg"])
    assert second["image_keys"] == ["vg/VG_100K/61512.jpg"]
    located = imported(regions(tmp_path, entries, direction="locate"))[1]
    assert talk(located)[0].endswith("sentence describes: A brown, sleek horse.")


def test_ten_are_drawn_by_key_and_seed_and_keep_their_order(tmp_path):
    entries = [{"id": 1, "regions": [region(number) for number in range(100, 130)]}]
    made = regions(tmp_path, entries, direction="describe")
    (row,) = imported(made)
    answers = talk(row)[1::2]
    assert (len(answers), answers) == (10, sorted(answers))
    assert made.notes()[-1] == "20 further annotations of the same pictures not drawn (`most`)."
    assert talk(imported(regions(tmp_path, entries, direction="describe", seed=1))[0])[1::2] != answers
    assert len(talk(imported(regions(tmp_path, entries, most=100))[0])) == 60
    # Further regions displace some of those drawn, and change nothing else.
    more = [{"id": 1, "regions": [*entries[0]["regions"], region(500)]}]
    assert len(set(talk(imported(regions(tmp_path, more, direction="describe"))[0])[1::2]) & set(answers)) >= 9


def test_unusable_regions_take_no_place_among_the_ten(tmp_path):
    bad = [region(number, width=0) for number in range(40)]
    entries = [{"id": 1, "regions": [*bad, *(region(number) for number in range(100, 110))]}]
    made = regions(tmp_path, entries)
    (row,) = imported(made)
    assert (row["status"], len(row["messages"])) == ("ok", 20)
    assert "has no area in a picture of 800 x 600" in row["detail"]
    (counted,) = [note for note in made.notes() if "became" in note]
    assert "became 10 turns in 1 row" in counted


def test_pictures_without_annotations_and_unknown_ones_keep_their_row(tmp_path):
    entries = [
        {"id": 1, "regions": []},
        {"id": 5, "regions": [region(1)]},
        {"id": 61512, "regions": [{"region_id": 3}, "x", region(7, "  "), region(9, x=None)]},
    ]
    made = regions(tmp_path, entries)
    empty, unknown, odd = imported(made)
    assert [row["status"] for row in (empty, unknown, odd)] == ["no_answer", "bad_question", "bad_question"]
    assert empty["detail"].endswith("the picture has no regions (picture 1)")
    assert unknown["detail"].endswith("image_data.json has no picture 5 (1)")
    assert "is not x, y, width, height (9)" in odd["detail"]
    assert made.notes()[0].startswith("6 questions became 0 turns in 3 rows; 5 bad_question")


def test_questions_and_answers_stay_as_published(tmp_path):
    pair = {"qa_id": 986768, "image_id": 1, "question": "What color is the clock?", "answer": "Green."}
    entries = [{"id": 1, "qas": [pair, {**pair, "qa_id": 2, "answer": ""}]}]
    made = qas(tmp_path, entries)
    (row,) = imported(made)
    assert talk(row) == ["<image>\nWhat color is the clock?", "Green."]
    assert (row["key"], row["kind"], row["source"]) == ("vg_qa/1", "vqa", "vg_qa")
    assert row["detail"] == "1 of 2 questions left out: no answer (2)"


def test_the_keys_of_other_versions(tmp_path):
    entries = [{"image_id": 1, "regions": [{**CLOCK, "id": 7}]}]
    images = [{"width": 800, "height": 600, "url": f"{SITE}/VG_100K/1.jpg", "id": 1}]
    assert imported(regions(tmp_path, entries, images))[0]["image_keys"] == ["vg/VG_100K/1.jpg"]


def test_pictures_are_looked_up(tmp_path):
    (tmp_path / "pictures" / "VG_100K").mkdir(parents=True)
    (tmp_path / "pictures" / "VG_100K" / "61512.jpg").write_bytes(b"x")
    (tmp_path / "pictures" / "VG_100K" / "1.jpg").write_bytes(b"in the other folder")
    path = regions(tmp_path, [{"id": 1, "regions": [CLOCK]}, {"id": 61512, "regions": [region(1)]}]).config.path
    first, second = imported(VgRegions(VgRegionsConfig(path=path, images=str(tmp_path / "pictures"))))
    assert (first["status"], first["detail"]) == ("no_image", "1.jpg is not in the image folder")
    assert (second["status"], second["image_keys"]) == ("ok", ["VG_100K/61512.jpg"])


@pytest.mark.parametrize(
    ("entries", "images", "found"),
    [
        ([{"id": 1, "qas": []}], IMAGES, "'regions' is missing"),
        ([{"id": "1", "regions": []}], IMAGES, "expected a whole number"),
        ([{"id": 1, "regions": []}] * 2, IMAGES, "picture 1 appears twice"),
        ([[1]], IMAGES, "'id' is missing"),
        ([None], IMAGES, "expected a JSON object, found null"),
        ({"id": 1}, IMAGES, "expected a JSON list, found an object"),
        (ONE, [{**IMAGES[0], "url": f"{SITE}/other/1.jpg"}], "VG_100K/NAME or VG_100K_2/NAME"),
        (ONE, [{**IMAGES[0], "width": "800"}], "'width' is '800'; expected a whole number"),
    ],
)
def test_other_layouts_stop_the_import(tmp_path, entries, images, found):
    with pytest.raises(InputError, match=found):
        regions(tmp_path, entries, images).slices()


def test_every_annotation_for_evaluation(tmp_path):
    entries = [{"id": 1, "regions": [region(number) for number in range(30)]}]
    found = list(regions(tmp_path, entries).questions())
    assert [question.id for question in found] == [str(number) for number in range(30)]
    assert found[0].facts == {"image_id": 1, "box": [421, 57, 82, 139], "width": 800, "height": 600}


def test_slices_are_read_apart_from_one_another(tmp_path):
    entries = [{"id": 1, "regions": [CLOCK]}, {"id": 61512, "regions": [region(1), region(2)]}]
    made = regions(tmp_path, entries, rows_per_slice=1)
    first, second = made.slices()
    notes = made.notes()
    (later,) = regions(tmp_path, entries, rows_per_slice=1).rows(second).to_pylist()
    assert [later] == made.rows(second).to_pylist()
    assert (later["key"], made.notes()) == ("vg_regions/61512", notes)
    assert [part.digest for part in made.slices([1])] == [first.digest, second.digest]
