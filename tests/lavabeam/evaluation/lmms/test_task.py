"""A written task folder: its rows, its functions, its pictures."""

import io
import json
import runpy

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from lavabeam.evaluation.custom.metrics import METRICS
from lavabeam.evaluation.lmms.task import plain_picture, write_task
from lavabeam.evaluation.question import Answered, Question
from schemas.errors import InputError
from schemas.pictures import rgb


def picture(mode="RGB", kind="PNG", **saved):
    pixels = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4)
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").convert(mode).save(buffer, kind, **saved)
    return buffer.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(kind="JPEG", exif=exif)


def ask(number=0, text="<image>\nColour?", images=1, truth=("red",)):
    return Question(str(number), text, "Colour?", ("x",) * images, f"k{number % 2}", truth)


def write(folder, questions, pictures=None):
    data = pictures or picture()
    return write_task(folder, "my set", questions, lambda question: [data] * len(question.image), 16)


class Loader(yaml.SafeLoader):
    pass


Loader.add_constructor("!function", lambda loader, node: ("function", node.value))


def test_the_folder_has_a_task_whose_rows_are_the_questions(tmp_path):
    task = write(tmp_path, [ask(0), ask(1, "<image>\nWhich?", truth=("a", "b"))])
    assert task.name == "lavabeam_my_set"
    described = yaml.load((tmp_path / "lavabeam_my_set.yaml").read_text(), Loader)
    assert described["task"] == task.name and described["test_split"] == "test"
    assert described["generation_kwargs"] == {
        "max_new_tokens": 16,
        "temperature": 0,
        "num_beams": 1,
        "do_sample": False,
    }
    assert described["doc_to_visual"] == ("function", "utils.pictures")
    assert [one["metric"] for one in described["metric_list"]] == ["exact_match"]
    (file,) = (tmp_path / "data").iterdir()
    assert described["dataset_path"] == str(file.parent) and file.name == "test-00000.parquet"
    rows = pq.read_table(file).to_pylist()
    assert [(row["id"], row["text"], row["references"], row["category"]) for row in rows] == [
        ("0", "Colour?", ["red"], "k0"),
        ("1", "Which?", ["a", "b"], "k1"),
    ]
    assert rows[0]["images"] == [{"bytes": picture(), "path": None}]


def test_the_datasets_library_decodes_the_pictures(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    write(tmp_path, [ask(images=2, text="Which?")])
    found = datasets.Dataset.from_parquet(str(tmp_path / "data" / "test-00000.parquet"), cache_dir=str(tmp_path / "c"))
    functions = runpy.run_path(str(tmp_path / "utils.py"))
    shown = functions["pictures"](found[0])
    assert [np.array_equal(np.asarray(one), rgb(picture())) for one in shown] == [True, True]
    assert functions["text"](found[0]) == "Which?"


@pytest.mark.parametrize(("text", "shown"), [("<image>\nColour?", 1), ("Colour?", 1), ("<image>\n<image>Colour?", 2)])
def test_pictures_go_beside_the_text(tmp_path, text, shown):
    write(tmp_path, [ask(text=text, images=shown)])
    assert pq.read_table(tmp_path / "data" / "test-00000.parquet")["text"].to_pylist() == ["Colour?"]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (ask(7, "Colour?", images=0), "question 7: has no picture"),
        (ask(7, "<image><image>Colour?"), "2 <image> in its text, and 1 pictures"),
        (ask(7, "In <image>, which colour?"), "a picture follows text"),
    ],
)
def test_what_it_cannot_ask_is_counted_and_refused(tmp_path, question, said):
    with pytest.raises(InputError, match=f"cannot ask 1 of 3 questions.*{said}"):
        write(tmp_path, [ask(0), question, ask(1)])
    assert not (tmp_path / "data" / "test-00000.parquet").exists()


def test_a_picture_that_is_none_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"cannot ask 2 of 2 questions.*question 0: its picture cannot be used: not_image"
    ):
        write(tmp_path, [ask(0), ask(1)], pictures=b"<html>" * 9)


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (picture(), True),
        (picture(kind="JPEG"), True),
        (picture("RGBA"), False),
        (turned(), False),
        (picture("L"), True),
    ],
)
def test_pillow_sees_the_pixels_of_our_answers(data, kept):
    made = plain_picture(data)
    with Image.open(io.BytesIO(made)) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), rgb(data))
    assert (made == data) == kept


@pytest.mark.parametrize("said", ["Red.", " red ", "blue", "", "dark  red", "red..", "."])
def test_its_exact_match_is_ours(tmp_path, said):
    write(tmp_path, [ask(truth=("red", "Dark red."))])
    results = runpy.run_path(str(tmp_path / "utils.py"))["results"]
    ours = METRICS["exact"].columns([Answered(ask(), said, ("red", "Dark red."))])[0, 0]
    assert results({"references": ["red", "Dark red."]}, [said]) == {"exact_match": ours}


def test_without_known_answers_nothing_is_called_right(tmp_path):
    write(tmp_path, [ask(0), ask(1, truth=None)])
    described = (tmp_path / "lavabeam_my_set.yaml").read_text()
    assert "metric: answered" in described and "exact_match" not in described
    results = runpy.run_path(str(tmp_path / "utils.py"))["results"]
    assert (results({"references": []}, ["red"]), results({"references": []}, [" "])) == (
        {"answered": 1.0},
        {"answered": 0.0},
    )


def test_features_are_what_the_datasets_library_writes(tmp_path):
    datasets = pytest.importorskip("datasets")
    write(tmp_path, [ask()])
    schema = pq.read_schema(tmp_path / "data" / "test-00000.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert datasets.Features.from_dict(features)["images"] == datasets.List(datasets.Image())
