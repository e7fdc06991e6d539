"""RefCOCO, RefCOCO+ and RefCOCOg: phrases and boxes joined by id, both directions, pieces of fewer than ten turns."""

import pickle

import pytest

from pipelines.importers.families.refcoco import Refcoco, RefcocoConfig, Refcocog, RefcocoPlus, read
from schemas.errors import InputError
from tests.families import imported, talk, written

PICTURES = [
    {"id": 581857, "file_name": "COCO_train2014_000000581857.jpg", "width": 427, "height": 640},
    {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "width": 640, "height": 480},
]
ANNOTATIONS = [
    {"id": 5, "image_id": 581857, "category_id": 1, "bbox": [103.93, 299.99, 134.22, 177.42]},
    {"id": 6, "image_id": 9, "category_id": 2, "bbox": [320.0, 0.0, 320.0, 480.0]},
]


def ref(number, ann_id, image_id, phrases, split="train"):
    sentences = [
        {"sent_id": 10 * number + place, "sent": phrase, "raw": f"{phrase}!", "tokens": phrase.split()}
        for place, phrase in enumerate(phrases)
    ]
    return {
        "ref_id": number,
        "ann_id": ann_id,
        "image_id": image_id,
        "category_id": 1,
        "split": split,
        "file_name": f"COCO_train2014_{image_id:012d}_{number}.jpg",
        "sent_ids": [one["sent_id"] for one in sentences],
        "sentences": sentences,
    }


REFS = [
    ref(1, 5, 581857, ["the lady with the blue shirt", "blue shirt"]),
    ref(2, 6, 9, ["right half"]),
    ref(3, 5, 581857, ["lady"], "val"),
]


def refcoco(folder, refs=REFS, kind=Refcoco, annotations=ANNOTATIONS, pictures=PICTURES, **config):
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    content = {"info": {}, "images": pictures, "annotations": annotations, "licenses": [], "categories": []}
    written(folder, "instances.json", content)
    return kind(RefcocoConfig(path=str(folder / "refs(unc).p"), **config))


def test_described_regions(tmp_path):
    first, second = imported(refcoco(tmp_path, direction="describe"))
    assert talk(first) == [
        "<image>\nPlease provide a short description for this region: [0.33, 0.47, 0.54, 0.75].",
        "The lady with the blue shirt.",
        "Please provide a short description for this region: [0.33, 0.47, 0.54, 0.75].",
        "Blue shirt.",
    ]
    assert (first["key"], first["image_keys"]) == ("refcoco/000000581857/0", ["coco/train2017/000000581857.jpg"])
    assert (first["kind"], first["source"], first["status"]) == ("region", "refcoco", "ok")
    assert talk(second)[0].endswith("region: [0.5, 0.12, 1.0, 0.88].")


def test_located_regions(tmp_path):
    row = imported(refcoco(tmp_path, direction="locate", pad=False))[1]
    asked = "Please provide the bounding box coordinate of the region this sentence describes: right half."
    assert talk(row) == [f"<image>\n{asked}", "[0.5, 0.0, 1.0, 1.0]"]


def test_pieces_hold_fewer_than_ten_turns_and_every_phrase_once(tmp_path):
    refs = [ref(number, 6, 9, [f"thing {number} {place}" for place in range(4)]) for number in range(1, 6)]
    rows = imported(refcoco(tmp_path, refs))
    assert [row["key"] for row in rows] == [
        "refcoco/000000000009/0",
        "refcoco/000000000009/1",
        "refcoco/000000000009/2",
    ]
    assert [len(row["messages"]) // 2 for row in rows] == [9, 9, 2]
    assert all(talk(row)[0].startswith("<image>\n") for row in rows)
    said = [text.lower() for row in rows for text in talk(row)]
    for number in range(1, 6):
        for place in range(4):
            assert sum(f"thing {number} {place}." in text for text in said) == 1
    described = sum("short description" in text for text in said)
    assert 3 <= described <= 17


def test_a_direction_depends_on_key_and_seed_alone(tmp_path):
    refs = [ref(number, 6, 9, ["a", "b"]) for number in range(1, 20)]
    asked = [text for row in imported(refcoco(tmp_path, refs)) for text in talk(row)[::2]]
    fewer = [text for row in imported(refcoco(tmp_path, refs[:5])) for text in talk(row)[::2]]
    other = [text for row in imported(refcoco(tmp_path, refs, seed=1)) for text in talk(row)[::2]]
    assert asked[:10] == fewer
    assert asked != other


@pytest.mark.parametrize(("phrases", "turns"), [("all", 4), ("first", 2), ("hash", 2)])
def test_phrases_of_a_region(tmp_path, phrases, turns):
    refs = [ref(1, 5, 581857, ["a", "b", "c"]), ref(2, 5, 581857, ["d"])]
    made = refcoco(tmp_path, refs, phrases=phrases, direction="describe")
    (row,) = imported(made)
    answers = talk(row)[1::2]
    assert (len(answers), answers[-1]) == (turns, "D.")
    if phrases == "first":
        assert answers[0] == "A."
    left = [note for note in made.notes() if "further phrases" in note]
    assert left == ([] if phrases == "all" else ["2 further phrases of the same regions left out (`phrases`)."])


def test_what_has_no_box_or_no_words_is_named_and_counted(tmp_path):
    refs = [
        ref(1, 5, 581857, ["cat", " . ", "see <image>"]),
        ref(2, 77, 9, ["dog"]),
        ref(3, 5, 9, ["bird"]),
        ref(4, 6, 9, []),
        ref(5, 8, 11, ["hat"]),
    ]
    refs[0]["sentences"].append({"sent_id": 99, "sent": b"caf\xe9"})
    flat = {"id": 8, "image_id": 11, "bbox": [0, 0, 0, 5]}
    made = refcoco(tmp_path, [*refs[:4]], annotations=[*ANNOTATIONS, flat])
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs, 3))
    first, second, third = imported(made)
    assert (first["status"], len(first["messages"])) == ("ok", 2)
    assert first["detail"] == (
        "3 of 4 questions left out: its phrase is empty (11); <image> is in its text (12); its text is not UTF-8 (99)"
    )
    assert (second["status"], second["messages"]) == ("bad_question", None)
    assert second["detail"] == (
        "3 of 3 questions left out: instances.json has no annotation 77 (20); "
        "annotation 5 is about picture 581857 (30); its text is empty (ref 4)"
    )
    assert (third["status"], third["image_keys"]) == ("bad_question", [])
    assert "instances.json has no picture 11 (50)" in third["detail"]
    assert made.notes() == ["8 questions became 1 turn in 3 rows; 7 bad_question (first: 11)."]


