"""Pictures and conversations of one file, imported apart, meet again in a mix."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.engine.imports import run_import
from pipelines.engine.runners import Runner
from pipelines.importers.huggingface import HuggingFace
from pipelines.importers.huggingface_chat import HuggingFaceChat
from pipelines.importers.webdataset import WebDataset
from pipelines.importers.webdataset_chat import WebDatasetChat
from pipelines.mix.recipe import MixRecipe, MixSource
from pipelines.mix.run import run_mix
from schemas.dataset import Dataset
from tests.pipelines.importers.archives import archive, png
from tests.pipelines.tokenizer import write_tokenizer

LOCAL = Runner("local", 1)
ASKED = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It."}]
TEXT = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi."}]


def parquet(path, width):
    """A file whose second row is text."""
    images = [{"bytes": png("red", width), "path": None}, None, {"bytes": png("red", width + 1), "path": None}]
    pq.write_table(pa.table({"id": ["x"] * 3, "image": images, "conversations": [ASKED, TEXT, ASKED]}), path)


def tar(path, width):
    """An archive whose second sample is text."""
    pictures = [("0.png", png("red", width)), ("2.png", png("red", width + 1))]
    talks = [("0.json", {"conversations": ASKED}), ("1.json", {"conversations": TEXT})]
    archive(path, [pictures[0], *talks, pictures[1], ("2.json", ASKED)])


@pytest.mark.parametrize(
    ("write", "ending", "photos", "talks"),
    [(parquet, "parquet", HuggingFace, HuggingFaceChat), (tar, "tar", WebDataset, WebDatasetChat)],
)
def test_each_conversation_shows_its_own_picture(tmp_path, write, ending, photos, talks):
    """The two files are imported in opposite orders."""
    paths = {width: str(tmp_path / f"w{width}.{ending}") for width in (10, 20)}
    for width, path in paths.items():
        write(path, width)
    for kind, target, order in ((photos, "photos", (10, 20)), (talks, "talks", (20, 10))):
        for number, width in enumerate(order):
            importer = kind(kind.Config(path=paths[width]))
            run_import(importer, tmp_path / target, LOCAL, "append" if number else "refuse")
    write_tokenizer(tmp_path / "tokenizer")
    recipe = MixRecipe(
        sources={"s": MixSource(conversations=str(tmp_path / "talks"), images=str(tmp_path / "photos"))},
        template="chatml",
        image={"mode": "square", "image_size": 8, "patch_size": 4},
        tokenizer=str(tmp_path / "tokenizer"),
    )
    assert run_mix(recipe, tmp_path / "mix", LOCAL).statuses == {"taken": 6}
    batches = Dataset.open(tmp_path / "mix").batches(["key", "widths"], 10)
    shown = {row["key"]: row["widths"] for batch in batches for row in batch.to_pylist()}
    places = [(re.search(r"w(\d+)/0*(\d)(/x)?$", key), widths) for key, widths in shown.items()]
    assert sorted((int(place[1]), int(place[2]), widths) for place, widths in places) == [
        (10, 0, [10]),
        (10, 1, []),
        (10, 2, [11]),
        (20, 0, [20]),
        (20, 1, []),
        (20, 2, [21]),
    ]
