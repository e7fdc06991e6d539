"""The report: everything that is in the datasets, nothing from outside, and nobody's text becomes markup."""

import io
from html.parser import HTMLParser

import pyarrow as pa
import pytest
from PIL import Image

from pipelines.report import write_report
from pipelines.report.collect import spread
from pipelines.report.page import curve_of, stages, tone
from pipelines.report.pictures import thumbnail
from schemas.entries import StatusRule
from schemas.errors import InputError
from schemas.records import BASE, STORED_IMAGE
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
        "Tokens of a row",
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
