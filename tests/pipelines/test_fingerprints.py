"""A release must not make again what another one made: each step's fingerprint with given options stays as it was.

One that has to change changes here, in a commit that says why.
"""

import pyarrow as pa
import pytest

from pipelines import catalog
from pipelines.dedupe.keys import DedupeKeys
from pipelines.engine.step import Config, Step
from schemas.commit import Change, commit
from schemas.config import parse
from schemas.errors import InputError
from schemas.records import IMAGES
from schemas.store import Store
from schemas.writing import write_dataset

# As of 0.1.0 (prompts and weights of that release), but for what was changed on purpose since: `generate` reads answers
# again because of new checks, `judge` has another prompt, `caption` by labels says only what it is sure of.
WRITTEN = {
    "download": ({}, "653974935aa5e438893a1f7b24c9695d57731085ffcb3ef8aac0a456be91e6b4"),
    "download of md5 sums": (
        {"compute_hash": "md5", "verify_hash": ["m", "md5"]},
        "9d6d717e8fd9d4b8eb869c37afff9bdeea99c905f5c37577489e854ba5e821fc",
    ),
    "dedupe": ({}, "7be1ddd84bd724a79916f4f96d24da5d282d81affa3878e1780a503cbc8580d7"),
    # Of the first release that has them.
    "dedupe_text": ({}, "89672b6d0c26495164f27a247e3bad208635abe03e4d263137ed74bdbf8d5834"),
    "dedupe_semantic": ({}, "9faf5534ee8ce9d1d1e79876b747302dfe1c7121dee425ac0b8eee5c9b97315a"),
    "dedupe_joint": ({}, "f98047f857f57fe4df4268823a3d53c5a7a226e35ddbe7be7ee38063ffbd4bb5"),
    "score": ({"scorers": "resolution,length"}, "e8d2057c00127c0a470880cafec7ba20dfc05e23a937c967ac7fee464fcbfed5"),
    "caption by labels": ({"engine": "labels"}, "5602e34a96d40cbf914c01d688c6952e01e24ed2c90ecd09c02a75108d024a5c"),
    "caption by endpoint": (
        {"engine": {"name": "endpoint", "model": "m"}, "only": {"source": ["a"]}},
        "d49c6337a498cb531bd61ab2c41ebee38c268be095bcf68655d7540b9a6aec0d",
    ),
    "generate": ({"model": "m"}, "820d5110a58978329840a0e4b6794c6a6d7f991fe86a552d8d4663c08cff1722"),
    "generate with pictures": (
        {"model": "m", "kinds": ["detail_image"]},
        "478a23312d022e164edfa10f478439ff3f636f73580f41ae2bd6601bc0f3ffa5",
    ),
    "judge": ({"model": "m", "images": "images"}, "60f26c72e6e05a6079ffb6c2cfff5edb48363bec44eaafebf511fac9026566d4"),
}


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset("images", "images", [pa.Table.from_pylist([{"key": "a"}], IMAGES)], {})


def step(name, values):
    kind = catalog.step(name)
    return kind(parse(values, kind.Config, name))


@pytest.mark.parametrize("name", WRITTEN)
def test_fingerprints_stay(name, images):
    values, expected = WRITTEN[name]
    assert step(name.split()[0], values).fingerprint({"key": "f1"}) == expected


def test_the_keys_of_dedupe_stay():
    assert (
        DedupeKeys(DedupeKeys.Config()).fingerprint({"key": "f1"})
        == "ccf8d5d74bde5acb5c5a16672afb704c0016877865d6dfb258b6e9e708e34c69"
    )


def test_what_a_step_depends_on_is_no_option_and_enters_the_fingerprint(images):
    judge = step("judge", {"model": "m", "images": "images"})
    assert set(judge.dependencies) == {"prompt_hash", "images_manifest"}
    assert judge.dependencies["images_manifest"] == 1
    for field in ("prompt_hash", "images_manifest"):
        with pytest.raises(InputError, match=f"unknown key '{field}'"):
            step("judge", {"model": "m", "images": "images", field: 1})
    commit(Store("images"), Change(base=1, schema_version="images/1.0", info={"changed": True}))
    again = step("judge", {"model": "m", "images": "images"})
    assert again.fingerprint({}) != judge.fingerprint({})


def test_every_option_of_a_scorer_is_in_the_fingerprint():
    given = [
        {"name": "length"},
        {"name": "length", "column": "words"},
        {"name": "length", "text": "source"},
        {"name": "language"},
    ]
    made = [step("score", {"scorers": [one]}) for one in given]
    swapped = [
        step("score", {"scorers": [{"name": "blur", "column": one}, {"name": "entropy", "column": other}]})
        for one, other in ("ab", "ba")
    ]
    assert len({one.fingerprint({}) for one in (*made, *swapped)}) == 6


def test_a_step_of_one_class_depends_on_what_it_says():
    class Weighed(Step[Config]):
        name, version, Config, weights = "weighed", 1, Config, "a"

        def depends_on(self):
            return {"weights": self.weights}

    class Heavier(Weighed):
        weights = "b"

    assert Weighed(Config()).fingerprint({}) == Weighed(Config()).fingerprint({}) != Heavier(Config()).fingerprint({})
