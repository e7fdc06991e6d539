"""A checkpoint's mixes are found by its run folders, and compared with what it is evaluated on."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lavabeam.evaluation import leaks as module
from lavabeam.evaluation.leaks import leaks, mixes_of
from schemas.records import BASE
from schemas.writing import write_dataset

LONG = "What is the small grey bird in the upper left corner holding?"


def picture(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    Image.fromarray(pixels).resize((120, 120), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def smaller(data):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").resize((100, 100)).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def sample(key, text, *pictures):
    said = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    counts = {"image_count": len(pictures), "image_tokens": 0, "tokens": 1, "supervised_tokens": 1}
    return {"key": key, "messages": said, "images": [{"bytes": one, "path": None} for one in pictures], **counts}


@pytest.fixture
def trained(tmp_path):
    """Two runs, the second from the first's model; paths are relative to the folder above."""
    for name, rows in (
        ("pretrain", [sample("p", "Describe.", picture(1))]),
        ("finetune", [sample("f", LONG, picture(2)), sample("g", "Hm?", smaller(picture(3))), sample("h", "So?")]),
    ):
        write_dataset(tmp_path / name, "samples", [pa.Table.from_pylist(rows, BASE["samples"])])
        run = tmp_path / "runs" / name
        (run / "model").mkdir(parents=True)
        (run / "inputs.json").write_text(json.dumps({"mix": {"path": name}}))
        (run / "recipe.yaml").write_text(
            "model: {checkpoint: runs/pretrain/model}" if name == "finetune" else "model: {}"
        )
    return tmp_path / "runs" / "finetune" / "model"


def test_the_mixes_of_all_stages_are_found(trained, tmp_path):
    assert list(mixes_of(trained)) == [str(tmp_path / "finetune"), str(tmp_path / "pretrain")]
    assert list(mixes_of(trained.parent)) == list(mixes_of(trained))
    assert leaks(tmp_path, [("a", LONG, ())]) == []


def test_pictures_and_texts_are_counted_apart(trained):
    asked = [("a", LONG, (picture(7),)), ("b", "Who?", (picture(3),)), ("c", "Where?", (picture(8),))]
    finetune, pretrain = leaks(trained, asked)
    assert (finetune.pictures, finetune.texts, finetune.rows) == ((1, 1), (1, 1), 3)
    assert "1 show the pictures of at least 1 of 3 questions looked at" in finetune.line()
    assert "1 have, word for word, the text of at least 1" in finetune.line()
    assert pretrain.line() == ""
    (_, pretrain) = leaks(trained, [("a", "Who?", (picture(1),))])
    assert "may know the answers" in pretrain.line()


def test_a_large_mix_is_looked_at_in_even_portions(trained, monkeypatch):
    monkeypatch.setattr(module, "COMPARED", 1)
    monkeypatch.setattr(module, "_PORTION", 1)
    found = leaks(trained, [("a", LONG, ())])[0]
    assert (found.looked_at, found.rows, found.texts) == (1, 3, (1, 1))
    assert "rows: 1 of 3 looked at" in found.line()


def test_what_cannot_be_compared_is_said(trained, tmp_path):
    (nothing, _) = leaks(trained, [("a", "Hm?", ())])
    assert "was not compared with this set: no picture that can be decoded" in nothing.line()
    (trained.parent / "inputs.json").write_text('{"mix": {"path": "gone"}}')
    (gone, _) = leaks(trained, [("a", LONG, ())])
    assert "no dataset here" in gone.line()
