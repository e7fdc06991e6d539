"""`limit` and `sample`: a small choice is part of every larger one, and nothing is worked on twice."""

import pickle
from enum import StrEnum
from typing import ClassVar

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavabeam.demo.teacher import Teacher
from pipelines.engine.choosing import NOT_CHOSEN, Choice, ChosenRows, choice_of
from pipelines.engine.runners import Runner
from pipelines.engine.step import Step
from pipelines.engine.work import preview_derive, preview_step, run_derive, run_step
from pipelines.generate import Generate, GenerateConfig
from pipelines.judge.step import Judge, JudgeConfig
from schemas import Dataset
from schemas.records import IMAGES
from schemas.writing import write_dataset

RUNNER = Runner("local", 1)
ROWS = 40


class Slow(Step[ChosenRows]):
    """Keeps which keys it was given; those that end with 7 come late."""

    name, version, Config = "slow", 1, ChosenRows
    reads = ("key",)
    adds = (pa.field("slow", pa.string()),)
    statuses = StrEnum("statuses", ["ok", "late", NOT_CHOSEN])
    transient = frozenset({"late"})
    unfinished = passed_over = frozenset({NOT_CHOSEN})
    batch_rows = 4
    seen: ClassVar[list[str]] = []

    def process(self, batch):
        keys = batch.column("key").to_pylist()
        self.seen.extend(keys)
        return self.rows_to_batch([{"slow": key, "status": "late" if key.endswith("7") else "ok"} for key in keys])


@pytest.fixture(autouse=True)
def unseen():
    Slow.seen = []


@pytest.fixture
def images(tmp_path):
    rows = [{"key": f"k{number}", "captions": [f"Dog number {number} runs."], "source": "s"} for number in range(ROWS)]
    tables = [pa.Table.from_pylist(rows[start : start + 7], IMAGES) for start in range(0, ROWS, 7)]
    write_dataset(tmp_path / "images", "images", tables, {})
    return tmp_path / "images"


def slow(**config):
    return Slow(ChosenRows(**config))


def column(path, *names):
    rows = [row for part in Dataset.open(path).fragments for row in part.read(names).to_pylist()]
    return [tuple(row.values()) for row in rows]


def test_a_limited_run_leaves_places_that_a_larger_one_fills(images):
    first = run_step(slow(limit=5), images, RUNNER)
    assert first.statuses[NOT_CHOSEN] == 35
    assert first.asked == 5
    early = set(Slow.seen)
    run_step(slow(limit=20), images, RUNNER)
    assert len(Slow.seen) == len(set(Slow.seen)) == 20
    assert early < set(Slow.seen)
    whole = run_step(slow(), images, RUNNER)
    assert sorted(Slow.seen) == sorted(f"k{number}" for number in range(ROWS))
    assert whole.statuses == {"ok": 36, "late": 4}
    assert column(images, "key", "slow") == [(f"k{number}", f"k{number}") for number in range(ROWS)]


def test_the_same_or_a_smaller_choice_again_finds_everything_there(images):
    run_step(slow(limit=20), images, RUNNER)
    before = column(images, "slow_status")
    for again in (slow(limit=20), slow(limit=3), slow(sample=0.01)):
        summary = run_step(again, images, RUNNER)
        assert (summary.made, len(Slow.seen)) == (0, 20)
    assert column(images, "slow_status") == before


def test_a_retry_of_a_limited_run_keeps_to_its_rows(images):
    run_step(slow(limit=30), images, RUNNER)
    late = [key for key in Slow.seen if key.endswith("7")]
    Slow.seen.clear()
    preview = preview_step(slow(limit=30), images, "late")
    assert preview.retried_rows == len(late) > 0
    run_step(slow(limit=30), images, RUNNER, "late")
    assert sorted(Slow.seen) == sorted(late)


def test_other_options_under_a_limit_are_warned_about(images):
    run_step(slow(), images, RUNNER)

    class Newer(Slow):
        version = 2

    preview = preview_step(Newer(ChosenRows(limit=5)), images)
    assert preview.unchosen == 35
    assert "35 finished rows become not_chosen: made with other options" in preview.warning()
    for nothing_left_out in (ChosenRows(limit=ROWS), ChosenRows(limit=999_999), ChosenRows(sample=1)):
        assert "not_chosen" not in preview_step(Newer(nothing_left_out), images).warning()


