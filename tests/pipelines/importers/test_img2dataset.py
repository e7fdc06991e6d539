"""The four outputs of img2dataset that are read, laid out as its writers lay them out."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.engine.imports import run_import
from pipelines.engine.runners import Runner
from pipelines.importers.img2dataset import Img2dataset, Img2datasetConfig
from schemas import Dataset
from schemas.errors import InputError


def picture(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (20 + number, 10), (number, 0, 0)).save(content, "JPEG")
    return content.getvalue()


def metadata(number: int) -> dict:
    """A row as img2dataset writes it: row 1 of every shard failed."""
    failed = number % 10 == 1
    return {
        "url": f"http://x.test/{number}.jpg",
        "caption": f"picture {number}",
        "key": f"{number:09d}",
        "status": "failed_to_download" if failed else "success",
        "error_message": "HTTP Error 404: Not Found" if failed else None,
        "width": None if failed else 20 + number,
        "height": None if failed else 10,
        "original_width": None if failed else 40,
        "original_height": None if failed else 20,
        "sha256": None if failed else hashlib.sha256(f"received {number}".encode()).hexdigest(),
    }


def write_shard(folder: Path, shard: int, kind: str, rows: int = 4) -> None:
    samples = [metadata(shard * 10 + place) for place in range(rows)]
    stem = folder / f"{shard:05d}"
    pictures = {row["key"]: picture(int(row["key"])) for row in samples if row["status"] == "success"}
    if kind in ("parquet", "arrow"):
        table = pa.Table.from_pylist([{**row, "jpg": pictures.get(row["key"])} for row in samples])
    else:
        table = pa.Table.from_pylist(samples)
    if kind == "arrow":
        with pa.OSFile(f"{stem}.arrow", "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        return
    pq.write_table(table, f"{stem}.parquet")
    (folder / f"{shard:05d}_stats.json").write_text("{}")
    if kind == "webdataset":
        with tarfile.open(f"{stem}.tar", "w") as archive:
            for row in samples:
                if row["key"] in pictures:
                    add(archive, f"{row['key']}.jpg", pictures[row["key"]])
                    add(archive, f"{row['key']}.json", json.dumps(row).encode())
    if kind == "files":
        stem.mkdir()
        for key, content in pictures.items():
            (stem / f"{key}.jpg").write_bytes(content)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def importer(folder: Path, **options) -> Img2dataset:
    return Img2dataset(Img2datasetConfig(path=str(folder), **options))


@pytest.fixture(params=["webdataset", "parquet", "files", "arrow"])
def output(request, tmp_path):
    folder = tmp_path / "output"
    folder.mkdir()
    for shard in (0, 1):
        write_shard(folder, shard, request.param)
    return folder


def test_every_row_keeps_its_place_picture_and_reason(output, tmp_path):
    summary = run_import(importer(output, rows_per_slice=3, license="CC0"), tmp_path / "photos", Runner("local", 1))
    assert summary.statuses == {"ok": 6, "no_image": 2}
    dataset = Dataset.open(tmp_path / "photos")
    assert [fragment.rows for fragment in dataset.fragments] == [3, 1, 3, 1]
    rows = dataset.take(range(8))
    assert [row["key"] for row in rows] == [f"{number:09d}" for number in (0, 1, 2, 3, 10, 11, 12, 13)]
    assert rows[1]["import_detail"] == "img2dataset: HTTP Error 404: Not Found"
    assert rows[1]["image"] is None
    sixth = rows[6]
    assert sixth["image"]["bytes"] == picture(12)
    assert (sixth["width"], sixth["height"]) == (32, 10)
    assert (sixth["url"], sixth["alt_text"], sixth["license"]) == ("http://x.test/12.jpg", "picture 12", "CC0")
    assert sixth["sha256"] == metadata(12)["sha256"]


def test_a_new_shard_comes_alone(output, tmp_path):
    kind = "arrow" if list(output.glob("*.arrow")) else "parquet"
    kind = "webdataset" if list(output.glob("*.tar")) else kind
    kind = "files" if (output / "00000").is_dir() else kind
    first = run_import(importer(output), tmp_path / "photos", Runner("local", 1))
    write_shard(output, 2, kind)
    second = run_import(importer(output), tmp_path / "photos", Runner("local", 1))
    assert (first.made, second.made, second.reused, second.rows) == (2, 1, 2, 12)


def test_a_picture_that_is_gone_is_told(tmp_path):
    write_shard(tmp_path, 0, "files")
    (tmp_path / "00000" / "000000002.jpg").unlink()
    (made,) = importer(tmp_path).slices()
    row = importer(tmp_path).rows(made).to_pylist()[2]
    assert (row["import_status"], row["import_detail"]) == ("no_image", "000000002 holds no bytes")


def test_pictures_that_are_missing_altogether_stop_the_import(tmp_path):
    write_shard(tmp_path, 0, "webdataset")
    (tmp_path / "00000.tar").unlink()
    (made,) = importer(tmp_path).slices()
    with pytest.raises(InputError, match=r"00000.parquet: its pictures are missing. Expected 00000.tar"):
        importer(tmp_path).rows(made)


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        importer(tmp_path / "nothing").slices()
    (tmp_path / "00000.tfrecord").write_bytes(b"")
    with pytest.raises(InputError, match="tfrecord files, which cannot be read"):
        importer(tmp_path).slices()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "00000.parquet")
    with pytest.raises(InputError, match="not written by img2dataset"):
        importer(tmp_path).slices()
    (tmp_path / "00000.tfrecord").unlink()
    (tmp_path / "00000.parquet").unlink()
    (tmp_path / "00000.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"only tar files: `lavabeam import webdataset --path '.*/\*.tar'"):
        importer(tmp_path).slices()


def test_an_archive_without_its_table_is_not_skipped(tmp_path):
    for shard in (0, 1):
        write_shard(tmp_path, shard, "webdataset")
    (tmp_path / "00001.parquet").unlink()
    with pytest.raises(InputError, match=r"00001\.tar has no table 00001\.parquet beside it \(1 such archives\)"):
        Img2dataset(Img2datasetConfig(path=str(tmp_path))).slices()


def test_an_archive_that_was_cut_between_two_pictures_is_one_error(tmp_path):
    write_shard(tmp_path, 0, "webdataset")
    with tarfile.open(tmp_path / "00000.tar") as archive:
        offset = archive.getmembers()[-1].offset
    (tmp_path / "00000.tar").write_bytes((tmp_path / "00000.tar").read_bytes()[:offset])
    made = Img2dataset(Img2datasetConfig(path=str(tmp_path)))
    with pytest.raises(InputError, match=r"00000\.tar: the archive ends at byte \d+ without the block of zeros"):
        made.rows(made.slices()[0])
