"""Mixes that cut, split, merge and hold back rows; and their locks."""

from collections import Counter

import pyarrow as pa
import pytest

from pipelines.engine.runners import Runner
from pipelines.engine.step import Context
from pipelines.mix import MixRecipe, MixSource, load_mix, preview_mix, read_lock, run_mix
from pipelines.mix.maker import MixMaker
from pipelines.mix.run import mix_work, plan_mix
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset
from tests.pipelines.test_mix import RULE, image_row, samples_of, talk
from tests.pipelines.tokenizer import write_tokenizer

LOCAL = Runner("local", 1)


def long_talk(key: str, picture: str | None, rounds: list[str]) -> dict:
    row = talk(key, picture, rounds[0])
    for words in rounds[1:]:
        row["messages"] += talk("", None, words)["messages"]
    return row


@pytest.fixture
def folder(tmp_path):
    schema = pa.schema([*BASE["images"], *STORED_IMAGE, ("download_status", pa.string())])
    images = [{k: v for k, v in image_row(n).items() if k in schema.names} for n in range(4)]
    images[3]["image"] = {"bytes": b"not a picture", "path": None}
    write_dataset(tmp_path / "photos", "images", [pa.Table.from_pylist(images, schema)])
    write_tokenizer(tmp_path / "tokenizer")
    return tmp_path


def recipe_of(folder, rows: list[dict], per_fragment: int = 100, **more) -> MixRecipe:
    """A recipe of one source `s`, whose dataset is written where it is not there yet."""
    if not Dataset.exists(folder / "talks"):
        parts = [rows[start : start + per_fragment] for start in range(0, len(rows), per_fragment)]
        tables = [pa.Table.from_pylist(part, BASE["conversations"]) for part in parts]
        write_dataset(folder / "talks", "conversations", tables)
    source = {"conversations": str(folder / "talks"), "images": str(folder / "photos"), **more.pop("source", {})}
    values = {"template": "chatml", "image": RULE, "tokenizer": str(folder / "tokenizer"), **more}
    return MixRecipe(sources={"s": MixSource(**source)}, **values)


def made(folder, rows: list[dict], *given, **more) -> tuple[dict[str, int], dict[str, dict]]:
    """(counts, rows by key) that a mix of one source makes, without a pipeline."""
    planned = plan_mix(recipe_of(folder, rows, *given, **more))
    versions = {path: dataset.manifest.number for path, dataset in planned.opened.items()}
    maker, work = MixMaker(planned.recipe, "nowhere", versions), mix_work(planned, str(folder / "none"))
    maker.setup(Context(run="r", dataset="d"))
    counts, found = Counter(), []
    for task in work.tasks:
        some, batches = maker.open(task)
        counts.update(some)
        found += [row for batch in batches for row in batch.to_pylist()]
    assert sum(count for status, count in counts.items() if status.startswith("taken")) == len(found)
    by_key = {row["key"].removeprefix("s/"): row for row in found}
    assert len(by_key) == len(found)
    return dict(counts), by_key


def mixed(folder, rows: list[dict], *given, name: str = "mix", lock=None, **more):
    """(summary, rows by key) of a mix of one source that is run and written."""
    summary = run_mix(recipe_of(folder, rows, *given, **more), folder / name, LOCAL, lock)
    dataset = Dataset.open(folder / name)
    return summary, {row["key"].removeprefix("s/"): row for row in dataset.take(range(dataset.rows))}


def answers(row: dict) -> list[str]:
    return [one["content"][0]["text"] for one in row["messages"] if one["role"] == "assistant"]


LONG = [long_talk("long", "p0", ["a" * 20, "b" * 20, "c" * 500, "d" * 20]), talk("short", "p1")]


def test_a_row_that_is_too_long_is_left_out_cut_split_or_refused(folder):
    counts, rows = made(folder, LONG, max_tokens=200)
    assert (counts, list(rows)) == ({"taken": 1, "too_long": 1}, ["short"])
    counts, rows = made(folder, LONG, max_tokens=200, too_long="cut")
    assert counts == {"taken": 1, "taken_long": 1}
    assert rows["long"]["tokens"] > 200
    counts, rows = made(folder, LONG, max_tokens=200, too_long="split")
    assert counts == {"taken": 1, "taken_in_parts": 2, "too_long": 1}
    assert [answers(rows[key]) for key in ("long#p1", "long#p2")] == [["a" * 20, "b" * 20], ["d" * 20]]
    assert all(row["tokens"] <= 200 and row["image_count"] == 1 for row in rows.values())
    with pytest.raises(InputError, match=r"source 's', row 'long': more than 200 tokens, .*`too_long: refuse`"):
        made(folder, LONG, max_tokens=200, too_long="refuse")


