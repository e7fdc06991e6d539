"""Rows that failed before: every importer and every step after it counts them, and none stops at them."""

import io
import json
import tarfile
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from lavabeam.cli.main import app
from lavabeam.demo.teacher import Teacher
from pipelines.caption import Caption, CaptionConfig
from pipelines.dedupe import Dedupe, DedupeConfig
from pipelines.engine.imports import run_import
from pipelines.engine.runners import Runner
from pipelines.engine.step import Config, Step
from pipelines.engine.work import run_derive, run_step
from pipelines.generate import Generate, GenerateConfig
from pipelines.importers.huggingface import HuggingFace
from pipelines.importers.image_folder import ImageFolder
from pipelines.importers.img2dataset import Img2dataset
from pipelines.importers.webdataset import WebDataset
from pipelines.judge.step import Judge, JudgeConfig
from pipelines.mix import MixRecipe, MixSource, run_mix
from pipelines.report import write_report
from schemas import Dataset
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset
from tests.pipelines.download.images import jpeg
from tests.pipelines.llm.faulty import FaultyServer
from tests.pipelines.tokenizer import write_tokenizer

LOCAL = Runner("local", 1)
GOOD = jpeg(120, 100)


def image_folder(folder):
    """One whole, one empty and one cut file."""
    (folder / "files").mkdir()
    for name, data in (("a.jpg", GOOD), ("b.jpg", b""), ("c.jpg", GOOD[:300])):
        (folder / "files" / name).write_bytes(data)
    return ImageFolder(ImageFolder.Config(path=str(folder / "files"))), ["import=no_image", "import=undecodable"]


def img2dataset(folder):
    """One downloaded and one failed row."""
    (folder / "out").mkdir()
    done = {
        "key": "000000000",
        "url": "http://x.test/1.jpg",
        "caption": "a cat",
        "status": "success",
        "error_message": None,
    }
    failed = {**done, "key": "000000001", "status": "failed_to_download", "error_message": "HTTP Error 404"}
    pq.write_table(pa.Table.from_pylist([done, failed]), folder / "out" / "00000.parquet")
    _tar(folder / "out" / "00000.tar", {"000000000.jpg": GOOD})
    return Img2dataset(Img2dataset.Config(path=str(folder / "out"))), ["import=no_image"]


def huggingface(folder):
    """One row with a picture and one without."""
    pictures = [{"bytes": GOOD, "path": "1.jpg"}, {"bytes": None, "path": "2.jpg"}]
    pq.write_table(pa.table({"image": pictures, "text": ["a cat", "a dog"]}), folder / "h.parquet")
    return HuggingFace(HuggingFace.Config(path=str(folder / "h.parquet"))), ["import=no_image"]


def webdataset(folder):
    """One sample with a picture and one of text alone."""
    _tar(folder / "w.tar", {"0.jpg": GOOD, "0.txt": b"a cat", "1.txt": b"only text"})
    return WebDataset(WebDataset.Config(path=str(folder / "w.tar"))), ["import=no_image"]


def _tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="module")
def servers():
    with Teacher() as teacher, FaultyServer() as captioner:
        yield {"teacher": teacher.base_url, "captioner": captioner.base_url}


@pytest.fixture
def house(tmp_path, servers):
    write_tokenizer(tmp_path / "tokenizer")
    return House(tmp_path, servers)


class House:
    """Every step on datasets of one folder, with the endpoints of the test."""

    def __init__(self, folder, servers):
        self.folder, self.servers = folder, servers

    def mix(self, target, **source):
        source = {name: str(self.folder / value) if name != "captions" else value for name, value in source.items()}
        rule = {"mode": "square", "image_size": 8, "patch_size": 4}
        values = {"template": "chatml", "image": rule, "tokenizer": str(self.folder / "tokenizer")}
        return run_mix(MixRecipe(sources={"s": MixSource(**source)}, **values), self.folder / target, LOCAL).statuses

    def caption(self, name):
        endpoint = {"name": "endpoint", **self._endpoint("captioner")}
        step = Caption(CaptionConfig.model_validate({"engine": endpoint}))
        assert step.estimate(self.folder / name)["requests"] == 1
        return run_step(step, self.folder / name, LOCAL).statuses

    def dedupe(self, name):
        return run_step(Dedupe(DedupeConfig()), self.folder / name, LOCAL).statuses

    def generate(self, name, target):
        step = Generate(GenerateConfig(**self._endpoint("teacher"), kinds=["detail"]))
        assert step.estimate(self.folder / name)["requests"] == 1
        return run_derive(step, self.folder / name, self.folder / target, LOCAL).statuses

    def judge(self, talks, images):
        step = Judge(JudgeConfig(**self._endpoint("teacher"), images=str(self.folder / images)))
        assert step.estimate(self.folder / talks)["requests"] == 1
        return run_step(step, self.folder / talks, LOCAL).statuses

    def report(self, *names):
        return write_report([self.folder / name for name in names], self.folder / "report.html").read_text()

    def _endpoint(self, server):
        return {"model": "m", "provider": "test", "base_url": self.servers[server], "cache": str(self.folder / "cache")}


