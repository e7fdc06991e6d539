"""The step over small datasets on the local runner, and mixes that filter by its columns."""

import io
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from pipelines.score import RowScorer, Score, ScoreConfig, Settings
from pipelines.score import registry as registered
from pipelines.score.pixels import blur
from schemas import Dataset
from schemas.config import parse
from schemas.errors import InputError, SchemaError
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset
from tests.pipelines.models import tiny
from tests.pipelines.test_mix import talk
from tests.pipelines.test_mix_rows import made as mixed_rows
from tests.pipelines.tokenizer import write_tokenizer

LOCAL = Runner("local", 1)
SCHEMA = pa.schema([*BASE["images"], STORED_IMAGE[0]])


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


ROWS = [
    {"key": "noise", "image": {"bytes": png(tiny.noise(0))}, "alt_text": "a red cat"},
    {"key": "none", "image": None, "alt_text": "dog"},
    {"key": "junk", "image": {"bytes": b"junk"}, "alt_text": "photo"},
    {"key": "flat", "image": {"bytes": png(np.full((40, 80, 3), 9, np.uint8))}, "alt_text": " "},
    {"key": "silent", "image": {"bytes": png(tiny.noise(1))}, "alt_text": None},
]


@pytest.fixture
def photos(tmp_path):
    tables = [pa.Table.from_pylist(part, SCHEMA) for part in (ROWS[:3], ROWS[3:])]
    write_dataset(tmp_path / "photos", "images", tables)
    return tmp_path / "photos"


def scored(path, *scorers, **options):
    """(counts by status, rows by key) after a run."""
    config = parse({"scorers": list(scorers), **options}, ScoreConfig, "test")
    summary = run_step(Score(config), path, LOCAL)
    dataset = Dataset.open(path)
    names = [name for name in dataset.columns if name not in ("image", "alt_text")]
    return summary.statuses, {row["key"]: row for row in dataset.take(range(dataset.rows), names)}


def test_every_row_keeps_its_place_with_the_scores_that_it_can_have(photos):
    statuses, rows = scored(photos, "resolution,aspect,blur,length")
    assert statuses == {"no_text": 2, "ok": 1, "no_image": 1, "undecodable": 1}
    assert rows["noise"]["blur"] == pytest.approx(blur(np.array(Image.fromarray(tiny.noise(0)).convert("L"))), rel=0.01)
    assert [rows[key]["resolution"] for key in rows] == [20, None, None, 40, 20]
    assert [rows[key]["aspect"] for key in rows] == [1.5, None, None, 2, 1.5]
    assert [rows[key]["length"] for key in rows] == [3, 1, 1, None, None]
    assert rows["flat"]["blur"] == 0
    assert rows["junk"]["score_detail"].startswith("not_image")


def test_columns_may_be_named_and_texts_come_from_any_column(tmp_path):
    said = [{"role": "user", "content": [{"type": "text", "text": "see https://a.org"}]}]
    row = {"key": "t", "image_keys": [], "messages": said, "kind": "k", "source": "s", "status": "ok"}
    write_dataset(tmp_path / "talks", "conversations", [pa.Table.from_pylist([row], BASE["conversations"])])
    given = ("url_share", "language", {"name": "length", "text": "source", "column": "source_words"})
    statuses, rows = scored(tmp_path / "talks", *given, text="messages")
    assert statuses == {"ok": 1}
    assert rows["t"]["url_share"] == pytest.approx(13 / 16)
    assert rows["t"]["source_words"] == 1
    assert isinstance(rows["t"]["language"], str)
    assert 0 < rows["t"]["language_confidence"] <= 1