def test_the_three_sets_differ_in_keys_and_source(tmp_path):
    keys = [imported(refcoco(tmp_path, kind=kind))[0]["key"] for kind in (Refcoco, RefcocoPlus, Refcocog)]
    assert keys == [f"{name}/000000581857/0" for name in ("refcoco", "refcoco_plus", "refcocog")]


def test_splits(tmp_path):
    made = refcoco(tmp_path, split="val", direction="describe")
    (row,) = imported(made)
    assert talk(row)[1] == "Lady."
    assert "refs of other splits left out: train (2)." in made.notes()
    with pytest.raises(InputError, match=r"no ref of the split 'trian'. Splits found: train \(2\), val \(1\)"):
        refcoco(tmp_path, split="trian").slices()


def test_a_reader_for_evaluation_keeps_pixels(tmp_path):
    refcoco(tmp_path)
    question = next(read(str(tmp_path / "refs(unc).p")))
    assert (question.id, question.text, question.picture) == (
        "10",
        REFS[0]["sentences"][0]["sent"],
        PICTURES[0]["file_name"],
    )
    assert question.facts == {
        "ref_id": 1,
        "image_id": 581857,
        "box": ANNOTATIONS[0]["bbox"],
        "width": 427,
        "height": 640,
    }


@pytest.mark.parametrize(
    ("refs", "found"),
    [
        ({"refs": []}, "a pickle of dict, expected a list of refs"),
        ([None], "ref 0: NoneType, expected a dict"),
        ([{**REFS[0], "ann_id": "5"}], "ref 0: 'ann_id' is str, expected int"),
        ([{name: value for name, value in REFS[0].items() if name != "split"}], "'split' is missing, expected str"),
        ([{**REFS[0], "sentences": [["a"]]}], "a sentence is list"),
        ([{**REFS[0], "sentences": [{"sent_id": 1}]}], "'sent' is missing"),
        ([REFS[0], REFS[0]], "the ref_id 1 appears twice"),
        ([], "no ref of the split 'train'. Splits found: none"),
        ([ref(1, 1234, 9, ["a"])], "not one of the 1 annotations that"),
    ],
)
def test_other_layouts_stop_the_import(tmp_path, refs, found):
    with pytest.raises(InputError, match=found):
        refcoco(tmp_path, refs).slices()


def test_lists_that_stand_in_many_places_do_not_unfold(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.importers.families.refcoco.MOST_PHRASES", 1000)
    sentences = [{"sent_id": 1, "sent": "a"}] * 900
    refs = [{**ref(number, 5, 581857, []), "sentences": sentences} for number in range(900)]
    with pytest.raises(InputError, match="more than 1000 phrases"):
        refcoco(tmp_path, refs).slices()


def test_instances_of_another_layout(tmp_path):
    made = refcoco(tmp_path)
    written(tmp_path, "instances.json", {"images": PICTURES})
    with pytest.raises(InputError, match=r"there is no list 'annotations'. Members found: images"):
        made.slices()
    written(tmp_path, "instances.json", {"images": [{**PICTURES[0], "width": 0}], "annotations": ANNOTATIONS})
    with pytest.raises(InputError, match="'width' is 0; expected a size in pixels"):
        made.slices()