@pytest.mark.parametrize("make", [image_folder, img2dataset, huggingface, webdataset])
def test_failed_rows_are_counted_by_every_step_after_an_import(house, make):
    importer, reasons = make(house.folder)
    run_import(importer, house.folder / "photos", LOCAL)
    left_out = dict.fromkeys(reasons, 1)
    failed = len(reasons)
    assert house.mix("mix0", captions="key", images="photos") == {"taken": 1, **left_out}
    assert house.dedupe("photos") == {"ok": 1, "no_image": failed}
    assert house.caption("photos") == {"ok": 1, "no_image": failed}
    assert house.mix("mix1", captions="caption", images="photos") == {"taken": 1, "no_caption": failed}
    assert house.generate("photos", "talks") == {"ok": 1, "skipped_input": failed}
    assert house.judge("talks", "photos") == {"ok": 1, "not_asked": failed}
    assert house.mix("mix2", conversations="talks", images="photos") == {"taken": 1, "generate=skipped_input": failed}
    page = house.report("photos", "talks", "mix0", "mix2")
    assert all(reason in page for reason in reasons)


def bad_cell(folder):
    """A good picture beside captions that are numbers."""
    pq.write_table(pa.table({"image": [{"bytes": GOOD, "path": "1.jpg"}], "captions": [[1]]}), folder / "h.parquet")
    return HuggingFace(HuggingFace.Config(path=str(folder / "h.parquet"))), "bad_value"


def bad_json(folder):
    """A good picture beside JSON that was cut."""
    _tar(folder / "w.tar", {"0.jpg": GOOD, "0.json": b'{"source": "we'})
    return WebDataset(WebDataset.Config(path=str(folder / "w.tar"))), "bad_value"


def no_address(folder):
    """A picture that was fetched from an address that the table lost."""
    row = {"key": "0", "url": None, "caption": "a cat", "status": "success", "error_message": None, "jpg": GOOD}
    schema = pa.schema([(name, pa.binary() if name == "jpg" else pa.string()) for name in row])
    (folder / "out").mkdir()
    pq.write_table(pa.Table.from_pylist([row], schema), folder / "out" / "00000.parquet")
    return Img2dataset(Img2dataset.Config(path=str(folder / "out"))), "ok"


@pytest.mark.parametrize("make", [bad_cell, bad_json, no_address])
def test_a_bad_cell_does_not_hide_a_good_picture(house, make):
    importer, status = make(house.folder)
    summary = run_import(importer, house.folder / "photos", LOCAL)
    assert (summary.statuses, summary.usable_share) == ({status: 1}, 1.0)
    assert house.mix("mix", captions="key", images="photos") == {"taken": 1}
    shown = CliRunner().invoke(app, ["show", str(house.folder / "photos"), "--json"]).stdout
    assert json.loads(shown)["left_out"] == {}


def test_judging_a_conversation_without_pictures_is_no_error(house):
    said = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    rows = [
        {"key": "t", "image_keys": [], "messages": said, "status": "ok"},
        {"key": "bad", "status": "bad_conversation"},
    ]
    write_dataset(house.folder / "talks", "conversations", [pa.Table.from_pylist(rows, BASE["conversations"])])
    write_dataset(house.folder / "photos", "images", [pa.Table.from_pylist([{"key": "p"}], BASE["images"])])
    assert house.judge("talks", "photos")["not_asked"] == 1


class Looks(StrEnum):
    ok = "ok"
    ugly = "ugly"
    soft = "soft"


class Curate(Step[Config]):
    """A step that no consumer knows: the key says what it finds."""

    name, version, Config = "curate", 1, Config
    reads = ("key",)
    statuses = Looks
    leaves_out = frozenset({"ugly"})
    by_choice = {"soft": "soft"}  # noqa: RUF012

    def process(self, batch):
        return self.rows_to_batch(
            [{"status": key, "detail": f"looks {key}"} for key in batch.column("key").to_pylist()]
        )


