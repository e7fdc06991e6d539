import pyarrow as pa
import pytest

from lavabeam.demo.teacher import Teacher
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_derive
from pipelines.generate import GenerateConfig
from pipelines.generate.step import Generate
from schemas.records import IMAGES
from schemas.writing import write_dataset

ROWS = [{"key": f"k{number}", "captions": [f"Dog number {number} runs."], "source": "a"} for number in range(10)]


@pytest.fixture
def images(tmp_path):
    rows = [*ROWS, {"key": "nothing", "source": "a"}, {"key": "other", "captions": ["x"], "source": "b"}]
    write_dataset(tmp_path / "images", "images", [pa.Table.from_pylist(rows, IMAGES)], {})
    return tmp_path / "images"


def config(tmp_path, **changes):
    values = {"model": "m", "provider": "test", "cache": str(tmp_path / "cache"), "temperature": 0}
    values |= {"kinds": [{"kind": "describe", "sources": ["a"]}], "price": {"input": 1.0, "output": 2.0}}
    return GenerateConfig(**{**values, **changes})


def test_an_estimate_counts_real_prompts_and_sends_nothing(images, tmp_path):
    reported = Generate(config(tmp_path)).estimate(images)
    assert (reported["requests"], reported["cached"]) == (10, 0)
    # The prompt file expects 20 tokens for each answer.
    assert reported["output_tokens"] == 200
    assert 600 < reported["input_tokens"] < 800
    assert reported["cost"] == pytest.approx((reported["input_tokens"] + 2 * 200) / 1e6)
    assert reported["most"] > reported["cost"]
    assert not (tmp_path / "cache").exists()


def test_the_bound_covers_what_is_paid_and_cached_answers_cost_nothing(images, tmp_path):
    before = Generate(config(tmp_path)).estimate(images)
    with Teacher() as teacher:
        asking = config(tmp_path, base_url=teacher.base_url)
        run_derive(Generate(asking), images, tmp_path / "talks", Runner("local", 1))
        paid = sum(entry["prompt_tokens"] + 2 * entry["completion_tokens"] for entry in teacher.requests) / 1e6
    assert paid <= before["most"]
    after = Generate(config(tmp_path)).estimate(images)
    assert (after["requests"], after["cached"], after["cost"]) == (0, 10, 0)


def test_answers_seen_so_far_refine_the_expectation(images, tmp_path):
    with Teacher() as teacher:
        asking = config(tmp_path, base_url=teacher.base_url)
        run_derive(Generate(asking), images, tmp_path / "talks", Runner("local", 1))
    warmer = Generate(config(tmp_path, temperature=1.0)).estimate(images)
    # `Dog number 3 runs.` has five tokens.
    assert (warmer["requests"], warmer["output_tokens"]) == (10, 50)


def test_batch_mode_is_half_the_price_and_no_price_is_no_cost(images, tmp_path):
    online = Generate(config(tmp_path)).estimate(images)
    assert Generate(config(tmp_path, mode="batch")).estimate(images)["cost"] == pytest.approx(online["cost"] / 2)
    assert Generate(config(tmp_path, price=None)).estimate(images)["cost"] is None


def test_other_checks_read_the_cached_answers_again_and_ask_nothing(images, tmp_path, monkeypatch):
    with Teacher() as teacher:
        asking = config(tmp_path, base_url=teacher.base_url, kinds=["describe"])
        before = run_derive(Generate(asking), images, tmp_path / "talks", Runner("local", 1))
        sent = len(teacher.requests)
        monkeypatch.setattr("pipelines.generate.step.VERSION", 1_000)
        monkeypatch.setattr("pipelines.generate.checks.repetition", lambda pairs: "all of it")
        again = run_derive(Generate(asking), images, tmp_path / "talks", Runner("local", 1))
    assert before.statuses == {"ok": 11, "no_context": 1}
    assert again.statuses == {"repetitive": 11, "no_context": 1}
    assert (again.made, len(teacher.requests)) == (1, sent)
