"""A folder with metadata and conversations about it, imported and mixed: names, types and filters together."""

import json

import pytest
from PIL import Image

from pipelines.engine.imports import run_import
from pipelines.engine.runners import Runner
from pipelines.importers.image_folder import ImageFolder, ImageFolderConfig
from pipelines.importers.llava_json import LlavaJson, LlavaJsonConfig
from pipelines.mix import MixRecipe, run_mix
from schemas import Dataset
from schemas.config import parse
from schemas.errors import InputError
from tests.pipelines.tokenizer import write_tokenizer

LOCAL = Runner("local", 1)
NAMES = [".//sub/a.jpg", "sub\\b.jpg", "none.jpg"]


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "pictures"
    (pictures / "sub").mkdir(parents=True)
    for number, name in enumerate(("sub/a.jpg", "sub/b.JPG", "c.png", "d.png")):
        Image.new("RGB", (20, 10), (40 * number, 0, 0)).save(pictures / name, "PNG")
    scores = [{"file_name": "sub/a.jpg", "text": "a", "similarity": 1}]
    scores += [
        {"file_name": name, "text": "b", "similarity": score} for name, score in (("sub/b.JPG", 0.31), ("c.png", 0.25))
    ]
    (pictures / "metadata.jsonl").write_text("".join(json.dumps(one) + "\n" for one in scores))
    turns = [{"from": "human", "value": "<image>\nwhat"}, {"from": "gpt", "value": "a b"}]
    (tmp_path / "talks.json").write_text(json.dumps([{"image": name, "conversations": turns} for name in NAMES]))
    config = ImageFolderConfig(path=str(pictures), extra={"similarity": "similarity"})
    run_import(ImageFolder(config), tmp_path / "photos", LOCAL)
    run_import(LlavaJson(LlavaJsonConfig(path=str(tmp_path / "talks.json"))), tmp_path / "talks", LOCAL)
    write_tokenizer(tmp_path / "tokenizer")
    return tmp_path


def recipe(folder, **source):
    values = {"template": "chatml", "image": {"mode": "square", "image_size": 8, "patch_size": 4}}
    source = {**source, "images": str(folder / "photos")}
    return parse({**values, "tokenizer": str(folder / "tokenizer"), "sources": {"s": source}}, MixRecipe, "my.yaml")


def mixed(folder, **source):
    summary = run_mix(recipe(folder, **source), folder / "mix", LOCAL)
    dataset = Dataset.open(folder / "mix")
    return [row["key"] for row in dataset.take(range(dataset.rows), ["key"])], dict(summary.statuses)


def test_a_score_that_came_with_the_pictures_is_filtered_by_a_range(folder):
    keys, counts = mixed(folder, captions="alt_text", image_where={"similarity": {"min": 0.3}})
    assert keys == ["s/sub/a.jpg/alt_text", "s/sub/b.JPG/alt_text"]
    assert counts == {"taken": 2, "similarity below 0.3": 1, "no_caption": 1}
    _, counts = mixed(folder, captions="key", image_where={"similarity": {"min": 0.3, "max": 0.5}})
    assert counts == {"taken": 1, "similarity above 0.5": 1, "similarity below 0.3": 1, "similarity missing": 1}


def test_conversations_find_pictures_by_what_their_names_mean(folder):
    keys, counts = mixed(folder, conversations=str(folder / "talks"))
    assert (keys, counts) == (["s/000000000", "s/000000001"], {"taken": 2, "image_missing": 1})


def test_captions_have_no_conversations_to_filter(folder):
    with pytest.raises(InputError, match=r"sources.s: a source of `captions` has no .* its pictures: `image_where`"):
        recipe(folder, captions="alt_text", where={"x": [1]})