@pytest.fixture
def curated(house):
    rows = [
        {"key": key, "alt_text": f"a cat, {key}", "image": {"bytes": jpeg(120, 100 + number)}}
        for number, key in enumerate(Looks)
    ]
    schema = pa.schema([*BASE["images"], STORED_IMAGE[0]])
    write_dataset(house.folder / "photos", "images", [pa.Table.from_pylist(rows, schema)])
    said = [{"type": "image"}, {"type": "text", "text": "What?"}], [{"type": "text", "text": "A cat."}]
    messages = [{"role": role, "content": part} for role, part in zip(("user", "assistant"), said, strict=True)]
    talks = [{"key": key, "image_keys": [key], "messages": messages, "status": "ok"} for key in Looks]
    write_dataset(house.folder / "old-talks", "conversations", [pa.Table.from_pylist(talks, BASE["conversations"])])
    run_step(Curate(Config()), house.folder / "photos", LOCAL)
    return house


def test_a_new_curation_step_is_respected_by_everyone_who_reads_rows(curated):
    folder, expected = curated.folder, {"taken": 1, "curate=ugly": 1, "soft": 1}
    assert curated.mix("mix", captions="alt_text", images="photos") == expected
    assert curated.mix("mix2", conversations="old-talks", images="photos") == expected
    assert curated.generate("photos", "talks") == {"ok": 1, "skipped_input": 2}
    details = [row["detail"] for row in Dataset.open(folder / "talks").take(range(3), ["detail"])]
    assert details == [None, "curate=ugly", "soft"]
    assert "curate=ugly" in curated.report("photos")
    shown = CliRunner().invoke(app, ["show", str(folder / "photos"), "--json"]).stdout
    assert json.loads(shown)["left_out"] == {"curate": {"ugly": "curate=ugly", "soft": "soft"}}
    row = CliRunner().invoke(app, ["show", str(folder / "photos"), "--status", "curate=ugly", "--json"]).stdout
    assert json.loads(row)["left_out"] == "curate=ugly"


def test_a_copy_of_a_picture_that_cannot_be_used_is_not_lost_with_it(house):
    """The largest picture of the cluster is ugly: another one represents it, and an ugly copy is still a copy."""
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8))
    rows = []
    for key, side in (("ugly", 300), ("ok", 200), ("soft", 200)):
        buffer = io.BytesIO()
        picture.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
        rows.append({"key": key, "image": {"bytes": buffer.getvalue()}})
    schema = pa.schema([*BASE["images"], STORED_IMAGE[0]])
    write_dataset(house.folder / "photos", "images", [pa.Table.from_pylist(rows, schema)])
    run_step(Curate(Config()), house.folder / "photos", LOCAL)
    assert house.dedupe("photos") == {"near_copy": 1, "copy": 1, "ok": 1}
    columns = ["key", "cluster", "cluster_size", "duplicate_of"]
    assert [tuple(row.values()) for row in Dataset.open(house.folder / "photos").take(range(3), columns)] == [
        ("ugly", "ok", 3, "ok"),
        ("ok", "ok", 3, None),
        ("soft", "ok", 3, "ok"),
    ]
    assert house.mix("mix", captions="key", images="photos") == {"taken": 1, "curate=ugly": 1, "duplicate": 1}


def test_captions_leave_out_what_cannot_be_used_and_take_what_is_by_choice(curated):
    endpoint = {"name": "endpoint", **curated._endpoint("captioner")}
    step = Caption(CaptionConfig.model_validate({"engine": endpoint}))
    assert run_step(step, curated.folder / "photos", LOCAL).statuses == {"ok": 2, "skipped_input": 1}
    # Made again after its own file it looks at the same rows: nothing is missing.
    assert run_step(step, curated.folder / "photos", LOCAL).made == 0


def test_a_step_that_came_later_makes_no_earlier_one_run_again(curated):
    class Later(Curate):
        name = "later"

    endpoint = {"name": "endpoint", **curated._endpoint("captioner")}
    step = Caption(CaptionConfig.model_validate({"engine": endpoint}))
    run_step(step, curated.folder / "photos", LOCAL)
    run_step(Later(Config()), curated.folder / "photos", LOCAL)
    assert run_step(step, curated.folder / "photos", LOCAL).made == 0
