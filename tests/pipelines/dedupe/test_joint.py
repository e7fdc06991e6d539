"""Rows that repeat another one in every way, and the policy of a mix that asks for them."""

import io

import pyarrow as pa
import pytest
from PIL import Image

from pipelines.dedupe.joint import DedupeJoint, JointConfig
from pipelines.dedupe.text import DedupeText, TextConfig
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from pipelines.mix import MixRecipe, run_mix
from schemas import Dataset
from schemas.config import parse
from schemas.errors import InputError
from schemas.records import IMAGES, STORED_IMAGE
from schemas.writing import write_dataset
from tests.pipelines.tokenizer import write_tokenizer

LOCAL = Runner("local", 1)

# key, picture's cluster, its status, caption: a and b are the same in both ways, c has another picture, d another text.
ROWS = [
    ("a", "p1", "ok", "a red bus"),
    ("b", "p1", "near_copy", "A red bus!"),
    ("c", "p2", "ok", "a red bus"),
    ("d", "p1", "copy", "two dogs on a beach"),
    ("e", None, "no_image", "a red bus"),
    ("f", "p1", "near_copy", "two dogs on a beach"),
]


def picture():
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "teal").save(buffer, "PNG")
    return {"bytes": buffer.getvalue()}


@pytest.fixture
def photos(tmp_path):
    text = [pa.field(name, pa.string()) for name in ("cluster", "dedupe_status")]
    schema = pa.schema([*IMAGES, *STORED_IMAGE, *text])
    values = [
        {"key": key, "cluster": cluster, "dedupe_status": status, "alt_text": words}
        | ({"image": picture(), "width": 20, "height": 10} if cluster else {})
        for key, cluster, status, words in ROWS
    ]
    write_tokenizer(tmp_path / "tokenizer")
    write_dataset(tmp_path / "photos", "images", [pa.Table.from_pylist(values, schema)])
    return str(tmp_path / "photos")


def mixed(photos, tmp_path, policy):
    source = {"captions": "alt_text", "images": photos, "duplicates": policy}
    image = {"mode": "square", "image_size": 8, "patch_size": 4}
    values = {"sources": {"web": source}, "tokenizer": str(tmp_path / "tokenizer"), "template": "plain", "image": image}
    run_mix(parse(values, MixRecipe, "recipe"), tmp_path / policy, LOCAL)
    return sorted(row["key"].split("/")[1] for row in Dataset.open(tmp_path / policy))


def test_a_row_repeats_only_what_is_the_same_in_every_way(photos, tmp_path):
    with pytest.raises(InputError, match=r"has no column 'text_cluster'\. Run `lavabeam dedupe_text`"):
        run_step(DedupeJoint(JointConfig()), photos, LOCAL)
    with pytest.raises(InputError, match="`duplicates: joint` asks for the verdicts of dedupe_joint"):
        mixed(photos, tmp_path, "joint")
    run_step(DedupeText(TextConfig()), photos, LOCAL)
    run_step(DedupeJoint(JointConfig()), photos, LOCAL)
    columns = ["dedupe_text_status", "dedupe_joint_status", "joint_duplicate_of", "joint_size"]
    found = {row["key"]: tuple(row[name] for name in columns) for row in Dataset.open(photos)}
    assert found == {
        "a": ("ok", "ok", None, 2),
        "b": ("copy", "repeated", "a", 2),
        "c": ("copy", "ok", None, 1),
        "d": ("ok", "ok", None, 2),
        "e": ("copy", "no_cluster", None, None),
        "f": ("copy", "repeated", "d", 2),
    }
    assert mixed(photos, tmp_path, "keep") == ["a", "b", "c", "d", "f"]
    assert mixed(photos, tmp_path, "joint") == ["a", "c", "d"]
    assert mixed(photos, tmp_path, "drop") == ["a"]


def test_one_cluster_alone_is_refused():
    with pytest.raises(InputError, match="fewer than two columns"):
        parse({"clusters": ["cluster", "cluster"]}, JointConfig, "lavabeam dedupe_joint")
