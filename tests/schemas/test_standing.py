"""Which rows may be used: rules of the manifest, of older datasets, of choice, and null pictures."""

import json
import time

import pyarrow as pa
import pytest

from schemas import Dataset
from schemas.columnfile import column_path, write_column_file
from schemas.commit import Change, commit
from schemas.entries import StatusRule
from schemas.errors import InputError
from schemas.manifest import StepEntry
from schemas.records import BASE, IMAGE
from schemas.standing import EVERY_CHOICE, NOT_OK, Standing, Use, detail_column, joined, reason_of, status_rules
from schemas.store import Store
from schemas.writing import write_dataset


def add_step(dataset, name, statuses, rule=None):
    """Add a column file with a status column, and its rule to the manifest."""
    store, (fragment,) = Store(dataset.path), dataset.fragments
    schema = pa.schema([pa.field(f"{name}_status", pa.string()), pa.field(f"{name}_detail", pa.string())])
    batch = pa.RecordBatch.from_arrays([pa.array(statuses), pa.nulls(len(statuses), pa.string())], schema=schema)
    path = column_path(fragment.id, name, name * 16)
    entry = write_column_file(store, path, [batch], schema, "images", fingerprint=name, status_column=f"{name}_status")
    step = StepEntry(version=1, config={}, statuses=rule)
    number = dataset.manifest.number
    commit(store, Change(number, "images/1.0", files={fragment.id: {name: entry}}, steps={name: step}))
    return Dataset.open(dataset.path)


@pytest.fixture
def photos(tmp_path):
    images = [{"bytes": b"x"}, {"bytes": b""}, {"bytes": None}, None, {"bytes": b"y"}]
    schema = pa.schema([*BASE["images"], ("image", IMAGE), ("import_status", pa.string())])
    rows = [{"key": str(n), "image": image, "import_status": "ok"} for n, image in enumerate(images)]
    rows[3]["import_status"] = "no_image"
    return write_dataset(tmp_path / "photos", "images", [pa.Table.from_pylist(rows, schema)])


def reasons(dataset, use=None, before=None):
    return Standing.of(dataset, use, before).of_fragment(dataset.fragments[0]).to_pylist()


def test_a_null_or_empty_picture_is_missing_for_those_who_need_pictures(photos):
    assert reasons(photos) == [None, None, None, "import=no_image", None]
    expected = [None, "image_missing", "image_missing", "import=no_image", None]
    assert reasons(photos, Use(pictures=True)) == expected


def test_rules_of_the_manifest_leave_rows_out(photos):
    rule = StatusRule(step="sharpen", column="sharpen_status", unusable=["blurred"], by_choice={"soft": "soft"})
    made = add_step(photos, "sharpen", ["soft", "blurred", "ok", "blurred", "other"], rule)
    assert reasons(made) == ["soft", "sharpen=blurred", None, "import=no_image", None]
    assert reasons(made, Use(takes=EVERY_CHOICE)) == [None, "sharpen=blurred", None, "import=no_image", None]
    assert reasons(made, Use(takes=frozenset({"soft"})))[0] is None
    assert reasons(made, Use(decides=frozenset({"sharpen_status"})))[1] is None
    assert json.loads(Store(made.path).read("manifest-000002.json"))["steps"]["sharpen"]["statuses"]["unusable"] == [
        "blurred"
    ]


def test_a_step_does_not_ask_about_files_that_came_after_its_own(photos):
    made = add_step(photos, "first", ["bad"] * 5, StatusRule(step="first", column="first_status", unusable=["*"]))
    made = add_step(made, "second", ["bad"] * 5, StatusRule(step="second", column="second_status", unusable=["*"]))
    assert reasons(made, before="first")[0] is None
    assert reasons(made, before="second")[0] == "first=bad"
    assert reasons(made, before="third")[0] == "first=bad"


