"""The demo's pictures, their list of URLs, and the port that keeps it stable."""

import io
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lavabeam.demo import inputs
from lavabeam.demo.web import Server
from pipelines.importers.url_list import UrlList, UrlListConfig
from schemas.commit import Change, commit
from schemas.writing import write_dataset


@pytest.fixture(scope="module")
def site():
    return inputs.build_website()


@pytest.fixture
def built(site, monkeypatch):
    """The website of this module, not built again."""
    monkeypatch.setattr(inputs, "build_website", lambda: site)


def test_the_list_holds_every_picture_and_the_faults(site):
    rows = [json.loads(line) for line in inputs.url_list(site, "http://127.0.0.1:1").splitlines()]
    assert Counter(row["source"] for row in rows) == {"easy-vqa": 4000, "photographs": 20, "faults": 7, "copies": 7}
    assert len({row["key"] for row in rows}) == len(rows)
    assert rows[0]["url"] == "http://127.0.0.1:1/photographs/astronaut.png"
    paths = {row["url"].removeprefix("http://127.0.0.1:1") for row in rows}
    assert paths - set(site.pages) == {f"/photographs/{name}" for name in inputs.MISSING}


def test_facts_stand_with_the_training_pictures(site):
    rows = {row["key"]: row for row in site.rows}
    assert rows["easy-vqa/train/0"]["facts"] == {"shape": "rectangle", "color": "blue"}
    assert "facts" not in rows["photographs/chelsea"]


def test_the_importer_takes_every_row(site, tmp_path):
    path = tmp_path / "urls.jsonl"
    path.write_text(inputs.url_list(site, "http://127.0.0.1:1"))
    importer = UrlList(UrlListConfig(path=str(path)))
    statuses = Counter()
    for part in importer.slices():
        statuses.update(importer.rows(part).column("import_status").to_pylist())
    assert statuses == {"ok": 4034}


def test_copies_are_copies_and_faults_are_no_pictures(site):
    def content(path):
        found = site.pages[path].content
        return found if isinstance(found, bytes) else found.read_bytes()

    assert content("/mirror/coffee.png") == content("/photographs/coffee.png")
    again = Image.open(io.BytesIO(content("/resaved/chelsea.jpg")))
    first = Image.open(io.BytesIO(content("/photographs/chelsea.png"))).convert("RGB")
    assert (again.format, again.size) == ("JPEG", first.size)
    assert np.abs(np.asarray(again, int) - np.asarray(first, int)).mean() < 5
    for path in ("/photographs/broken.jpg", "/photographs/moved.jpg"):
        with pytest.raises(OSError):
            Image.open(io.BytesIO(content(path))).load()


def test_the_evaluation_split_is_the_published_one():
    questions = list(inputs.evaluation_questions())
    assert len(questions) == 9673
    assert {question.kind for question in questions} == {"color", "shape", "yesno"}
    assert all(question.images[0].is_file() for question in questions[::500])


def test_a_second_preparation_keeps_port_and_list(tmp_path, built):
    first = inputs.prepare(tmp_path / "work", tmp_path / "images")
    text = first.url_list.read_text()
    second = inputs.prepare(tmp_path / "work", tmp_path / "images")
    assert (second.server.port, second.url_list.read_text(), second.note) == (first.server.port, text, None)


def test_no_server_is_needed_once_everything_is_downloaded(tmp_path, built):
    first = inputs.prepare(tmp_path / "work", tmp_path / "images")
    rows = pa.table({"key": ["a"], "url": ["http://a"]})
    dataset = write_dataset(tmp_path / "images", "images", [rows])
    assert inputs.prepare(tmp_path / "work", tmp_path / "images").server is not None
    (fragment,) = dataset.manifest.fragments
    files = {fragment.id: {"download": fragment.files["base"]}}
    commit(dataset.store, Change(1, dataset.schema_version, files=files))
    with Server({}, first.server.port):
        assert inputs.prepare(tmp_path / "work", tmp_path / "images").server is None


def test_a_taken_port_makes_a_new_list_and_says_so(tmp_path, built):
    first = inputs.prepare(tmp_path / "work", tmp_path / "images")
    with Server({}, first.server.port):
        second = inputs.prepare(tmp_path / "work", tmp_path / "images")
    assert second.server.port != first.server.port
    assert f"port {first.server.port} of the last run is taken" in second.note
    assert f"http://127.0.0.1:{second.server.port}/" in second.url_list.read_text()
