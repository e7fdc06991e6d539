"""Balance over small datasets: every row keeps its place, and only captions decide which are drawn."""

import pyarrow as pa
import pytest

from pipelines.balance import Balance, BalanceConfig
from pipelines.engine.filters import filter_step
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from pipelines.report.page import write_report
from schemas import Dataset
from schemas.errors import InputError, SchemaError
from schemas.records import BASE
from schemas.standing import Standing
from schemas.writing import write_dataset

CAPTIONS = [*["a dog"] * 6, *["a dog near the lake"] * 2, "a violin", None, "!!", "it is so", *["the lake"] * 3]


def dataset_of(path, captions, cuts=(), columns=None):
    schema = pa.schema(BASE["images"])
    rows = [{"key": f"k{number:02d}", "alt_text": text, **(columns or {})} for number, text in enumerate(captions)]
    ends = [*cuts, len(rows)]
    write_dataset(
        path,
        "images",
        [pa.Table.from_pylist(rows[a:b], schema) for a, b in zip([0, *cuts], ends, strict=True)],
    )
    return path


def found_in(path):
    dataset = Dataset.open(path)
    rows = dataset.take(range(dataset.rows), ["key", "balance_status", "rarest_phrase", "rarest_phrase_captions"])
    return {row.pop("key"): tuple(row.values()) for row in rows}


def balanced(path, workers=1, **options):
    config = BalanceConfig(**{"min_count": 2, "max_per_phrase": 3, **options})
    return run_step(Balance(config), path, Runner("local", workers))


def test_every_row_keeps_its_place_with_a_status(tmp_path):
    summary = balanced(dataset_of(tmp_path / "photos", CAPTIONS))
    found = found_in(tmp_path / "photos")
    # `lake` (5 captions) fills up first; those of its captions that mention a dog count for `dog` (8) too.
    assert summary.statuses["ok"] + summary.statuses["balanced_out"] == 11
    drawn = [key for key, (status, *_) in found.items() if status == "ok"]
    assert sum(CAPTIONS[int(key[1:])] in ("a dog near the lake", "the lake") for key in drawn) == 3
    assert sum("dog" in CAPTIONS[int(key[1:])] for key in drawn) == 3
    assert [found[key] for key in ("k08", "k09", "k10", "k11")] == [
        ("rare_phrases", None, None),
        ("no_caption", None, None),
        ("no_caption", None, None),
        ("no_phrase", None, None),
    ]
    assert (found["k00"][1:], found["k07"][1:], found["k14"][1:]) == (("dog", 8), ("lake", 5), ("lake", 5))
    assert summary.asked == len(CAPTIONS) - 2


@pytest.mark.parametrize(("rule", "workers"), [("pool", 2), ("union", 1)])
def test_fragments_workers_and_reruns_change_nothing(tmp_path, rule, workers):
    found = []
    for number, (cuts, used) in enumerate([((), 1), ((0, 1, 7, 7), workers)]):
        path = dataset_of(tmp_path / str(number), CAPTIONS, cuts)
        balanced(path, used, rule=rule)
        found.append(found_in(path))
    assert balanced(path, 1, rule=rule).made == 0
    assert found[0] == found[1]


def test_captions_that_come_later_are_judged_with_the_others(tmp_path):
    balanced(dataset_of(tmp_path / "few", CAPTIONS[:6]))
    assert {status for status, *_ in found_in(tmp_path / "few").values()} == {"ok", "balanced_out"}
    assert len([1 for status, *_ in found_in(tmp_path / "few").values() if status == "ok"]) == 3


def test_the_seed_draws_others_and_options_of_the_rule_keep_the_phrases(tmp_path):
    path = dataset_of(tmp_path / "photos", ["a dog"] * 40)
    drawn = []
    for seed in (0, 1):
        balanced(path, seed=seed)
        drawn.append({key for key, (status, *_) in found_in(path).items() if status == "ok"})
        assert len(drawn[-1]) == 3
    assert drawn[0] != drawn[1]
    keys = Balance.keys
    assert keys(BalanceConfig()).fingerprint({}) == keys(BalanceConfig(seed=1, rule="union")).fingerprint({})
    assert keys(BalanceConfig()).fingerprint({}) != keys(BalanceConfig(column="caption")).fingerprint({})


@filter_step("gate", version=1, reads=("key",), reasons=("shut",))
def gate(row):
    return (False, "shut") if row["key"] < "k06" else 1.0


def test_rows_that_earlier_steps_left_out_take_no_part(tmp_path):
    path = dataset_of(tmp_path / "photos", CAPTIONS)
    gate.leaves_out = frozenset({"shut"})
    run_step(gate(), path, Runner("local", 1))
    balanced(path)
    found = found_in(path)
    assert {found[f"k{number:02d}"] for number in range(6)} == {("skipped_input", None, None)}
    assert found["k06"][0] == "ok" and found["k06"][1:] == ("dog", 2)
    dataset = Dataset.open(path)
    reasons = [one for fragment in dataset.fragments for one in Standing.of(dataset).of_fragment(fragment).to_pylist()]
    assert reasons[0] == "gate=shut" and reasons[6] is None and reasons[8] == "balanced_out" and reasons[9] is None


def test_lists_of_captions_count_by_their_first(tmp_path):
    dataset_of(tmp_path / "photos", [None] * 4, columns={"captions": ["a red boat", "a dog"]})
    balanced(tmp_path / "photos", column="captions")
    assert set(found_in(tmp_path / "photos").values()) == {("ok", "red boat", 4), ("balanced_out", "red boat", 4)}


def test_a_column_that_is_missing_or_no_text_is_said_before_any_work(tmp_path):
    path = dataset_of(tmp_path / "photos", CAPTIONS)
    with pytest.raises(SchemaError, match="no column 'caption'"):
        balanced(path, column="caption")
    with pytest.raises(InputError, match=r"column 'boxes' .* holds list<.*expected text or lists of text"):
        balanced(path, column="boxes")
    with pytest.raises(InputError, match="expected lexicon or spacy:MODEL"):
        balanced(path, phrases="nouns")
    assert Dataset.open(path).manifest.number == 1


@pytest.mark.parametrize("captions", [[], [None], ["a dog"]])
def test_next_to_nothing(tmp_path, captions):
    summary = balanced(dataset_of(tmp_path / "photos", captions))
    assert (summary.rows, sum(summary.statuses.values())) == (len(captions), len(captions))


def test_column_files_are_the_same_bytes_on_dask(tmp_path):
    made = []
    for name in ("local", "dask"):
        dataset_of(tmp_path / name, CAPTIONS, [2, 5])
        with Runner(name, 1).session() as runner:
            run_step(Balance(BalanceConfig(min_count=2, max_per_phrase=3)), tmp_path / name, runner)
        entries = Dataset.open(tmp_path / name).manifest.fragments
        made.append([{key: file.sha256 for key, file in entry.files.items()} for entry in entries])
    assert made[0] == made[1]


def test_the_report_shows_phrases_before_and_after(tmp_path):
    balanced(dataset_of(tmp_path / "photos", CAPTIONS, [3]))
    page = write_report([tmp_path / "photos"], tmp_path / "report.html").read_text()
    drawn = sum(status == "ok" for status, *_ in found_in(tmp_path / "photos").values())
    assert f"<dt>captions</dt><dd>13 → {drawn}</dd>" in page
    assert "<dt>dog</dt><dd>8 → 3</dd>" in page and "<dt>lake</dt><dd>5 → 3</dd>" in page
    assert "<dt>different phrases</dt><dd>3 → 2</dd>" in page
