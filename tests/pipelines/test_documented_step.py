"""The step that docs/pipelines.md writes is a step."""

import io
import re
from pathlib import Path

import pyarrow as pa
from PIL import Image

from schemas import Dataset
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset

PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"


def png(picture: Image.Image) -> dict:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def test_the_documented_step_runs_as_it_stands(tmp_path, monkeypatch):
    striped = Image.new("L", (32, 32))
    striped.putdata([255 * (column % 4 > 1) for _ in range(32) for column in range(32)])
    images = [png(Image.new("L", (32, 32), 90)), None, png(striped)]
    rows = [{"key": str(number), "image": image} for number, image in enumerate(images)]
    table = pa.Table.from_pylist(rows, pa.schema([*BASE["images"], *STORED_IMAGE]))
    write_dataset(tmp_path / "photos", "images", [table])
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "documented"})
    flat, missing, sharp = Dataset.open("photos").take(range(3), ["sharpness", "sharpness_status"])
    assert flat == {"sharpness": 0.0, "sharpness_status": "ok"}
    assert missing == {"sharpness": None, "sharpness_status": "no_image"}
    assert sharp["sharpness"] > 1000