def test_older_datasets_have_the_rules_of_their_releases(photos):
    made = add_step(photos, "download", ["ok", "timeout", "ok", "ok", "ok"])
    made = add_step(made, "dedupe", ["copy", "near_copy", "no_image", "ok", "ok"])
    made = add_step(made, "caption", ["failed"] * 5)
    assert reasons(made) == ["duplicate", "download=timeout", None, "import=no_image", None]
    assert reasons(made, Use(takes=frozenset({"duplicate"})))[0] is None
    assert Standing.of(made).identity == []
    assert {name: rule.column for name, rule in status_rules(made).items()} == {
        "base": "import_status",
        "download": "download_status",
        "dedupe": "dedupe_status",
        "caption": "caption_status",
    }


def test_a_rule_that_no_release_had_is_part_of_fingerprints(photos):
    rule = StatusRule(step="sharpen", column="sharpen_status", unusable=["blurred"])
    made = add_step(photos, "sharpen", ["ok"] * 5, rule)
    assert Standing.of(made).identity == [rule.model_dump()]


def test_conversations_are_named_after_who_wrote_them(tmp_path):
    rows = [{"key": "a", "status": "ok"}, {"key": "b", "status": "truncated"}]
    talks = write_dataset(tmp_path / "t", "conversations", [pa.Table.from_pylist(rows, BASE["conversations"])])
    assert reasons(talks) == [None, "import=truncated"]
    commit(Store(talks.path), Change(1, "conversations/1.0", parents=[talks.as_parent()], info={"changed": 1}))
    assert reasons(Dataset.open(talks.path)) == [None, "generate=truncated"]


def rule_of(unusable, usable=(), column="import_status"):
    return StatusRule(step="import", column=column, unusable=list(unusable), usable=list(usable))


def test_a_status_that_is_usable_is_an_exception_of_all_others(photos):
    made = add_step(photos, "look", ["dim", "cut", "ok", "ok", "ok"], None)
    rule = StatusRule(step="look", column="look_status", unusable=["*"], usable=["dim"])
    found = Standing((rule,)).of_fragment(made.fragments[0]).to_pylist()
    assert found[:3] == [None, "look=cut", None] == [reason_of(rule, status) for status in ("dim", "cut", "ok")]


def test_rules_of_several_sources_are_joined_where_they_agree():
    ours, theirs = rule_of(["*", "no_image"], ["bad_value"]), rule_of(["*", "blurred", "no_image"], ["dim"])
    both = joined([("a", ours), ("b", theirs)])
    assert both == rule_of(["*", "blurred", "no_image"], ["bad_value", "dim"])
    for rule, statuses in ((ours, ["no_image", "bad_value"]), (theirs, ["no_image", "blurred", "dim"])):
        assert [reason_of(both, status) for status in statuses] == [reason_of(rule, status) for status in statuses]


@pytest.mark.parametrize("other", [rule_of(["*"]), rule_of(["bad_value"]), rule_of(["*", "bad_value"])])
def test_rules_of_several_sources_that_contradict_each_other_are_refused(other):
    ours = rule_of(["*", "no_image"], ["bad_value"])
    with pytest.raises(InputError, match="'bad_value' are usable in a, and left out as import=bad_value in b"):
        joined([("a", ours), ("b", other)])
    with pytest.raises(InputError, match="a keeps its statuses in 'import_status', b in 'status'"):
        joined([("a", ours), ("b", rule_of([], column="status"))])


def test_details_stand_beside_statuses():
    assert detail_column(StatusRule(step="a", column="a_status")) == "a_detail"
    assert detail_column(StatusRule(step="generate", column="status")) == "detail"


def test_a_hundred_thousand_rows_take_less_than_a_second():
    statuses = pa.array(["ok", "timeout", "http_404", "ok"] * 50_000)
    images = pa.array([{"bytes": b"x"}, None] * 100_000, IMAGE)
    rows = pa.table({"download_status": statuses, "image": images})
    rule = StatusRule(step="download", column="download_status", unusable=sorted(NOT_OK))
    started = time.process_time()
    found = Standing((rule,), pictures=True).reasons(rows)
    assert time.process_time() - started < 2
    assert found[:4].to_pylist() == [None, "download=timeout", "download=http_404", "image_missing"]