def test_other_options_for_the_rows_of_a_smaller_choice_unmake_none(images):
    run_step(slow(limit=5), images, RUNNER)

    class Newer(Slow):
        version = 2

    assert preview_step(Newer(ChosenRows(limit=5)), images).unchosen == 0
    assert preview_step(Newer(ChosenRows(limit=4)), images).unchosen == 1
    run_step(Newer(ChosenRows(limit=4)), images, RUNNER)
    assert column(images, "slow_status").count((NOT_CHOSEN,)) == ROWS - 4


def test_rows_of_a_larger_choice_are_no_retried_ones(images):
    run_step(slow(limit=5), images, RUNNER)
    preview = preview_step(slow(limit=12), images)
    assert (preview.made, preview.newly_chosen, preview.retried_rows) == (0, 7, 0)
    preview = preview_step(slow(), images, "late")
    late = sum(status == ("late",) for status in column(images, "slow_status"))
    assert (preview.newly_chosen, preview.retried_rows) == (35, late)


def test_what_a_killed_run_left_of_some_rows_is_not_taken_for_all(images):
    """The file of a limited run, at its path before its commit, must not be found by the whole one."""
    from pipelines.engine.work import _column_work

    limited = {task.path for task in _column_work(slow(limit=5), images, "").tasks}
    more = {task.path for task in _column_work(slow(limit=20), images, "").tasks}
    whole = {task.path for task in _column_work(slow(), images, "").tasks}
    assert not limited & whole and not limited & more
    run_step(slow(limit=5), images, RUNNER)
    more = {task.path for task in _column_work(slow(limit=20), images, "").tasks}
    whole = {task.path for task in _column_work(slow(), images, "").tasks}
    assert more and not more & whole


@given(st.lists(st.text(), unique=True, max_size=60), st.integers(1, 70), st.floats(0.01, 1))
def test_choices_are_nested_and_have_their_size(keys, limit, share):
    few, many = Choice(round(share / 2 * 2**64)), Choice(round(share * 2**64))
    chosen = many.of(pa.array(keys, pa.string())).to_pylist()
    for one, other in zip(few.of(pa.array(keys, pa.string())).to_pylist(), chosen, strict=True):
        assert other or not one
    assert Choice(2**64).of(pa.array(keys, pa.string())).to_pylist() == [True] * len(keys)


def test_a_sample_has_about_its_share_of_many_rows(tmp_path):
    keys = pa.table({"key": pa.array([f"http://host/{number}.jpg" for number in range(100_000)])})
    dataset = write_dataset(tmp_path / "many", "images", [keys.slice(0, 30_000), keys.slice(30_000)], {})
    kept = choice_of(slow(sample=0.01), dataset).of(keys.column("key"))
    assert 850 < sum(kept.to_pylist()) < 1150
    exact = choice_of(slow(limit=1234), dataset).of(keys.column("key"))
    assert sum(exact.to_pylist()) == 1234
    assert choice_of(slow(limit=200_000), dataset) is choice_of(slow(limit=100_000), dataset) is None
    assert sum(choice_of(slow(limit=99_999), dataset).of(keys.column("key")).to_pylist()) == 99_999
    assert choice_of(slow(), dataset) is None


def test_conversations_grow_from_a_sample_to_the_whole_and_nothing_is_asked_twice(images, tmp_path):
    with Teacher() as teacher:
        config = {"model": "m", "provider": "test", "base_url": teacher.base_url, "cache": str(tmp_path / "cache")}
        config["kinds"] = [{"kind": "describe", "sources": ["s"]}]

        def talk(**more):
            return Generate(GenerateConfig(**config, **more))

        assert talk(limit=6).estimate(images)["requests"] == 6
        first = run_derive(talk(limit=6), images, tmp_path / "talks", RUNNER)
        assert first.statuses == {"ok": 6, NOT_CHOSEN: 34}
        assert len(teacher.requests) == 6
        assert preview_derive(talk(limit=6), images, tmp_path / "talks").made == 0
        again = run_derive(talk(limit=6), images, tmp_path / "talks", RUNNER)
        assert again.made == 0
        judged = run_step(Judge(JudgeConfig(**_judge(config, images), limit=4)), tmp_path / "talks", RUNNER)
        assert judged.statuses["ok"] == 4
        assert len(teacher.requests) == 10
        whole = run_derive(talk(), images, tmp_path / "talks", RUNNER)
        assert whole.statuses == {"ok": 40}
        assert len(teacher.requests) == 44
        run_derive(talk(limit=2, max_requests=1), images, tmp_path / "talks", RUNNER)
        assert column(tmp_path / "talks", "status") == [("ok",)] * 40