def test_scorers_with_models_share_a_decode_and_a_model(photos, tmp_path):
    clip, classifier = tiny.clip(tmp_path / "clip"), tiny.classifier(tmp_path / "classifier")
    torch.save(torch.nn.Linear(8, 1).state_dict(), tmp_path / "head.pth")
    given = [
        "blur",
        {"name": "similarity", "model": str(clip)},
        {"name": "aesthetic", "model": str(clip), "head": str(tmp_path / "head.pth")},
        {"name": "nsfw", "model": str(classifier)},
    ]
    statuses, rows = scored(photos, *given, batch=2, device="cpu")
    assert statuses == {"no_text": 2, "ok": 1, "no_image": 1, "undecodable": 1}
    assert -1 <= rows["noise"]["similarity"] <= 1
    assert [rows[key]["similarity"] is None for key in rows] == [False, True, True, True, True]
    assert [rows[key]["nsfw"] is None for key in rows] == [False, True, True, False, False]
    assert rows["noise"]["blur"] > 0
    again = run_step(Score(parse({"scorers": given, "batch": 5}, ScoreConfig, "test")), photos, LOCAL)
    assert (again.made, again.reused) == (0, 2)


class Odd(RowScorer[Settings]):
    """A scorer of a package: fails on one row, and has nothing to say about another."""

    name, version, sees = "odd", 1, "header"

    def score(self, sample):
        width = sample.header.width
        if width == 80:
            raise ValueError("80 is odd")
        return math.nan if sample.row.get("alt_text") is None else float(width)


class Point:
    name, value = "odd", "package:Odd"

    def load(self):
        return Odd


def test_a_scorer_of_a_package_fails_alone(photos, monkeypatch):
    monkeypatch.setattr(registered.importlib.metadata, "entry_points", lambda group: [Point()])
    statuses, rows = scored(photos, "odd", "resolution")
    assert statuses == {"no_score": 2, "failed": 1, "no_image": 1, "undecodable": 1}
    assert rows["flat"]["score_detail"] == "odd: ValueError: 80 is odd"
    assert (rows["flat"]["odd"], rows["flat"]["resolution"]) == (None, 40)
    assert rows["noise"]["score_detail"] == "odd"


def test_scores_vanish_only_when_that_is_said(photos):
    scored(photos, "resolution,blur")
    with pytest.raises(InputError, match="has the scores blur, which this run would remove"):
        scored(photos, "resolution,entropy")
    _, rows = scored(photos, "resolution,entropy", drop=True)
    assert "blur" not in rows["noise"]
    _, rows = scored(photos, "resolution,entropy,blur")
    assert rows["noise"]["blur"] > 0


def test_a_score_by_another_name_is_made_again(photos):
    _, rows = scored(photos, {"name": "length", "column": "foo"})
    assert rows["noise"]["foo"] == 3
    _, rows = scored(photos, {"name": "length", "column": "bar"}, drop=True)
    assert (rows["noise"]["bar"], "foo" in rows["noise"]) == (3, False)
    _, rows = scored(photos, "length", drop=True)
    assert (rows["noise"]["length"], "bar" in rows["noise"]) == (3, False)
    named = [("resolution", "a"), ("aspect", "b")], [("resolution", "b"), ("aspect", "a")]
    for pairs in named:
        _, rows = scored(photos, *({"name": name, "column": column} for name, column in pairs), drop=True)
        assert [rows["flat"][column] for _, column in pairs] == [40, 2]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("key", "score: 'key' is a column of every images dataset"),
        ("url", "score: 'url' is a column of every images dataset"),
        ("width", "score: 'width' is a column of every images dataset"),
        ("score_status", "'score_status' is the name of a status column"),
        ("similarity", "'similarity' of .*photos was imported with the rows.*--extra '{similarity_of_list: ...}'"),
        ("resolution", "score: two scorers make the column 'resolution'"),
    ],
)
def test_a_score_covers_no_column_of_others(tmp_path, column, words):
    rows = [{**row, "similarity": "0.3"} for row in ROWS]
    table = pa.Table.from_pylist(rows, pa.schema([*SCHEMA, ("similarity", pa.string())]))
    write_dataset(tmp_path / "photos", "images", [table])
    with pytest.raises(InputError, match=words):
        scored(tmp_path / "photos", "resolution", {"name": "length", "column": column})
    dataset = Dataset.open(tmp_path / "photos")
    assert (dataset.manifest.number, dataset[0]["key"]) == (1, "noise")


