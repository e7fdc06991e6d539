"""`lavabeam plan` on files of any origin: the original's indices, and one clear error for anything else."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lavabeam.cli.training import plan
from schemas.errors import InputError
from trainer.plan import plan_command

VECTORS = Path(__file__).parent / "vectors"


WITH_ZEROS = [4, 9, 0, 7, 3, 0, 12, 5, 9, 1, 0]
"""Words of rows; the orders below are those of the original functions, 2 ranks of 2 rows, torch.manual_seed(3)."""

GROUPED = [6, 9, 3, 0, 8, 2, 4, 5, 1, 10, 7]
AUTO = [8, 2, 4, 5, 1, 10, 7, 6, 9, 3, 0]
VARIABLE = [3, 5, 4, 2, 6, 8, 1, 9, 0, 7, 10]


@pytest.fixture(name="golden")
def golden_vector():
    for line in (VECTORS / "sampler.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["id"] == "o041":
            return row
    raise AssertionError("the vector is missing")


def write(folder, value):
    path = folder / "lengths.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_json_lists_the_original_indices_and_rank_batches(tmp_path, golden):
    path = write(tmp_path, golden["lengths"])
    printed = plan_command(
        path, "modality_length", golden["world_size"], golden["batch_size"], golden["global_seed"], True
    )
    listing = json.loads(printed)
    assert listing["indices"] == golden["indices"]
    assert listing["repeated"] == 3
    # The first rows come again until every rank has whole batches.
    assert [step["ranks"] for step in listing["steps"]] == [
        [[[1, 0]], [[5, 6]]],
        [[[2, 3]], [[4, 7]]],
        [[[8, 1]], [[0, 5]]],
    ]


def test_text_shows_steps_ranks_and_micro_steps(tmp_path):
    path = write(tmp_path, [10, -20, 30, 40, 50])
    printed = plan_command(path, "random", 2, 1, 0, False, accumulation=2)
    lines = printed.splitlines()
    assert lines[0] == "random: 5 rows, 2 steps of 2 ranks x batch 1 x 2 micro-steps, seed 0, epoch 0"
    assert [line.split(":")[0] for line in lines[1:]] == [
        "step 0 rank 0",
        "step 0 rank 1",
        "step 1 rank 0",
        "step 1 rank 1",
    ]
    assert lines[1].count("|") == 1
    assert sorted(lines[3:]) == sorted([lines[3], lines[4]])
    assert any(line.endswith(": -") for line in lines[3:])


def test_text_tells_what_an_epoch_leaves_out(tmp_path):
    path = write(tmp_path, [5, 6, 7, -8, -9])
    assert "not in this epoch: 3 rows" in plan_command(path, "modality_length_auto", 1, 2, 0, False)
    assert "repeated to complete the last step: 1 rows" in plan_command(path, "modality_length", 2, 1, 0, False)


def test_the_command_takes_everything_that_decides_an_order(tmp_path):
    """A vector of the original sampler that holds a generator of its own; then sizes, bounds and a cut end."""
    lines = (VECTORS / "sampler.jsonl").read_text("utf-8").splitlines()
    name = "get_modality_length_grouped_indices"
    cases = [case for case in map(json.loads, lines) if case["fn"] == name and case["generator_seed"] is not None]
    case = cases[0]
    path = ["--lengths", str(write(tmp_path, case["lengths"])), "--json"]
    sizes = ["--world-size", str(case["world_size"]), "--batch-size", str(case["batch_size"])]
    seeds = ["--seed", str(case["global_seed"]), "--generator-seed", str(case["generator_seed"])]
    printed = CliRunner().invoke(plan, [*path, *sizes, *seeds, "--strategy", "modality_length"], catch_exceptions=False)
    assert json.loads(printed.stdout)["indices"] == case["indices"]
    more = ["--accumulation", "2", "--epoch", "3", "--max-tokens", "5000", "--padded", "--drop-last"]
    printed = json.loads(CliRunner().invoke(plan, [*path, *more, "--batch-size", "4"], catch_exceptions=False).stdout)
    assert (printed["accumulation"], printed["epoch"]) == (2, 3)
    assert len(printed["unused"]) == len(case["lengths"]) % 8
    lengths = np.abs(case["lengths"])
    for batch in (batch for step in printed["steps"] for rank in step["ranks"] for batch in rank):
        assert len(batch) * lengths[batch].max() <= 5000


@pytest.mark.parametrize(
    ("strategy", "order"),
    [("length_grouped", GROUPED), ("length_grouped_auto", AUTO), ("variable_length", VARIABLE)],
)
def test_groupings_without_modality_take_rows_of_no_words(tmp_path, strategy, order):
    path = write(tmp_path, WITH_ZEROS)
    assert json.loads(plan_command(path, strategy, 2, 2, 3, True))["indices"] == order
    with pytest.raises(InputError, match="entry 2: found 0"):
        plan_command(path, "modality_length", 2, 2, 3, True)


def test_an_epoch_without_a_step_is_shown_as_one(tmp_path):
    """The original's sampler yields nothing where both last megabatches are all there is."""
    path = write(tmp_path, [5, 6, -7])
    listing = json.loads(plan_command(path, "modality_length_auto", 1, 2, 0, True))
    assert (listing["indices"], listing["steps"], listing["unused"]) == ([], [], [0, 1, 2])
    assert "not in this epoch: 3 rows: 0 1 2" in plan_command(path, "modality_length_auto", 1, 2, 0, False)
    assert "not in this epoch: 3 rows: 0 1 2" in plan_command(path, "balanced", 1, 4, 0, False, drop_last=True)


def test_files_of_other_writers_are_read(tmp_path):
    path = write(tmp_path, "\ufeff[12.0, -3, 7]\r\n")
    assert json.loads(plan_command(path, "balanced", 1, 1, 0, True))["rows"] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", "is not JSON"),
        ("", "is not JSON"),
        ('{"lengths": [1]}', "holds a dict; expected one list"),
        ("[]", "empty list"),
        ("[5, 0]", "entry 1: found 0; expected an integer other than 0"),
        ('[5, "7"]', 'entry 1: found "7"'),
        ("[5, true]", "entry 1: found true"),
        ("[5, null]", "entry 1: found null"),
        ("[5, 1.5]", "entry 1: found 1.5"),
        ("[5, NaN]", "entry 1: found NaN"),
        ("[5, Infinity]", "entry 1: found Infinity"),
        ("[5, 99999999999]", "entry 1: found 99999999999"),
        ('[{"id": "a", "conversations": ["' + "x" * 200 + '"]}]', r"entry 0: found \{.*\.\.\.; expected"),
    ],
)
def test_what_is_no_list_of_lengths_is_named(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        plan_command(write(tmp_path, content), "balanced", 1, 1, 0, True)


def test_unreadable_files_and_sizes_are_named(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        plan_command(tmp_path / "none.json", "balanced", 1, 1, 0, True)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not JSON"):
        plan_command(tmp_path / "bytes.json", "balanced", 1, 1, 0, True)
    with pytest.raises(InputError, match="batch size is 0"):
        plan_command(write(tmp_path, [1]), "balanced", 1, 0, 0, True)
    with pytest.raises(InputError, match="Did you mean 'modality_length'"):
        plan_command(write(tmp_path, [1]), "modality-length", 1, 1, 0, True)
