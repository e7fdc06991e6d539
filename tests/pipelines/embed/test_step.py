"""Embedding a small dataset with tiny models, on the local runner."""

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipelines.embed import Embed, EmbedConfig, EmbedText, EmbedTextConfig
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from pipelines.models.encoder import Encoder
from pipelines.models.folder import embedding_model
from schemas import Dataset
from schemas.errors import InputError, SchemaError
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset
from tests.pipelines.models import tiny

LOCAL = Runner("local", 1)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for make in (tiny.clip, tiny.dinov2, tiny.bert):
        make(root / make.__name__)
    return root


def png(seed):
    buffer = io.BytesIO()
    Image.fromarray(tiny.noise(seed)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path):
    schema = pa.schema([*BASE["images"], STORED_IMAGE[0]])
    rows = [
        {"key": "a", "image": {"bytes": png(0)}, "alt_text": "a red cat"},
        {"key": "b", "image": None, "alt_text": "dog"},
        {"key": "c", "image": {"bytes": b"junk"}, "alt_text": None},
        {"key": "d", "image": {"bytes": png(1)}, "alt_text": "  "},
    ]
    tables = [pa.Table.from_pylist(part, schema) for part in (rows[:3], rows[3:])]
    write_dataset(tmp_path / "photos", "images", tables)
    return tmp_path / "photos"


def rows_of(path, *columns):
    dataset = Dataset.open(path)
    return dataset.take(range(dataset.rows), list(columns))


def test_every_picture_has_a_unit_vector_or_a_reason(photos, models):
    model = str(models / "clip")
    summary = run_step(Embed(EmbedConfig(model=model, batch=2, device="cpu")), photos, LOCAL)
    assert summary.statuses == {"ok": 2, "no_image": 1, "undecodable": 1}
    assert summary.asked == 3
    fragment = Dataset.open(photos).fragments[0].read(["embedding"])
    assert fragment.schema.field("embedding").type == pa.list_(pa.float16(), 8)
    found = rows_of(photos, "embedding", "embedding_model", "embed_status", "embed_detail")
    expected = Encoder(embedding_model(model, "pictures"), "cpu").encode([tiny.noise(0), tiny.noise(1)])
    for row, vector in zip((found[0], found[3]), expected, strict=True):
        assert np.array(row["embedding"], np.float32) == pytest.approx(vector, abs=1e-3)
        assert row["embedding_model"].startswith("clip@")
        assert row["embedding_model"].endswith(" projected")
    assert [found[n]["embedding"] for n in (1, 2)] == [None, None]
    assert found[2]["embed_detail"].startswith("not_image")


def test_texts_are_embedded_beside_pictures_and_the_rest_is_reused(photos, models):
    run_step(Embed(EmbedConfig(model=str(models / "dinov2"), device="cpu")), photos, LOCAL)
    step = EmbedText(EmbedTextConfig(model=str(models / "bert"), device="cpu"))
    assert run_step(step, photos, LOCAL).statuses == {"ok": 2, "no_text": 2}
    again = run_step(EmbedText(EmbedTextConfig(model=str(models / "bert"), batch=1, device="cpu")), photos, LOCAL)
    assert (again.made, again.reused) == (0, 2)
    found = rows_of(photos, "embedding", "text_embedding", "text_embedding_model")
    assert [row["text_embedding"] is None for row in found] == [False, False, True, True]
    assert found[0]["text_embedding_model"].endswith(" mean")
    assert len(found[0]["embedding"]) == 16


def test_other_weights_under_the_same_name_are_another_model(photos, tmp_path):
    folder = tiny.clip(tmp_path / "clip")
    step = Embed(EmbedConfig(model=str(folder), device="cpu"))
    run_step(step, photos, LOCAL)
    before = rows_of(photos, "embedding_model")[0]
    torch.manual_seed(1)
    import transformers

    model = transformers.CLIPModel.from_pretrained(folder)
    for weights in model.parameters():
        weights.data = torch.randn_like(weights)
    model.save_pretrained(folder)
    summary = run_step(Embed(EmbedConfig(model=str(folder), device="cpu")), photos, LOCAL)
    assert summary.made == 2
    assert rows_of(photos, "embedding_model")[0] != before


def test_turns_of_a_conversation_are_one_text(tmp_path, models):
    said = [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "a red"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "cat"}]},
    ]
    row = {"key": "t", "image_keys": ["a"], "messages": said, "kind": "k", "source": "s", "status": "ok"}
    write_dataset(tmp_path / "talks", "conversations", [pa.Table.from_pylist([row], BASE["conversations"])])
    config = EmbedTextConfig(model=str(models / "bert"), text="messages", device="cpu")
    assert run_step(EmbedText(config), tmp_path / "talks", LOCAL).statuses == {"ok": 1}
    expected = Encoder(embedding_model(str(models / "bert"), "texts"), "cpu").encode(["a red\ncat"])[0]
    found = rows_of(tmp_path / "talks", "text_embedding")[0]["text_embedding"]
    assert np.array(found, np.float32) == pytest.approx(expected, abs=1e-3)


def test_wrong_columns_and_folders_end_the_run_before_any_work(photos, models):
    with pytest.raises(SchemaError, match="nowhere"):
        run_step(EmbedText(EmbedTextConfig(model=str(models / "bert"), text="nowhere")), photos, LOCAL)
    with pytest.raises(InputError, match="column 'image' holds struct"):
        run_step(EmbedText(EmbedTextConfig(model=str(models / "bert"), text="image")), photos, LOCAL)
    with pytest.raises(InputError, match="a bert model embeds texts"):
        run_step(Embed(EmbedConfig(model=str(models / "bert"))), photos, LOCAL)
    with pytest.raises(InputError, match="no such folder"):
        run_step(Embed(EmbedConfig(model="/nowhere")), photos, LOCAL)
    assert "embed" not in Dataset.open(photos).manifest.names
