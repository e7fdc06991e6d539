"""The step and the package that docs/pipelines.md shows work as they stand there."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from schemas import Dataset
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
(FUNCTION,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(PROJECT,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def png(picture: Image.Image) -> dict:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def photos(tmp_path):
    """A grey picture, none, a striped one, a tiny one and a broken one, in two fragments."""
    striped = Image.new("L", (32, 32))
    striped.putdata([255 * (column % 4 > 1) for _ in range(32) for column in range(32)])
    broken = {"bytes": b"GIF89a and no more", "path": None}
    images = [png(Image.new("L", (32, 32), 90)), None, png(striped), png(Image.new("L", (32, 8))), broken]
    rows = [{"key": str(number), "image": image} for number, image in enumerate(images)]
    schema = pa.schema([*BASE["images"], *STORED_IMAGE])
    parts = [pa.Table.from_pylist(part, schema) for part in (rows[:3], rows[3:])]
    return write_dataset(tmp_path / "photos", "images", parts).path


def check_scores(photos):
    flat, missing, sharp, tiny, broken = Dataset.open(photos).take(range(5), ["sharpness", "sharpness_status"])
    assert flat == {"sharpness": 0.0, "sharpness_status": "ok"}
    assert missing == {"sharpness": None, "sharpness_status": "no_image"}
    assert sharp["sharpness"] > 1000
    assert tiny == {"sharpness": None, "sharpness_status": "tiny"}
    assert broken == {"sharpness": None, "sharpness_status": "undecodable"}


def run(command, folder, packages):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, packages))}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_documented_step_runs_as_a_script_in_worker_processes(tmp_path, photos):
    script = FUNCTION.replace("Runner()", 'Runner("local", 2)')
    (tmp_path / "look.py").write_text(script, encoding="utf-8")
    done = run([sys.executable, "look.py"], tmp_path, [ROOT])
    assert "'tiny': 1" in done.stdout, done.stderr
    check_scores(photos)


def test_the_documented_package_is_a_command_once_it_is_installed(tmp_path, photos):
    source, target = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (source / "lavabeam_sharpness.py").write_text(FUNCTION, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    installed = run([*pip, "--target", str(target), str(source)], tmp_path, [])
    assert installed.returncode == 0, installed.stderr
    lavabeam = [sys.executable, "-P", "-m", "lavabeam"]
    listed = run([*lavabeam, "--help"], tmp_path, [ROOT, target])
    assert re.search(r"sharpness +A step of the package lavabeam-sharpness", listed.stdout), listed.stderr
    done = run([*lavabeam, "sharpness", "photos", "--workers", "2", "--json"], tmp_path, [ROOT, target])
    counts = {"ok": 2, "no_image": 1, "tiny": 1, "undecodable": 1}
    assert json.loads(done.stdout)[0]["statuses"] == counts, done.stderr
    check_scores(photos)
    (tmp_path / "again.yaml").write_text("steps: [{sharpness: {dataset: photos}}]")
    again = run([*lavabeam, "run", "again.yaml", "--json"], tmp_path, [ROOT, target])
    assert [json.loads(again.stdout)[0][name] for name in ("made", "reused")] == [0, 2], again.stderr