def test_a_row_of_which_no_answer_is_left_in_front_is_not_taken(folder):
    rows = [*LONG, long_talk("hidden", "p0", ["", "a"])]
    rows[-1]["messages"][0]["content"][1]["text"] = "q" * 300
    counts, _ = made(folder, rows, max_tokens=200, too_long="cut")
    assert counts == {"taken": 1, "taken_long": 1, "nothing_to_learn": 1}


def test_rows_of_one_picture_are_merged_across_fragments(folder):
    rows = [talk(f"k{n}", f"p{n % 2}", f"answer {n}") for n in range(6)] + [talk("text", None), talk("lost", "nowhere")]
    summary, found = mixed(folder, rows, 2, source={"turns": "merged"})
    assert summary.statuses == {"taken": 3, "merged": 4, "image_missing": 1}
    assert answers(found["k0"]) == ["answer 0", "answer 2", "answer 4"]
    assert answers(found["k1"]) == ["answer 1", "answer 3", "answer 5"]
    assert found["k0"]["image_count"] == 1
    again, _ = mixed(folder, rows, 2, source={"turns": "merged"})
    assert again.made == 0


def test_a_row_per_question(folder):
    counts, found = made(folder, [long_talk("k", "p0", ["x", "y"])], source={"turns": "one", "weight": 2})
    assert list(found) == ["k#t1", "k#t2", "k#t1#2", "k#t2#2"]
    assert [row["image_count"] for row in found.values()] == [1, 1, 1, 1]
    assert counts == {"taken": 4}


def test_a_row_whose_pictures_do_not_fit_is_not_taken_apart(folder):
    row = {**long_talk("k", "p0", ["x", "y"]), "image_keys": ["p0", "p1"]}
    counts, _ = made(folder, [row], source={"turns": "one"})
    assert counts == {"cannot_encode": 1}


def test_a_picture_that_cannot_be_used_leaves_out_the_row_or_the_picture_or_stops(folder):
    rows = [talk("good", "p0"), talk("nowhere", "nowhere"), talk("broken", "p3")]
    counts, _ = made(folder, rows)
    assert counts == {"taken": 1, "image_missing": 1, "picture_unreadable": 1}
    counts, found = made(folder, rows, source={"missing_image": "text"})
    assert counts == {"taken": 1, "taken_as_text": 2}
    assert [part["type"] for part in found["broken"]["messages"][0]["content"]] == ["text"]
    assert found["broken"]["images"] == []
    with pytest.raises(InputError, match=r"source 's', row 'nowhere': a picture cannot be used: image_missing"):
        made(folder, rows, source={"missing_image": "refuse"})
    counts, _ = made(folder, rows, source={"missing_image": "text", "images": None})
    assert counts == {"taken_as_text": 3}


def test_a_chosen_row_that_cannot_be_used_is_told(folder):
    summary, _ = mixed(folder, [talk(f"k{n}", f"p{n}") for n in range(4)], source={"rows": 4})
    assert summary.statuses == {"taken": 3, "picture_unreadable": 1}
    assert summary.notes[0] == "mix source 's': 4 rows were selected, but not all are usable: 1 picture_unreadable."


def test_both_parts_of_a_mix_have_all_rows_and_no_picture_in_common(folder):
    rows = [talk(f"k{n}", f"p{n % 3}") for n in range(12)] + [talk(f"t{n}", None) for n in range(30)]
    summary, found = mixed(folder, rows, validation=0.4, seed=1)
    beside = Dataset.open(folder / "mix-validation")
    held = [row["key"].removeprefix("s/") for row in beside.take(range(beside.rows), ["key"])]
    assert sorted([*found, *held]) == sorted(row["key"] for row in rows)
    assert held and summary.statuses["validation"] == len(held)
    shows = {row["key"]: row["image_keys"] for row in rows}
    pictures = [{name for key in keys for name in shows[key]} for keys in (found, held)]
    assert pictures[0].isdisjoint(pictures[1]) and all(pictures)
    assert f"validation: {len(held)} rows with held-out pictures" in summary.notes[0]


