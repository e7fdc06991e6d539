"""The published mixes say what they say: counts per part, as in the published files."""

import pytest

from bench.mix665k import PARTS, ROWS, rows
from lavabeam.recipes import locate, published
from pipelines.mix import load_mix

NAMES = [one.name for one in published("mixes") if not one.name.startswith("demo")]


@pytest.mark.parametrize("name", NAMES)
def test_every_published_mix_can_be_read_and_says_what_it_is(name):
    recipe = load_mix(locate(name, "mixes"))
    assert recipe.sources and recipe.max_tokens
    (one,) = [one for one in published("mixes") if one.name == name]
    assert len(one.summary) > 20


def test_the_published_mix_has_its_665298_rows_and_those_of_each_folder():
    recipe = load_mix(locate("llava-v1.5-mix665k", "mixes"))
    assert sum(source.rows or 0 for source in recipe.sources.values()) == ROWS == 665_298
    folders = {}
    for part in PARTS:
        folder = part.folder.split("/")[0] or "sharegpt"
        folders[folder] = folders.get(folder, 0) + part.rows
    assert folders == {name: source.rows for name, source in recipe.sources.items()}


def test_the_rebuilt_mix_asks_for_as_many_rows():
    recipe = load_mix(locate("llava-v1.5-mix665k-rebuilt", "mixes"))
    assert sum(source.rows or source.max_rows or 0 for source in recipe.sources.values()) == ROWS


def test_the_stand_in_has_the_oddities_of_the_published_file():
    made = list(rows(0.0005))
    ids = [row["id"] for _, row in made]
    assert len(set(ids)) < len(ids)
    assert all(isinstance(one, str) for one in ids)
    books = [row["id"] for part, row in made if part == "ocrvqa"]
    assert any(one.startswith("0") for one in books) and any(one.endswith("X") for one in books)
    choices = [row["id"] for part, row in made if part == "aokvqa"]
    assert choices[0] == choices[3] != choices[4]
    assert all("image" not in row and row["model"] == "" for part, row in made if part == "sharegpt")
    folders = {row["image"].rsplit("/", 1)[0] for part, row in made if part == "vg"}
    assert folders == {"vg/VG_100K", "vg/VG_100K_2"}
