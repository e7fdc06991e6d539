"""Scores in the report: counts of all rows, and examples at both ends."""

import numpy as np
import pyarrow as pa

from pipelines.engine.filters import filter_step
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from pipelines.report import write_report
from pipelines.report.charts import bars, figure
from pipelines.report.scores import scores_of
from pipelines.score import Score, ScoreConfig
from schemas import Dataset
from schemas.config import parse
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset
from tests.pictures import encoded

LOCAL = Runner("local", 1)


@filter_step("digits", version=1, reads=("key",))
def digits(row):
    """A number of a step of one function."""
    return float(row["key"])


def dataset_of(path, rows):
    """Pictures of 20 + n pixels; every fifth row has none. Texts of n words."""
    schema = pa.schema([*BASE["images"], STORED_IMAGE[0]])
    made = [
        {
            "key": f"{n:03}",
            "image": {"bytes": encoded(np.full((20 + n, 200, 3), n, np.uint8))} if n % 5 else None,
            "alt_text": "a red car " * n or None,
        }
        for n in range(rows)
    ]
    write_dataset(path, "images", [pa.Table.from_pylist(made[:7], schema), pa.Table.from_pylist(made[7:], schema)])


def test_ends_and_counts_are_those_of_all_rows(tmp_path):
    dataset_of(tmp_path / "photos", 30)
    run_step(Score(parse({"scorers": "resolution,length,language"}, ScoreConfig, "test")), tmp_path / "photos", LOCAL)
    run_step(digits(), tmp_path / "photos", LOCAL)
    found = {one.name: one for one in scores_of(Dataset.open(tmp_path / "photos"), range(1))}
    assert list(found) == ["resolution", "length", "language", "language_confidence", "digits"]
    size = found["resolution"]
    assert (size.rows, size.missing) == (30, 6)
    assert [one.value for one in size.lowest] == [21, 22, 23, 24, 26, 27]
    assert [one.key for one in size.highest] == ["029", "028", "027", "026", "024", "023"]
    assert size.lowest[0].picture.height == 21
    assert size.middle[1] == np.median([20 + n for n in range(30) if n % 5])
    assert size.chart.count("<rect") == 40
    assert found["length"].highest[0].text == ("a red car " * 29)[:160] + "…"
    assert found["length"].missing == 1
    assert sum(count for _, count in found["language"].labels) == 29
    assert found["digits"].highest[0].value == 29
    page = write_report([tmp_path / "photos"], tmp_path / "report.html").read_text()
    assert "<h3>Scores" in page
    assert "24 rows, 6 without" in page


def test_scores_that_no_row_has_are_said_to_be_missing(tmp_path):
    dataset_of(tmp_path / "photos", 1)
    run_step(Score(parse({"scorers": "blur"}, ScoreConfig, "test")), tmp_path / "photos", LOCAL)
    (blur,) = scores_of(Dataset.open(tmp_path / "photos"), range(1))
    assert (blur.rows, blur.missing, blur.lowest, blur.chart) == (1, 1, [], "")
    assert "0 rows, 1 without" in write_report([tmp_path / "photos"], tmp_path / "report.html").read_text()


def test_figures_have_no_exponents():
    assert [figure(one) for one in (0.0, 3.0, 0.12345, 1234.5, 49340.2)] == ["0", "3", "0.1235", "1234", "49340"]
    assert "49340" in bars([1, 0, 3], 0.5, 49340.2, "px")
