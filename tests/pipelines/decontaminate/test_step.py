"""Decontaminate over small datasets with planted leaks."""

import hashlib
import json
import os

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image

from lavabeam.cli.main import app
from pipelines.decontaminate import Decontaminate, DecontaminateConfig, Settings, build_index
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from pipelines.report import write_report
from schemas import Dataset
from schemas.errors import InputError
from schemas.phash import perceptual_hash
from schemas.standing import Standing
from tests.pipelines.decontaminate.leaks import encoded, images_of, landscape, png, talks_of

QUESTION = "What is the brand of the camera on the table?"
ANSWER = "It is " + " ".join(f"word{number}" for number in range(20))


@pytest.fixture
def index(tmp_path):
    """An index of two landscapes (with embeddings) and one question with its answer."""
    vectors = (pa.list_(pa.float32()), [[1.0, 0.0, 0.0], None])
    images_of(tmp_path / "eval", {"e1": png(landscape(1)), "e2": png(landscape(2))}, vector=vectors)
    talks_of(tmp_path / "asked", {"q1": (f"{QUESTION}\nAnswer with one word.", ANSWER)})
    made, _ = build_index([("pictures", str(tmp_path / "eval"))], Settings(), "vector")
    made.write(tmp_path / "pictures.npz")
    build_index([("pictures", str(tmp_path / "eval")), ("vqa", str(tmp_path / "asked"))], Settings())[0].write(
        tmp_path / "index.npz"
    )
    return str(tmp_path / "index.npz")


def checked(path, index, workers=1, **options):
    return run_step(Decontaminate(DecontaminateConfig(index=index, **options)), path, Runner("local", workers))


def found_in(path):
    dataset = Dataset.open(path)
    rows = dataset.take(range(dataset.rows), ["key", "decontaminate_status", "leaks"])
    return {
        row["key"]: (
            row["decontaminate_status"],
            [(hit["set"], hit["row"], hit["kind"], round(hit["distance"], 3), hit["count"]) for hit in row["leaks"]],
        )
        for row in rows
    }


def test_planted_pictures_are_found_and_say_where_they_are_from(tmp_path, index):
    own = landscape(1)
    pictures = {
        "bytes": png(own),
        "resaved": encoded(own, "JPEG", quality=50),
        "halved": encoded(np.asarray(Image.fromarray(own).resize((128, 128))), "JPEG"),
        "cropped": png(own[13:, :]),
        "middle": png(own[13:-13, 13:-13]),
        "other": png(landscape(3)),
        "none": None,
        "junk": b"junk",
    }
    images_of(tmp_path / "photos", pictures)
    summary = checked(tmp_path / "photos", index)
    assert checked(tmp_path / "photos", index, 2).made == 0
    found = found_in(tmp_path / "photos")
    assert found["bytes"] == ("leaked", [("pictures", "e1", "bytes", 0, 1), ("pictures", "e1", "picture", 0, 1)])
    for key in ("resaved", "halved", "cropped", "middle"):
        status, ((where, row, kind, distance, _),) = found[key]
        assert (status, where, row, kind) == ("leaked", "pictures", "e1", "picture") and distance <= 8
    assert [found[key] for key in ("other", "none", "junk")] == [("ok", []), ("nothing_to_compare", []), ("ok", [])]
    assert (summary.statuses, summary.asked) == ({"leaked": 5, "ok": 2, "nothing_to_compare": 1}, 7)
    dataset = Dataset.open(tmp_path / "photos")
    assert Standing.of(dataset).of_fragment(dataset.fragments[0]).to_pylist() == ["leaked"] * 3
    page = write_report([tmp_path / "photos"], tmp_path / "report.html").read_text()
    assert '<td>pictures</td><td class="number">5</td><td class="number">1</td><td class="number">2</td>' in page


def test_planted_texts_are_found(tmp_path, index):
    talks = {
        "reworded": ("<image>\nwhat is the BRAND, of the camera on the table", "None."),
        "quoted": ("Hm?", "Perhaps: " + " ".join(f"Word{number}," for number in range(2, 17))),
        "other": ("What is the colour of the camera on the table?", "Black."),
        "short": ("Hm?", "Yes."),
    }
    talks_of(tmp_path / "talks", talks)
    checked(tmp_path / "talks", index)
    assert found_in(tmp_path / "talks") == {
        "reworded": ("leaked", [("vqa", "q1", "question", 0, 1)]),
        "quoted": ("leaked", [("vqa", "q1", "ngram", 0, 3)]),
        "other": ("ok", []),
        "short": ("nothing_to_compare", []),
    }
    checked(tmp_path / "talks", index, min_ngrams=4)
    assert found_in(tmp_path / "talks")["quoted"] == ("ok", [])