def test_wrong_columns_end_the_run_before_any_work(photos, tmp_path):
    with pytest.raises(SchemaError, match="nowhere"):
        scored(photos, "length", text="nowhere")
    with pytest.raises(InputError, match="column 'width' holds int32"):
        scored(sized(tmp_path / "sized"), {"name": "length", "text": "width"})
    with pytest.raises(InputError, match="two scorers make the column 'blur'"):
        scored(photos, "blur", {"name": "entropy", "column": "blur"})
    vectors = pa.table(
        {
            "key": ["a", "b"],
            "one": pa.array([[1.0, 0.0], None], pa.list_(pa.float32(), 2)),
            "two": pa.array([[0.6, 0.8], [1.0, 0.0]], pa.list_(pa.float16(), 2)),
            "three": pa.array([[1.0] * 3] * 2, pa.list_(pa.float32(), 3)),
        }
    )
    write_dataset(tmp_path / "vectors", "images", [pa.Table.from_pydict(_filled(vectors), schema=_with(vectors))])
    for columns, words in [(("one", "three"), "one has 2 numbers and three 3"), (("key", "two"), "'key' holds string")]:
        with pytest.raises(InputError, match=words):
            scored(tmp_path / "vectors", _of_columns(*columns))
    statuses, rows = scored(tmp_path / "vectors", _of_columns("one", "two"))
    assert statuses == {"ok": 1, "no_value": 1}
    assert rows["a"]["similarity"] == pytest.approx(0.6, abs=1e-3)
    assert rows["b"]["score_detail"] == "one"


def sized(path):
    row = {"key": "a", "width": 3}
    write_dataset(path, "images", [pa.Table.from_pylist([row], pa.schema([*BASE["images"], ("width", pa.int32())]))])
    return path


def _of_columns(image, text):
    return {"name": "similarity", "image_embedding": image, "text_embedding": text}


def _with(table):
    own = [field for field in table.schema if field.name != "key"]
    return pa.schema([*BASE["images"], *own])


def _filled(table):
    return {
        field.name: table[field.name] if field.name in table.column_names else pa.nulls(2, field.type)
        for field in _with(table)
    }


@given(st.lists(st.sampled_from(range(len(ROWS))), min_size=1, max_size=12), st.integers(1, 5))
@settings(max_examples=15)
def test_rows_in_are_rows_out_in_any_batch(numbers, cut):
    """Whatever comes together: each row's scores depend on that row alone."""
    step = Score(parse({"scorers": "blur,aspect,length,repetition"}, ScoreConfig, "test"))
    whole = pa.RecordBatch.from_pylist(
        [{"image": ROWS[n]["image"], "alt_text": ROWS[n]["alt_text"]} for n in numbers],
        schema=pa.schema([SCHEMA.field("image"), SCHEMA.field("alt_text")]),
    )
    together = step.process(whole).to_pylist()
    apart = [row for start in range(0, len(numbers), cut) for row in step.process(whole.slice(start, cut)).to_pylist()]
    assert together == apart
    assert len(together) == len(numbers)
    assert all(row["score_status"] for row in together)


def test_a_mix_filters_by_range_and_counts_one_reason(tmp_path):
    write_tokenizer(tmp_path / "tokenizer")
    write_dataset(
        tmp_path / "photos", "images", [pa.Table.from_pylist(ROWS, pa.schema([*BASE["images"], *STORED_IMAGE]))]
    )
    scored(tmp_path / "photos", "resolution,blur,length")
    talks = [talk(f"t{n}", row["key"]) for n, row in enumerate(ROWS)]
    where = {"resolution": {"min": 10, "max": 30}, "length": {"min": 1}}
    counts, rows = mixed_rows(tmp_path, talks, source={"image_where": where})
    assert list(rows) == ["t0"]
    # The junk is refused by its scores, the picture of 40 pixels by its size, and a null text has no length.
    reasons = ("image_missing", "resolution missing", "resolution above 30", "length missing")
    assert counts == {"taken": 1, **dict.fromkeys(reasons, 1)}
