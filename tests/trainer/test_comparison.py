"""`lavabeam train --plan-only`: every order of data for a recipe, its mix and its model, without training."""

import json

import pytest
from click.testing import CliRunner

from lavabeam.cli.training import train
from schemas.chat import ImageRule
from schemas.errors import InputError
from trainer.comparison import compare_plans, render_comparison
from trainer.planning.report import WIDTH

from .conftest import sample_row, write_mix

FIGURES = {"padding_share", "rank_balance", "time_ratio", "peak_tokens", "memory_total", "step_operations"}


def test_every_strategy_for_every_number_of_gpus(recipe_file, tmp_path):
    report = compare_plans(recipe_file(), gpus=[1, 2])
    assert [world["gpus"] for world in report["worlds"]] == [1, 2]
    for world in report["worlds"]:
        kinds = [(entry["strategy"], entry["rows"]) for entry in world["strategies"]]
        assert len(set(kinds)) == len(kinds) == 6
        assert all(entry.keys() >= FIGURES for entry in world["strategies"])
        assert [entry["strategy"] for entry in world["strategies"] if entry["chosen"]] == ["balanced"] * 2
    one, two = ({(e["strategy"], e["rows"]): e for e in world["strategies"]} for world in report["worlds"])
    exact = one["balanced", "padding-free"]
    assert (exact["padding_share"], exact["rank_balance"], exact["steps"]) == (0, 1, 3)
    assert exact["ideal_operations"] == pytest.approx(2 * two["balanced", "padding-free"]["ideal_operations"])
    assert one["random", "padded"]["padding_share"] > 0.1
    assert not (tmp_path / "run").exists()


def test_numbers_of_gpus_default_to_those_that_a_step_can_feed(recipe_file):
    assert [world["gpus"] for world in compare_plans(recipe_file(plan__global_batch=4))["worlds"]] == [1, 2, 4]
    with pytest.raises(InputError, match="0 GPUs"):
        compare_plans(recipe_file(), gpus=[0])


def test_a_strategy_out_of_the_ordinary_is_added_and_one_that_fails_says_why(recipe_file):
    report = compare_plans(recipe_file(plan__strategy="length_grouped_auto", plan__global_batch=6), gpus=[1, 4])
    shown = render_comparison(report)
    assert [e["strategy"] for e in report["worlds"][0]["strategies"] if e["chosen"]] == ["length_grouped_auto"]
    assert "length_grouped_auto *" in shown
    assert "not a multiple of 4 ranks" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= WIDTH


def test_a_model_in_parts_and_its_tiles(recipe_values, recipe_file, tiny, reader):
    rule = ImageRule("anyres", 16, 8, pinpoints=((16, 32), (32, 16)))
    rows = [sample_row(number, reader, "mistral", images=number % 2) for number in range(8)]
    mix = write_mix(tiny / "tiles", rows, reader, rule=rule)
    recipe_values["model"] = {"tower": str(tiny / "tower"), "llm": str(tiny / "llm")}
    report = compare_plans(recipe_file(data={"mix": mix.path}, stage="finetune_tower"), gpus=[1])
    # An overview and two tiles of each of the four pictures, all in the one micro-step.
    assert (report["tiles"], report["worlds"][0]["strategies"][0]["peak_images"]) == (12, 12)


def test_the_command_prints_a_table_or_json(recipe_file):
    path = str(recipe_file())
    shown = CliRunner().invoke(train, [path, "--plan-only", "--gpus", "1,2"], catch_exceptions=False).stdout
    assert "1 GPU, 8 rows each" in shown
    assert "2 GPUs, 4 rows each" in shown
    assert shown.count("modality_length padded") == 3
    assert "length_window   rows of similar length in a step, divided by cost" in shown.splitlines()
    given = [path, "--plan-only", "--processes", "2", "--nodes", "2", "--json"]
    report = json.loads(CliRunner().invoke(train, given, catch_exceptions=False).stdout)
    assert [world["gpus"] for world in report["worlds"]] == [4]


def test_wrong_options_are_refused(recipe_file):
    path = str(recipe_file())
    assert "numbers such as 8,16,64" in CliRunner().invoke(train, [path, "--plan-only", "--gpus", "many"]).output
    assert "--gpus is for --plan-only" in CliRunner().invoke(train, [path, "--gpus", "2"]).output
