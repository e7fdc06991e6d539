"""What a mix leaves out by choice, and takes where its recipe says so: captions not drawn, leaks, duplicates."""

import pyarrow as pa
import pytest

from pipelines.engine.filters import filter_step
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from pipelines.mix.recipe import KEPT, MixSource
from pipelines.mix.select import refused_by
from schemas import Dataset
from schemas.errors import InputError
from schemas.records import BASE
from schemas.standing import Standing
from schemas.writing import write_dataset

REASONS = ("balanced_out", "rare_phrases", "leaked", "copy")


@filter_step("verdict", version=1, reads=("key",), reasons=REASONS)
def verdict(row):
    return (False, row["key"]) if row["key"] in REASONS else 1.0


verdict.by_choice = {**dict.fromkeys(REASONS[:2], "balanced_out"), "leaked": "leaked", "copy": "duplicate"}


@pytest.mark.parametrize(
    ("keys", "left"),
    [
        ({}, [None, "balanced_out", "balanced_out", "leaked", "duplicate"]),
        ({"balanced_out": "keep"}, [None, None, None, "leaked", "duplicate"]),
        ({"leaks": "keep", "duplicates": "keep"}, [None, "balanced_out", "balanced_out", None, None]),
        (dict.fromkeys([*KEPT, "duplicates"], "keep"), [None] * 5),
    ],
)
def test_each_choice_has_a_key(tmp_path, keys, left):
    rows = [{"key": key} for key in ("good", *REASONS)]
    write_dataset(tmp_path, "images", [pa.Table.from_pylist(rows, pa.schema(BASE["images"]))])
    run_step(verdict(), tmp_path, Runner("local", 1))
    dataset, source = Dataset.open(tmp_path), MixSource(conversations="talks", images="photos", **keys)
    for use in (source.row_use, source.image_use):
        assert Standing.of(dataset, use).of_fragment(dataset.fragments[0]).to_pylist() == left


def test_mixes_of_before_are_not_made_again():
    assert not {"balanced_out", "leaks"} & MixSource(conversations="talks").identity().keys()
    assert MixSource(conversations="talks", leaks="keep").identity()["leaks"] == "keep"


@pytest.mark.parametrize("accepted", [{}, {"min": float("nan")}, {"min": 5, "max": 1}])
def test_ranges_that_mean_nothing_are_refused(accepted):
    with pytest.raises(ValueError, match=r"`image_where\.blur` is the range"):
        MixSource(images="photos", captions="alt_text", image_where={"blur": accepted})


def test_a_range_on_what_is_no_number_does_not_print_the_value():
    with pytest.raises(InputError, match="'image' holds structures") as error:
        refused_by({"image": {"bytes": b"x" * 10_000}}, {"image": {"min": 1}})
    assert len(str(error.value)) < 200