def test_a_lock_says_what_a_mix_was_made_of_and_makes_it_again(folder):
    rows = [talk(f"k{n}", "p0") for n in range(20)]
    mixed(folder, rows, source={"max_rows": 5})
    lock = read_lock(folder / "mix")
    one = lock.sources["s"]
    assert (one.rows, one.dataset.manifest, one.settings["max_rows"]) == (5, 1, 5)
    mixed(folder, rows, name="other", lock=lock, source={"max_rows": 5})
    assert read_lock(folder / "other").sources == lock.sources
    with pytest.raises(InputError, match=r"source 's' gave 6 rows .* and the lock says 5 rows"):
        mixed(folder, rows, name="third", lock=lock, source={"max_rows": 6})
    recipe = recipe_of(folder, rows)
    with pytest.raises(InputError, match=r"the lock has no version of .*more, which source 'new' reads"):
        more = {**recipe.sources, "new": MixSource(conversations=str(folder / "more"))}
        plan_mix(recipe.model_copy(update={"sources": more}), lock)


def test_training_learns_from_the_front_of_a_long_row(folder):
    _, rows = mixed(folder, LONG, max_tokens=200, too_long="cut", image=RULE)
    items = samples_of(folder, "mix", rule=RULE, max_length=200, cut=True)
    assert sorted(len(item.ids) for item in items) == sorted(min(row["tokens"], 200) for row in rows.values())


def test_fragments_without_a_row_for_the_mix_share_a_file(folder, monkeypatch):
    """Two sources share a dataset, as the six of mix665k do; each has rows in one half of its fragments."""
    monkeypatch.setattr("pipelines.mix.run._COUNTED_TOGETHER", 4)
    rows = [{**talk(f"{name}{n}", None), "source": name} for name in ("a", "b") for n in range(8)]
    alone = recipe_of(folder, rows, 1, source={"where": {"source": ["a"]}, "rows": 8})
    sources = {name: alone.sources["s"].model_copy(update={"where": {"source": [name]}}) for name in ("a", "b")}
    recipe = alone.model_copy(update={"sources": sources})
    summary = run_mix(recipe, folder / "mix", LOCAL)
    mix = Dataset.open(folder / "mix")
    assert [one.rows for one in mix.fragments] == [*[1] * 8, 0, 0, *[1] * 8, 0, 0]
    assert dict(summary.statuses) == {"taken": 16, "source=a": 8, "source=b": 8}
    keys = [row["key"] for row in mix.take(range(mix.rows), ["key"])]
    assert keys == [f"{name}/{name}{n}" for name in ("a", "b") for n in range(8)]
    assert run_mix(recipe, folder / "mix", LOCAL).manifest == summary.manifest
    assert {name: one.rows for name, one in read_lock(folder / "mix").sources.items()} == {"a": 8, "b": 8}


def test_a_preview_shows_the_validation_part(folder):
    recipe = recipe_of(folder, [talk("a", "0"), talk("b", "1")], validation=0.5)
    preview = preview_mix(recipe, folder / "mix")
    assert (preview.made, [(one.dataset, one.made) for one in preview.parts]) == (1, [(f"{folder}/mix-validation", 1)])
    assert preview_mix(recipe_of(folder, []), folder / "mix").parts == ()


def test_settings_are_keys_of_the_recipe_or_its_variables(tmp_path):
    path = tmp_path / "mix.yaml"
    path.write_text(
        "{tokenizer: old, template: v1, sources: {s: {conversations: '${NAME}', images: photos, weight: 2}}}"
    )
    settings = {"NAME": "talks", "tokenizer": "new", "sources.s.weight": "1", "sources.s.rows": "3"}
    made = load_mix(path, settings=settings)
    assert (made.tokenizer, made.sources["s"].conversations, made.sources["s"].rows) == ("new", "talks", 3)
    with pytest.raises(InputError, match=r"unknown key 'tokeniser'\. Did you mean 'tokenizer'"):
        load_mix(path, settings={"NAME": "talks", "tokeniser": "x"})
    with pytest.raises(InputError, match="'tokenizer' holds a value, not keys"):
        load_mix(path, settings={"NAME": "talks", "tokenizer.x": "x"})