def test_a_limit_counts_rows_that_can_be_asked_about(tmp_path):
    rows = [{"key": f"k{number}", "captions": ["A dog."], "source": "ab"[number % 10 == 0]} for number in range(50)]
    write_dataset(tmp_path / "images", "images", [pa.Table.from_pylist(rows, IMAGES)], {})
    config = {"model": "m", "provider": "test", "cache": str(tmp_path / "cache")}
    step = Generate(GenerateConfig(**config, kinds=[{"kind": "describe", "sources": ["b"]}], limit=3))
    assert step.estimate(tmp_path / "images")["requests"] == 3


def test_rows_that_are_never_worked_on_use_up_no_limit_and_keep_their_own_status(tmp_path):
    rows = [{"key": f"k{number}", "captions": [f"Dog number {number} runs."], "source": "s"} for number in range(30)]
    rows += [{"key": f"n{number}", "captions": [" "], "source": "s"} for number in range(20)]
    rows += [{"key": f"o{number}", "captions": ["A dog runs."], "source": "other"} for number in range(10)]
    tables = [pa.Table.from_pylist(rows[start::4], IMAGES) for start in range(4)]
    images = write_dataset(tmp_path / "images", "images", tables, {}).path
    talks = tmp_path / "talks"
    with Teacher() as teacher:
        config = {"model": "m", "provider": "test", "base_url": teacher.base_url, "cache": str(tmp_path / "cache")}
        config["kinds"] = [{"kind": "describe", "sources": ["s"]}]
        never = {"no_context": 20, "not_asked": 10}

        def talk(**more):
            return pickle.loads(pickle.dumps(Generate(GenerateConfig(**config, **more))))

        def judge(**more):
            return Judge(JudgeConfig(**_judge(config, images), **more))

        assert run_derive(talk(limit=5), images, talks, RUNNER).statuses == {"ok": 5, NOT_CHOSEN: 25, **never}
        preview = preview_derive(talk(limit=12), images, talks)
        assert (preview.newly_chosen, preview.retried_rows) == (7, 0)
        assert run_derive(talk(limit=12), images, talks, RUNNER).statuses == {"ok": 12, NOT_CHOSEN: 18, **never}

        assert run_step(judge(limit=3), talks, RUNNER).statuses == {"ok": 3, NOT_CHOSEN: 9, "not_asked": 48}
        preview = preview_step(judge(limit=8), talks)
        assert (preview.made, preview.newly_chosen, preview.retried_rows) == (0, 5, 0)
        assert run_step(judge(limit=8), talks, RUNNER).statuses == {"ok": 8, NOT_CHOSEN: 4, "not_asked": 48}
        assert run_step(judge(), talks, RUNNER).statuses == {"ok": 12, "not_asked": 48}
        assert len(teacher.requests) == 12 + 12

        other = {**config, "model": "n"}
        assert preview_derive(Generate(GenerateConfig(**other, limit=5)), images, talks).unchosen == 7
        assert preview_derive(Generate(GenerateConfig(**other, limit=12)), images, talks).unchosen == 0


def test_a_smaller_choice_unmakes_nothing_that_is_finished(images, tmp_path):
    with Teacher() as teacher:
        config = {"model": "m", "provider": "test", "base_url": teacher.base_url, "cache": str(tmp_path / "cache")}
        config["kinds"] = ["describe"]
        capped = Generate(GenerateConfig(**config, max_requests=15))
        done = run_derive(capped, images, tmp_path / "talks", RUNNER)
        assert done.statuses == {"ok": 15, "budget_exhausted": 25}
        small = Generate(GenerateConfig(**config, limit=20))
        done = run_derive(small, images, tmp_path / "talks", RUNNER)
        assert done.statuses["ok"] >= 20
        assert done.statuses["ok"] + done.statuses.get("budget_exhausted", 0) + done.statuses.get(NOT_CHOSEN, 0) == ROWS
        assert len(teacher.requests) == done.statuses["ok"]


def _judge(config, images):
    return {**{name: value for name, value in config.items() if name != "kinds"}, "images": str(images)}
