"""A dataset remembers how it was made: options for --retry, what a run makes stale, sources of an import."""

from enum import StrEnum
from typing import ClassVar

import pyarrow as pa
import pytest

from pipelines.caption import Caption
from pipelines.dedupe import Dedupe, DedupeConfig
from pipelines.engine.imports import preview_import, run_import
from pipelines.engine.recorded import recorded_options, retried_statuses
from pipelines.engine.runners import Runner
from pipelines.engine.step import Config as StepConfig
from pipelines.engine.step import Step
from pipelines.engine.work import preview_step, run_step
from pipelines.importers.image_folder import ImageFolder, ImageFolderConfig
from pipelines.importers.url_list import UrlList, UrlListConfig
from schemas import Dataset
from schemas.errors import InputError
from schemas.records import BASE
from schemas.standing import NOT_OK, Standing
from schemas.writing import write_dataset
from tests.pictures import colour, encoded
from tests.pipelines.steps import Echo, Shout, ShoutConfig, Twin

LOCAL = Runner("local", 1)


@pytest.fixture
def photos(tmp_path):
    table = pa.Table.from_pylist([{"key": f"k{number}"} for number in range(10)], BASE["images"])
    write_dataset(tmp_path / "photos", "images", [table])
    return str(tmp_path / "photos")


def test_retry_goes_by_the_recorded_options_and_refuses_others_by_name(photos):
    run_step(Shout(ShoutConfig(word="?")), photos, LOCAL)
    assert recorded_options(Shout, {"healed": True}, photos, "shout")["word"] == "?"
    with pytest.raises(InputError, match=r"word is '\?', but '!' was given"):
        recorded_options(Shout, {"word": "!"}, photos, "shout")
    with pytest.raises(InputError, match=r"twin has no such status. Known: transient, ok, odd, late"):
        run_step(Twin(Twin.Config()), photos, LOCAL, retry="nonsense")


class Renamed(Shout):
    """A later release: what it wrote as `odd` is called `late` now."""

    former_statuses: ClassVar = {"odd": "late"}


@pytest.mark.parametrize("word", ["late", "odd"])
def test_a_status_that_an_earlier_release_wrote_is_retried_by_either_name(photos, word):
    run_step(Shout(ShoutConfig()), photos, LOCAL)
    healed = Renamed(ShoutConfig(healed=True))
    assert preview_step(healed, photos, word).retried_rows == 5
    assert run_step(healed, photos, LOCAL, retry=word).statuses == {"ok": 10}


def test_captions_over_budget_of_an_earlier_release_are_unfinished_as_those_of_today():
    assert {"over_budget", "budget_exhausted"} <= retried_statuses(Caption, "")
    assert "over_budget" in retried_statuses(Caption, "budget_exhausted")
    assert "over_budget" not in {status.value for status in Caption.statuses}


def test_nothing_to_retry_changes_nothing_whatever_the_options(photos):
    run_step(Shout(ShoutConfig(word="?")), photos, LOCAL)
    assert run_step(Shout(ShoutConfig(word="!")), photos, LOCAL, retry="late").made == 0
    assert Dataset.open(photos)[0]["loud"] == "K0?"


def test_a_run_says_which_columns_become_stale_before_it_starts(photos, capfd):
    run_step(Shout(ShoutConfig()), photos, LOCAL)
    run_step(Echo(Echo.Config()), photos, LOCAL)
    before = Dataset.open(photos).manifest.number
    ahead = preview_step(Shout(ShoutConfig(word="?")), photos)
    assert (ahead.made, ahead.reused, dict(ahead.stale)) == (1, 0, {"echo": 1})
    assert preview_step(Shout(ShoutConfig()), photos, "odd").retried_rows == 5
    assert Dataset.open(photos).manifest.number == before
    assert "stale" not in capfd.readouterr().err
    run_step(Shout(ShoutConfig(word="?")), photos, LOCAL)
    assert "become stale and are dropped: echo (1 fragment)" in capfd.readouterr().err


def test_new_keys_announce_all_verdicts_and_not_themselves_as_stale(photos):
    first = preview_step(Twin(Twin.Config()), photos)
    assert (first.made, dict(first.stale)) == (1, {})
    run_step(Twin(Twin.Config()), photos, LOCAL)
    assert preview_step(Twin(Twin.Config()), photos).reused == 1


def test_a_preview_of_dedupe_says_that_new_rows_give_every_fragment_a_new_verdict(lists):
    """And which columns go with the old ones: those of a step that read them."""

    class Reader(Step[StepConfig]):
        name, version, Config, statuses = "reader", 1, StepConfig, Looks
        reads = ("duplicate_of",)

        def process(self, batch):
            return self.rows_to_batch([{"status": "ok"}] * batch.num_rows)

    pictures(lists.folder / "files", "a", "b")
    folder = ImageFolder(ImageFolderConfig(path=str(lists.folder / "files"), rows_per_slice=1))
    run_import(folder, lists.target, LOCAL)
    run_step(Dedupe(DedupeConfig()), lists.target, LOCAL)
    run_step(Reader(StepConfig()), lists.target, LOCAL)
    before = Dataset.open(lists.target).manifest.number
    assert preview_step(Dedupe(DedupeConfig()), lists.target).reused == 2
    pictures(lists.folder / "files", "c")
    run_import(folder, lists.target, LOCAL)
    ahead = preview_step(Dedupe(DedupeConfig()), lists.target)
    assert (ahead.step, ahead.made, ahead.reused, dict(ahead.stale)) == ("dedupe", 3, 0, {"reader": 2})
    assert Dataset.open(lists.target).manifest.number == before + 1


