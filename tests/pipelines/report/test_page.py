"""The report: everything that is in the datasets, nothing from outside, and nobody's text becomes markup."""

import io
from html.parser import HTMLParser

import pyarrow as pa
import pytest
from PIL import Image

from pipelines.report import counts, write_report
from pipelines.report.collect import spread
from pipelines.report.page import curve_of, stages, tone
from pipelines.report.pictures import thumbnail
from schemas.columnfile import column_path, write_column_file
from schemas.commit import Change, commit
from schemas.dataset import Dataset
from schemas.entries import Parent, StatusRule
from schemas.errors import InputError
from schemas.manifest import StepEntry
from schemas.records import BASE, STORED_IMAGE
from schemas.standing import EVERY_CHOICE, Standing, Use
from schemas.store import Store
from schemas.writing import write_dataset


def png(color, size=(64, 48)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def said(role, text):
    return {"role": role, "content": [{"type": "text", "text": text}]}


@pytest.fixture
def datasets(tmp_path):
    added = [STORED_IMAGE[0], STORED_IMAGE[1], STORED_IMAGE[2], *map(text, ("caption", "cluster", "dedupe_status"))]
    added += [text("download_status"), text("download_detail"), pa.field("cluster_size", pa.int32())]
    size = {"width": 64, "height": 48, "download_status": "ok", "source": "web", "cluster": "red", "cluster_size": 2}
    rows = [
        {"key": "red", "image": png("red"), "caption": "A <b>red</b> picture.", "dedupe_status": "ok", **size},
        {"key": "red2", "image": png("red"), "dedupe_status": "copy", **size},
        {
            "key": "gone",
            "url": "http://photos.test/gone.jpg",
            "download_status": "not_found",
            "download_detail": "HTTP 404",
        },
    ]
    write_dataset(tmp_path / "photos", "images", [pa.Table.from_pylist(rows, pa.schema([*BASE["images"], *added]))])
    talks = [
        {
            "key": "red/0",
            "image_keys": ["red"],
            "messages": [said("user", "What is <this>?"), said("assistant", "A script: <script>alert(1)</script>")],
            "kind": "conversation",
            "status": "ok",
        },
        {"key": "gone/0", "kind": "conversation", "status": "refused", "detail": "the model declined"},
    ]
    write_dataset(tmp_path / "talks", "conversations", [pa.Table.from_pylist(talks, BASE["conversations"])])
    numbers = {"image_count": 1, "image_tokens": 16, "supervised_tokens": 4}
    samples = [
        {"key": "s", "images": [png("blue", (300, 300))], "source": "web", "kind": "vqa", "tokens": 40, **numbers},
        {"key": "t", "images": [], "source": "web", "kind": "vqa", "tokens": 90, **numbers},
    ]
    write_dataset(tmp_path / "mix", "samples", [pa.Table.from_pylist(samples, BASE["samples"])])
    return [tmp_path / "photos", tmp_path / "talks", tmp_path / "mix"]


def text(name):
    return pa.field(name, pa.string())


class Tags(HTMLParser):
    """Every tag's addresses, and which tags were opened and not closed."""

    EMPTY = ("meta", "img", "line", "rect", "polyline")

    def __init__(self):
        super().__init__()
        self.addresses, self.open, self.names = [], [], set()

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass


TRAINING = {
    "train": {"stage1": {"losses": [3.0, 2.0, 1.5], "seconds": 12.34567}, "reused": False},
    "evaluation": {
        "accuracy": 0.9184,
        "constant_baseline": 0.44,
        "questions": 9673,
        "kinds": {"color": {"questions": 12, "accuracy": 0.5, "constant_baseline": 0.2, "constant_answer": "red"}},
    },
}


def test_a_page_shows_rows_statuses_talks_and_training(datasets, tmp_path):
    page = write_report(datasets, tmp_path / "out" / "report.html", TRAINING).read_text()
    for expected in (
        "http://photos.test/gone.jpg",
        "HTTP 404",
        "Copies and near-copies: 1 cluster<",
        "A &lt;b&gt;red&lt;/b&gt; picture.",
        "the model declined",
        "stage1, loss",
        "12.35",
        "91.8%",
        "“red”",
        "Tokens per row",
    ):
        assert expected in page, expected


def test_nothing_is_fetched_and_no_text_becomes_markup(datasets, tmp_path):
    page = write_report(datasets, tmp_path / "report.html", TRAINING).read_text()
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.names
    assert tags.addresses
    assert all(address.startswith(("#", "data:image/")) for address in tags.addresses)
    assert "url(" not in page
    assert "@import" not in page
    assert tags.open == []


def test_the_same_datasets_give_the_same_page(datasets, tmp_path):
    first = write_report(datasets, tmp_path / "a.html").read_text()
    assert write_report(datasets, tmp_path / "b.html").read_text() == first


def test_a_folder_without_a_dataset(tmp_path):
    with pytest.raises(InputError, match="no dataset here"):
        write_report([tmp_path], tmp_path / "report.html")


@pytest.mark.parametrize(
    ("value", "points"),
    [
        ([3, 2.5], [(1.0, 3.0), (2.0, 2.5)]),
        ([[10, 3.0], [20, 2.0]], [(10.0, 3.0), (20.0, 2.0)]),
        ([{"step": 5, "loss": 1.0}, {"step": 6, "loss": 0.5}], [(5.0, 1.0), (6.0, 0.5)]),
        ([1.0], []),
        (["a", "b"], []),
        (0.5, []),
    ],
)
def test_losses_in_several_forms(value, points):
    assert curve_of(value) == points


def test_only_mappings_are_stages():
    found = list(stages({"base": {"last_loss": 0.123456, "tower": {"accuracy": 0.9}, "reused": True}, "reused": True}))
    assert [(stage.name, stage.curve, stage.figures) for stage in found] == [
        ("base", "", [("last loss", "0.1235"), ("tower accuracy", "0.9")])
    ]


def test_a_run_folder_gives_its_curve(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    stage = next(stages({"stage1": {"model": str(tmp_path / "model"), "seconds": 3}}))
    assert "polyline" in stage.curve
    assert stage.figures == [("seconds", "3")]


def test_spread_is_even_and_keeps_the_first():
    assert spread([3, 4], 5) == [3, 4]
    assert spread(list(range(10)), 5) == [0, 2, 4, 6, 8]


def test_thumbnails():
    small, large = thumbnail(png("red", (64, 64))), thumbnail(png("red", (800, 400)))
    assert small.uri.startswith("data:image/png")
    assert small.tiny
    assert large.uri.startswith("data:image/jpeg")
    assert (large.width, large.height, large.tiny) == (800, 400, False)
    assert thumbnail({"bytes": b"junk"}).uri is None
    assert thumbnail(None) is None


def test_statuses_are_success_failure_or_neither():
    rule = StatusRule(step="x", column="x_status", by_choice={"copy": "duplicate"})
    assert [tone(status, rule) for status in ("ok", "not_found", "copy", "not_asked")] == ["ok", "bad", "", ""]
    assert [tone(status, None) for status in ("taken", "weight")] == ["ok", ""]


def images(folder, rows, *extra):
    schema = pa.schema([*BASE["images"], STORED_IMAGE[0], *extra])
    return write_dataset(folder, "images", [pa.Table.from_pylist(rows, schema)])


def talks_about(folder, *keys):
    rows = [{"key": f"talk {key}", "image_keys": [key], "kind": "k", "status": "ok"} for key in keys]
    return write_dataset(folder, "conversations", [pa.Table.from_pylist(rows, BASE["conversations"])])


def test_every_cluster_is_counted_and_what_is_not_shown_is_said(tmp_path):
    rows = [
        {"key": f"{number:02d}{member}", "image": png("red"), "cluster": f"{number:02d}0", "cluster_size": size}
        for number, size in enumerate([9, *[8] * 19])
        for member in range(size)
    ]
    rows += [{"key": "alone", "image": png("red"), "cluster": "alone", "cluster_size": 1}]
    images(tmp_path / "photos", rows, text("cluster"), pa.field("cluster_size", pa.int32()))
    page = write_report([tmp_path / "photos"], tmp_path / "report.html").read_text()
    assert "Copies and near-copies: 20 clusters<" in page
    assert "and 8 more clusters" in page
    assert "and 3 more<" in page  # of the cluster of nine, six are shown
    assert "12 of 162" in page


def test_failures_are_counted_and_named_whatever_step_they_are_of(tmp_path):
    failed = {"import_status": "no_image", "import_detail": "empty file"}
    rows = [{"key": f"row {number}", **failed} for number in range(16)]
    rows += [{"key": "null", "import_status": "ok"}, {"key": "good", "image": png("red"), "import_status": "ok"}]
    images(tmp_path / "photos", rows, text("import_status"), text("import_detail"))
    page = write_report([tmp_path / "photos"], tmp_path / "report.html").read_text()
    assert "Left out, and why: 17 rows" in page
    assert "and 5 more<" in page
    assert "import=no_image" in page
    assert "empty file" in page
    assert ">good" in page


def add_statuses(dataset, name, statuses, rule):
    """A column file with these statuses for each fragment."""
    store, column = Store(dataset.path), f"{name}_status"
    files = {}
    for fragment, values in zip(dataset.fragments, statuses, strict=True):
        batch = pa.RecordBatch.from_pydict({column: values}, schema=pa.schema([text(column)]))
        path = column_path(fragment.id, name, name * 16)
        entry = write_column_file(store, path, [batch], batch.schema, "images", fingerprint=name, status_column=column)
        files[fragment.id] = {name: entry}
    step = StepEntry(version=1, config={}, statuses=rule)
    commit(store, Change(dataset.manifest.number, "images/1.0", files=files, steps={name: step}))
    return Dataset.open(dataset.path)


def test_a_large_dataset_is_counted_from_its_manifest(tmp_path, monkeypatch):
    schema = pa.schema([*BASE["images"], text("cluster"), pa.field("cluster_size", pa.int32())])
    tables = [
        pa.Table.from_pylist([{"key": f"{part}{row}", "cluster": "00", "cluster_size": 12} for row in range(2)], schema)
        for part in range(6)
    ]
    photos = write_dataset(tmp_path / "photos", "images", tables)
    cut = [["ok", "ok"], ["cut", "ok"], ["ok", "ok"], ["cut", "dim"], ["ok", "ok"], ["ok", "ok"]]
    photos = add_statuses(photos, "look", cut, StatusRule(step="look", column="look_status", unusable=["cut"]))
    judged = [["ok", "copy"], ["low", "ok"], ["ok", "ok"], ["ok", "ok"], ["ok", "ok"], ["ok", "low"]]
    rule = StatusRule(step="rate", column="rate_status", unusable=["low"], by_choice={"copy": "duplicate"})
    photos = add_statuses(photos, "rate", judged, rule)
    monkeypatch.setattr(counts, "WALKED", 5)
    read = []
    monkeypatch.setattr(
        Standing, "of_fragment", lambda self, part: read.append(part.id) or self.reasons(part.read(self.columns))
    )
    found = counts.failures(photos, Standing.of(photos, Use(takes=EVERY_CHOICE)))
    assert (found.rows, found.reasons) == (4, [("look=cut", 2), ("rate=low", 2)])
    assert [(one.name, one.reason) for one in found.shown] == [
        ("10", "look=cut"),
        ("30", "look=cut"),
        ("51", "rate=low"),
    ]
    assert read == [photos.fragments[number].id for number in (1, 3, 5)]
    page = write_report([photos.path], tmp_path / "report.html").read_text()
    assert "Left out, and why: 4 rows" in page and "Copies and near-copies: 1 row<" in page


def test_talks_say_why_there_is_no_picture(tmp_path):
    photos = images(tmp_path / "photos", [{"key": "a", "image": png("red")}, {"key": "null"}])
    talks_about(tmp_path / "talks", "a", "null", "elsewhere")
    assert "images dataset not named" in write_report([tmp_path / "talks"], tmp_path / "a.html").read_text()
    page = write_report([tmp_path / "talks", tmp_path / "photos"], tmp_path / "b.html").read_text()
    assert "not in photos" in page
    assert "image_missing" in page
    assert "not named" not in page
    commit(Store(tmp_path / "talks"), Change(1, "conversations/1.0", parents=[photos.as_parent()], info={"changed": 1}))
    page = write_report([tmp_path / "talks"], tmp_path / "c.html").read_text()
    assert "not named" not in page
    assert page.count("<img ") == 1
    (tmp_path / "moved").mkdir()
    for name in ("talks", "photos"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert write_report([tmp_path / "moved" / "talks"], tmp_path / "d.html").read_text() == page


def test_a_manifest_from_elsewhere_sends_a_report_to_no_server(tmp_path, monkeypatch):
    images(tmp_path / "photos", [{"key": "a", "image": png("red")}])
    talks_about(tmp_path / "talks", "a")
    parent = Parent(path="http://127.0.0.1:9/photos", manifest=1, sha256="0")
    commit(Store(tmp_path / "talks"), Change(1, "conversations/1.0", parents=[parent], info={"changed": 1}))
    asked = []
    monkeypatch.setattr(Dataset, "exists", lambda path, given=Dataset.exists: asked.append(str(path)) or given(path))
    assert "not in photos" not in write_report([tmp_path / "talks"], tmp_path / "a.html").read_text()
    assert asked and not any("://" in path for path in asked)


def test_a_run_folder_of_the_trainer_is_refused_by_name(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="this is a run folder of the trainer, not a dataset"):
        write_report([tmp_path / "run"], tmp_path / "report.html")