def test_known_hashes_are_enough(tmp_path, index):
    data = png(landscape(2))
    known = {
        "phash": [perceptual_hash(data), None, "no hash"],
        "sha256": [None, hashlib.sha256(data).hexdigest(), "5ha"],
    }
    columns = {name: (pa.string(), values) for name, values in known.items()}
    images_of(tmp_path / "photos", dict.fromkeys("abc"), **columns)
    checked(tmp_path / "photos", index)
    assert found_in(tmp_path / "photos") == {
        "a": ("leaked", [("pictures", "e2", "picture", 0, 1)]),
        "b": ("leaked", [("pictures", "e2", "bytes", 0, 1)]),
        "c": ("nothing_to_compare", []),
    }


def test_embeddings_are_compared_by_cosine(tmp_path, index):
    vectors = (pa.list_(pa.float32()), [[2.0, 0.2, 0.0], [0.0, 1.0, 0.0], None, [1.0, np.nan, 0.0]])
    images_of(tmp_path / "photos", dict.fromkeys("abcd"), vector=vectors)
    checked(tmp_path / "photos", str(tmp_path / "pictures.npz"), embedding="vector")
    assert found_in(tmp_path / "photos") == {
        "a": ("leaked", [("pictures", "e1", "embedding", 0.005, 1)]),
        "b": ("ok", []),
        "c": ("nothing_to_compare", []),
        "d": ("nothing_to_compare", []),
    }


def test_what_cannot_be_compared_is_one_message_before_any_work(tmp_path, index):
    images_of(tmp_path / "photos", {"a": png(landscape(1))}, vector=(pa.list_(pa.float32()), [[1.0, 0.0]]))
    talks_of(tmp_path / "talks", {"a": (QUESTION, "b")})
    pictures = str(tmp_path / "pictures.npz")
    wrong = [
        ("photos", index, {"kinds": ["question"]}, "no column to compare by question"),
        ("photos", pictures, {"kinds": ["ngram"]}, "no hashes of kind ngram, only bytes, picture, embedding"),
        ("talks", pictures, {}, "no column to compare by bytes, picture, embedding"),
        ("photos", pictures, {"embedding": "vector"}, "embeddings of 2 numbers, and .* has embeddings of 3 numbers"),
        ("photos", index, {"embedding": "vector"}, "embeddings of 2 numbers, and .* has no embeddings"),
        ("photos", index, {"embedding": "vectors"}, "no column 'vectors'"),
        ("photos", index, {"embedding": "key"}, "column 'key' holds string, expected lists of numbers"),
        ("photos", str(tmp_path / "gone.npz"), {}, "cannot be read"),
    ]
    for dataset, path, options, said in wrong:
        with pytest.raises(InputError, match=said):
            checked(tmp_path / dataset, path, **options)
    assert Dataset.open(tmp_path / "photos").manifest.number == 1


def test_another_index_makes_the_columns_again_and_another_place_does_not(tmp_path, index):
    images_of(tmp_path / "photos", {"a": png(landscape(1))})
    assert checked(tmp_path / "photos", index).made == 1
    os.rename(index, tmp_path / "moved.npz")
    assert checked(tmp_path / "photos", str(tmp_path / "moved.npz")).made == 0
    assert checked(tmp_path / "photos", str(tmp_path / "pictures.npz")).made == 1


def test_the_command_writes_an_index_and_says_what_is_in_it(tmp_path, index):
    words = ["decontaminate-index", str(tmp_path / "new.npz"), "--set", f"mine={tmp_path / 'asked'}", "--ngram", "5"]
    result = CliRunner().invoke(app, [*words, "--json"], standalone_mode=False)
    said = json.loads(result.output)
    assert said["settings"]["ngram"] == 5
    assert [(one["name"], one["rows"], one["questions"], one["ngrams"]) for one in said["sets"]] == [("mine", 1, 2, 24)]
    assert isinstance(
        CliRunner().invoke(app, [*words[:2], "--set", "mine"], standalone_mode=False).exception, InputError
    )
