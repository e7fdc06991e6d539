"""An export that is killed goes on; what does not fit is refused before anything is written."""

import fcntl
import json
import os
import random
import shutil

import pytest

from pipelines.exporters import run, source, state
from pipelines.exporters.config import ExportConfig
from schemas.errors import CorruptError, InputError
from tests.pipelines.exporting import export, photos, picture, talks, tree

FORMATS = ("llava_json", "parquet", "webdataset", "energon")


@pytest.fixture
def made(tmp_path):
    """30 rows: text, one picture, two pictures, one that is lost; pictures whose names clash."""
    pictures = {f"p{number}.jpg": picture(number) for number in range(7)} | {"../p1.jpg": picture(50)}
    names = [*pictures, "lost.jpg"]
    rows = []
    for number in range(30):
        shown = [names[(number + one) % len(names)] for one in range(number % 3)]
        turns = [{"from": "human", "value": "<image>" * len(shown) + f"{number}?"}, {"from": "gpt", "value": "y" * 40}]
        rows.append({"id": number, "conversations": turns} | ({"image": shown} if shown else {}))
    (tmp_path / "in.json").write_text(json.dumps(rows))
    return talks(tmp_path / "talks", tmp_path / "in.json"), photos(tmp_path / "photos", pictures)


def killed_at(monkeypatch, row: int) -> None:
    """The next export dies when it has looked at so many rows."""
    read = source.Source.read

    def dying(self, start=0):
        for number, one in enumerate(read(self, start), start):
            if number >= row:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(source.Source, "read", dying)


@pytest.mark.parametrize("to", FORMATS)
def test_a_killed_export_goes_on_and_ends_with_the_same_bytes(tmp_path, made, to, monkeypatch):
    size = {"llava_json": 500, "parquet": 4000}.get(to, 12_000)
    whole = export(made[0], tmp_path / "whole", to, made[1], shard_size=size)
    assert len(whole.files) > 2
    assert whole.exported + sum(whole.left_out.values()) == 30
    for row in sorted(random.Random(to).sample(range(30), 4)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            killed_at(patch, row)
            export(made[0], tmp_path / "killed", to, made[1], shard_size=size)
        assert not (tmp_path / "killed" / "export.json").exists()
    done = export(made[0], tmp_path / "killed", to, made[1], shard_size=size)
    assert done.reused > 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert (done.exported, done.left_out, done.notes) == (whole.exported, whole.left_out, whole.notes)


@pytest.mark.parametrize("to", FORMATS)
def test_a_kill_while_the_last_files_are_written_loses_nothing(tmp_path, made, to, monkeypatch):
    export(made[0], tmp_path / "whole", to, made[1])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        export(made[0], tmp_path / "killed", to, made[1])
    export(made[0], tmp_path / "killed", to, made[1])
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


@pytest.mark.parametrize("to", FORMATS)
def test_the_same_command_again_writes_nothing(tmp_path, made, to):
    first = export(made[0], tmp_path / "out", to, made[1])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = export(made[0], tmp_path / "out", to, made[1])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path in before} == before
    assert (again.made, again.exported, again.left_out) == (0, first.exported, first.left_out)


def test_a_dataset_that_moved_is_the_same(tmp_path, made):
    export(made[0], tmp_path / "out", "webdataset", made[1])
    shutil.copytree(made[0].path, tmp_path / "elsewhere" / "talks")
    again = type(made[0]).open(tmp_path / "elsewhere" / "talks")
    assert export(again, tmp_path / "out", "webdataset", made[1]).made == 0


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path, made):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"out: not empty \(thesis.tex\)"):
        export(made[0], tmp_path / "out", "parquet", made[1])
    assert tree(tmp_path / "out") == {"thesis.tex": b"mine"}


def test_another_export_is_not_mixed_into_one(tmp_path, made):
    export(made[0], tmp_path / "out", "webdataset", made[1])
    before = tree(tmp_path / "out")
    with pytest.raises(InputError, match=r"the export here is another one: options \{.*shard_size"):
        export(made[0], tmp_path / "out", "webdataset", made[1], shard_size=5000)
    with pytest.raises(InputError, match=r"exporter 'webdataset/1' \(now 'parquet/1'\)"):
        export(made[0], tmp_path / "out", "parquet", made[1])
    assert tree(tmp_path / "out") == before


def test_a_shard_that_was_damaged_is_noticed(tmp_path, made):
    export(made[0], tmp_path / "out", "webdataset", made[1])
    shard = tmp_path / "out" / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(CorruptError, match=r"shard-000000.tar: \d+ bytes; the export wrote \d+"):
        export(made[0], tmp_path / "out", "webdataset", made[1])
    shard.unlink()
    with pytest.raises(CorruptError, match=r"shard-000000.tar: missing"):
        export(made[0], tmp_path / "out", "webdataset", made[1])


def test_two_exports_do_not_write_into_one_folder(tmp_path, made):
    (tmp_path / "out").mkdir()
    handle = os.open(tmp_path / "out" / state.LOCK, os.O_CREAT | os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="another export is writing here"):
        export(made[0], tmp_path / "out", "parquet", made[1])
    os.close(handle)
    assert export(made[0], tmp_path / "out", "parquet", made[1]).exported > 0


@pytest.mark.parametrize("to", ["parquet", "webdataset", "energon"])
def test_conversations_with_pictures_need_them(tmp_path, made, to):
    with pytest.raises(InputError, match=r"its conversations show pictures, which are in another dataset\. Name it"):
        export(made[0], tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def test_datasets_that_a_format_cannot_hold_are_refused(tmp_path, made):
    for to in ("llava_json", "energon"):
        with pytest.raises(InputError, match=f"holds images; {to} is written from conversations or samples"):
            export(made[1], tmp_path / "out", to)
    with pytest.raises(InputError, match=r"a dataset of images has its own pictures\. Leave --images out"):
        export(made[1], tmp_path / "out", "parquet", made[1])
    with pytest.raises(InputError, match="holds conversations; expected images"):
        export(made[0], tmp_path / "out", "parquet", made[0])
    with pytest.raises(InputError, match="llava_json has no place for a row's status"):
        export(made[0], tmp_path / "out", "llava_json", made[1], left_out=True)
    with pytest.raises(InputError, match="written into a local folder"):
        run.run_export(made[0].path, ExportConfig(to="parquet"), "gs://bucket/out")


@pytest.mark.parametrize(
    ("text", "number"), [("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("7", 7), ("2k", 2000)]
)
def test_sizes(text, number):
    assert ExportConfig(to="parquet", shard_size=text).shard_size == number


@pytest.mark.parametrize("text", ["", "MB", "-1", "0", "5 apples"])
def test_what_is_not_a_size(text):
    with pytest.raises(ValueError, match="shard_size"):
        ExportConfig(to="parquet", shard_size=text)


@pytest.mark.parametrize("inside", ["", "published", "deep/er"])
def test_an_export_into_the_dataset_is_refused(tmp_path, inside):
    dataset = photos(tmp_path / "photos", {"a": picture(1)})
    with pytest.raises(InputError, match="it is inside the exported dataset"):
        run.run_export(dataset.path, ExportConfig(to="parquet"), tmp_path / "photos" / inside)
    assert not (tmp_path / "photos" / "published").exists()