def pictures(folder, *names):
    """Small pictures, each of its own bytes."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.png").write_bytes(encoded(colour().rotate(ord(name))))


class Lists:
    """CSV lists in a folder, and the dataset that they are imported into."""

    def __init__(self, folder):
        self.folder, self.target = folder, str(folder / "p")

    def bring(self, name, rows, other="refuse", head="url", run=run_import, kind=UrlList):
        path = self.folder / f"{name}.csv"
        path.write_text("\n".join([head, *rows]) + "\n")
        importer = kind(UrlListConfig(path=str(path)))
        return run(importer, self.target, *([LOCAL] if run is run_import else []), other)

    def column(self, name):
        return [row[name] for batch in Dataset.open(self.target).batches([name]) for row in batch.to_pylist()]


@pytest.fixture
def lists(tmp_path):
    return Lists(tmp_path)


def test_another_source_is_refused_appended_or_put_in_place(lists):
    lists.bring("a", ["u1", "u2"])
    with pytest.raises(InputError, match=r"holds the rows of url_list \S+a.csv, and url_list \S+b.csv is another"):
        lists.bring("b", ["u3"])
    assert lists.bring("b", ["u3"], "append", run=preview_import).made == 1
    assert lists.bring("b", ["u3"], "append").made == 1
    assert (lists.column("url"), len(set(lists.column("key")))) == (["u1", "u2", "u3"], 3)
    assert lists.bring("b", ["u3"], "append").made == 0
    sources = Dataset.open(lists.target).manifest.steps["base"].sources
    assert [one.config["path"].rsplit("/", 1)[-1] for one in sources] == ["a.csv", "b.csv"]
    assert lists.bring("c", ["u9"], "replace", run=preview_import).removed == 2
    lists.bring("c", ["u9"], "replace")
    assert lists.column("url") == ["u9"]


def test_each_source_that_grew_brings_its_new_rows_alone(lists):
    lists.bring("a", ["u1", "u2"])
    lists.bring("b", ["v1"], "append")
    grown = lists.bring("a", ["u1", "u2", "u3"])
    assert (grown.made, grown.reused) == (1, 2)
    assert lists.column("url") == ["u1", "u2", "u3", "v1"]
    assert lists.bring("b", ["v1", "v2"]).made == 1
    assert lists.column("url") == ["u1", "u2", "u3", "v1", "v2"]


def test_a_source_that_moved_is_the_same_and_one_that_was_corrected_too(lists):
    lists.bring("a", ["u1", "u2"])
    assert lists.bring("moved", ["u1", "u2", "u3"]).made == 1
    assert lists.bring("moved", ["u1", "u2", "other"]).made == 1
    assert lists.column("url") == ["u1", "u2", "other"]


class Strict(UrlList):
    """Takes no row with a cell that cannot be read."""

    name = "strict"
    leaves_out = NOT_OK


class Looks(StrEnum):
    ok = "ok"
    blurred = "blurred"


class Looked(UrlList):
    """Writes a status of its own, the only one that leaves rows out."""

    name, statuses, leaves_out = "looked", Looks, frozenset({"blurred"})

    def rows(self, slice):
        table = super().rows(slice)
        column = table.schema.get_field_index("import_status")
        return table.set_column(column, table.field(column), pa.array(["blurred", "ok"]))


def test_each_source_s_own_rule_decides_for_its_rows_whichever_came_last(lists):
    lists.bring("a", ['u1,"[1]"', "u2,x"], head="url,captions")
    lists.bring("b", ["u3", "u4"], "append", kind=Looked)
    for last in ("a", "b"):
        found = Standing.of(Dataset.open(lists.target))
        assert [found.of_fragment(part).to_pylist() for part in Dataset.open(lists.target).fragments] == [
            [None, None],
            ["import=blurred", None],
        ]
        if last == "a":
            lists.bring("a", ['u1,"[1]"', "u2,x"], head="url,captions")
    assert lists.column("import_status") == ["bad_value", "ok", "blurred", "ok"]


def test_sources_that_mean_different_things_by_a_status_are_refused(lists):
    lists.bring("a", ["u1"])
    before = Dataset.open(lists.target).manifest.number
    with pytest.raises(InputError, match=r"'bad_value' are usable in url_list \S+a.csv, and left out .* in strict"):
        lists.bring("b", ["u2"], "append", kind=Strict)
    assert Dataset.open(lists.target).manifest.number == before
    lists.bring("b", ["u2"], "replace", kind=Strict)


def test_a_key_that_two_sources_have_is_refused_and_nothing_is_committed(lists):
    lists.bring("a", ["cat,u1"], head="key,url")
    with pytest.raises(InputError, match=r"the key 'cat' of url_list \S+b.csv already exists, from url_list \S+a.csv"):
        lists.bring("b", ["dog,u2", "cat,u3"], "append", head="key,url")
    assert lists.column("key") == ["cat"]
