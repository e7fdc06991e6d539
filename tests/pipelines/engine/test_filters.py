import math

import numpy as np
import pyarrow as pa
import pytest

from pipelines.engine.filters import filter_step
from pipelines.engine.runners import Runner
from pipelines.engine.step import Config
from pipelines.engine.work import run_step
from schemas import Dataset
from schemas.errors import InputError
from schemas.records import BASE
from schemas.writing import write_dataset

LOCAL = Runner("local", 1)


class LengthConfig(Config):
    most: int = 3


@filter_step("length", version=1, reads=("alt_text",), reasons=("long",), config=LengthConfig)
def length(row, config):
    """Letters of the alt text."""
    words = row["alt_text"] or ""
    return (False, "long") if len(words) > config.most else len(words)


def measured(result):
    """A batch of one row through a filter that returns `result`."""
    step = filter_step("given", version=1, reads=("key",), reasons=("odd",))(lambda row: result)()
    return step.process(pa.RecordBatch.from_pydict({"key": ["k"]})).to_pylist()[0]


@pytest.fixture
def photos(tmp_path):
    rows = [{"key": str(number), "alt_text": words} for number, words in enumerate(["a", "four", None])]
    return write_dataset(tmp_path / "photos", "images", [pa.Table.from_pylist(rows, BASE["images"])]).path


def test_scores_and_reasons_become_columns_that_reruns_and_retries_know(photos):
    summary = run_step(length(), photos, LOCAL)
    assert summary.statuses == {"ok": 2, "long": 1}
    assert [row["length"] for row in Dataset.open(photos).take(range(3), ["length"])] == [1.0, None, 0.0]
    assert run_step(length(), photos, LOCAL).made == 0
    assert run_step(length(), photos, LOCAL, retry="long").made == 1
    assert run_step(length(LengthConfig(most=4)), photos, LOCAL).statuses == {"ok": 3}
    with pytest.raises(InputError, match=r"length has no such status. Known: transient, ok, no_image, undecodable"):
        run_step(length(), photos, LOCAL, retry="short")


@pytest.mark.parametrize("score", [2, 2.0, np.float32(2), np.int64(2)])
def test_any_real_number_is_a_score(score):
    assert measured(score) == {"given": 2.0, "given_status": "ok", "given_detail": None}


@pytest.mark.parametrize("score", [math.nan, math.inf, np.float64("-inf")])
def test_a_number_that_no_filter_can_compare_is_a_status(score):
    assert measured(score) == {"given": None, "given_status": "no_score", "given_detail": None}


@pytest.mark.parametrize(
    "result", [None, True, "odd", (False, "other"), (True, "odd"), (False, "ok"), np.array([1, 2])]
)
def test_anything_else_is_refused_with_what_was_expected(result):
    assert measured((False, "odd"))["given_status"] == "odd"
    with pytest.raises(InputError, match=r"filter 'given' returned .* one of its reasons \(declared: odd\)"):
        measured(result)


def test_a_reason_that_every_filter_has_is_refused():
    with pytest.raises(InputError, match="'no_image' is a status of every filter"):
        filter_step("given", version=1, reasons=("no_image",))
