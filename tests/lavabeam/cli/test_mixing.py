"""`lavabeam mix --plan`, `--diff` and `--lock`, and the arithmetic below them."""

import json

import pyarrow as pa
import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app
from pipelines.engine.runners import Runner
from pipelines.mix import load_mix, run_mix
from pipelines.mix.diff import changed_settings, diff_mixes
from schemas.dataset import Dataset
from schemas.entries import StepEntry
from schemas.records import BASE, SAMPLES
from schemas.writing import write_dataset
from tests.pipelines.test_mix import talk
from tests.pipelines.tokenizer import write_tokenizer

RECIPE = """\
tokenizer: tokenizer
template: chatml
max_tokens: 60
sources:
  few: {conversations: talks, kinds: [detail], rows: 9}
  most: {conversations: talks, weight: 2}
"""


@pytest.fixture
def folder(tmp_path):
    rows = [talk(f"k{n}", None, "x" * n) for n in range(40)]
    parts = [pa.Table.from_pylist(rows[start : start + 15], BASE["conversations"]) for start in (0, 15, 30)]
    write_dataset(tmp_path / "talks", "conversations", parts)
    write_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "mix.yaml").write_text(RECIPE)
    return tmp_path


def lavabeam(*words) -> object:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def sample(key: str, words: str, tokens: int = 5) -> dict:
    row = talk(key, None, words)
    return {
        **{name: row.get(name) for name in SAMPLES.names},
        **dict.fromkeys(("image_count", "image_tokens", "supervised_tokens"), 0),
        "tokens": tokens,
    }


def written(path, rows: list[dict]) -> Dataset:
    dataset = write_dataset(path, "samples", [pa.Table.from_pylist(rows, SAMPLES)])
    dataset.manifest.steps["base"] = StepEntry(version=1, name="mix", config={"sources": {"0": {}, "0000": {}}})
    return dataset


def test_a_plan_counts_what_the_mix_then_holds_and_writes_nothing(folder):
    before = sorted(folder.rglob("*"))
    plan = json.loads(
        lavabeam("mix", folder / "mix.yaml", "--folder", folder, "--plan", "--json").stdout.splitlines()[-1]
    )
    assert sorted(folder.rglob("*")) == before
    run_mix(load_mix(folder / "mix.yaml", folder), folder / "made", Runner("local", 1))
    mix = Dataset.open(folder / "made")
    rows = mix.take(range(mix.rows), ["key", "tokens", "supervised_tokens"])
    for one in plan:
        own = [row for row in rows if row["key"].startswith(f"{one['source']}/")]
        assert (one["rows"], one["turns"], one["pictures"], one["sampled"]) == (len(own), len(own), 0, None)
        assert one["tokens"] == sum(row["tokens"] for row in own)
        assert one["supervised"] == sum(row["supervised_tokens"] for row in own)
        assert one["gpu_hours"] > 0
    assert sum(one["share"] for one in plan) == pytest.approx(1)
    sampled = json.loads(
        lavabeam("mix", folder / "mix.yaml", "--folder", folder, "--plan", "--json", "--sample", 5).stdout
    )
    assert [one["sampled"] for one in sampled] == [5, 5]
    shown = lavabeam("mix", folder / "mix.yaml", "--folder", folder, "--plan", "--sample", 5).stdout
    assert "5 rows, scaled" in shown and "few: of 40 rows, left out: 31 not_chosen" in shown


def test_a_plan_without_a_row_ends_as_the_mix_itself_and_names_what_left_nothing(folder):
    write_dataset(folder / "none", "conversations", [pa.Table.from_pylist([], BASE["conversations"])])
    sources = "sources:\n  few: {conversations: talks, kinds: [poem]}\n  empty: {conversations: none}\n"
    (folder / "mix.yaml").write_text(RECIPE.partition("sources:")[0] + sources)
    words = ["mix", str(folder / "mix.yaml"), "--folder", str(folder)]
    for more in (["--plan"], ["--plan", "--json"]):
        done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == 3, done.output
        assert "source 'few' yields no rows: 40 kind; source 'empty' yields no rows: it has none." in done.stderr
    assert CliRunner().invoke(app, [*words, "made"]).exit_code == 3


def test_a_mix_and_a_recipe_are_compared(folder):
    run_mix(load_mix(folder / "mix.yaml", folder), folder / "made", Runner("local", 1))
    (folder / "other.yaml").write_text(RECIPE.replace("rows: 9", "rows: 7").replace("max_tokens: 60\n", ""))
    shown = lavabeam("mix", "--diff", folder / "made", folder / "other.yaml", "--folder", folder).stdout
    assert "sources.few.rows" in shown and "max_tokens" in shown
    found = json.loads(
        lavabeam("mix", "--diff", folder / "made", folder / "mix.yaml", "--folder", folder, "--json").stdout
    )
    assert found["settings"] == []
    assert all(one["rows"][0] == one["rows"][1] and one["tokens"][0] == one["tokens"][1] for one in found["sources"])


def test_rows_that_were_added_removed_or_changed_are_counted(tmp_path):
    first = [sample("a", "one"), sample("b", "two"), sample("c", "three"), sample("d", "four")]
    second = [sample("b", "two"), sample("c", "THREE"), sample("d", "four", 6), sample("e", "five"), sample("f", "")]
    a, b = written(tmp_path / "a", first), written(tmp_path / "b", second)
    diffs = {one.source: one for one in diff_mixes(a, b)}
    one = diffs["0000"]
    assert (one.rows, one.added, one.removed, one.changed) == ((4, 5), 2, 1, 2)
    assert (one.turns, one.tokens) == ((4, 5), (20, 26))
    assert diffs["0"].rows == (0, 0)


def test_settings_are_compared_key_by_key():
    first = {"seed": 1, "sources": {"a": {"rows": 2, "kinds": None}, "b": {}}}
    second = {"seed": 1, "sources": {"a": {"rows": 3, "kinds": None}, "c": {}}}
    assert list(changed_settings(first, second)) == [
        ("sources.a.rows", 2, 3),
        ("sources.b", {}, None),
        ("sources.c", None, {}),
    ]
