"""Parquet as Hugging Face datasets reads it, the card and the Croissant file."""

import io
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from pipelines.exporters import parquet
from pipelines.exporters.lineage import lineage
from schemas import Dataset
from schemas.commit import Change, commit
from schemas.entries import Parent
from schemas.records import BASE
from schemas.writing import write_dataset
from tests.pipelines.exporting import GENERATOR, export, photos, picture, talks

GOLDEN = Path(__file__).parent.parent.parent / "golden"
PICTURES = {f"p{number}": picture(number) for number in range(4)}


def talk(number: int, pictures: list[str], **more) -> dict:
    asked = [*({"type": "image", "text": None} for _ in pictures), {"type": "text", "text": "What?"}]
    return {
        **{"key": f"t{number}", "image_keys": pictures, "kind": "detail", "source": "coco|x", "status": "ok"},
        "messages": [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": [{"type": "text", "text": f"answer {number}"}]},
        ],
        **more,
    }


@pytest.fixture
def made(tmp_path):
    rows = [talk(0, ["p0"], generator=GENERATOR), talk(1, []), talk(2, ["p1", "p2"], generator=GENERATOR)]
    rows += [talk(3, ["p3"], status="refused", detail="no"), talk(4, ["nowhere"])]
    table = pa.Table.from_pylist(rows, BASE["conversations"])
    images = photos(tmp_path / "photos", PICTURES)
    dataset = write_dataset(tmp_path / "talks", "conversations", [table.slice(0, 2), table.slice(2)])
    change = Change(1, dataset.schema_version, parents=[images.as_parent()], info={"made": "here"})
    return Dataset(dataset.store, commit(dataset.store, change)), images


def loaded(folder: Path, cache: Path):
    import datasets

    return datasets.load_dataset(str(folder), cache_dir=str(cache))["train"]


def test_hugging_face_opens_the_folder(tmp_path, made):
    done = export(made[0], tmp_path / "out", "parquet", made[1], shard_size=1)
    assert done.files == [f"data/train-{number:05d}.parquet" for number in range(3)]
    found = loaded(tmp_path / "out", tmp_path / "cache")
    assert found["key"] == ["t0", "t1", "t2"]
    assert [[one.size for one in row["images"]] for row in found] == [[(8, 6)], [], [(9, 6), (10, 6)]]
    assert found[0]["messages"] == talk(0, ["p0"])["messages"]
    assert found[2]["generator"]["cost"] == 0.25
    assert "image_keys" not in found.column_names


def test_a_mix_keeps_its_columns(tmp_path):
    export(Dataset.open(GOLDEN / "samples-1.1"), tmp_path / "out", "parquet")
    found = loaded(tmp_path / "out", tmp_path / "cache")
    assert (found["tokens"], found["id"]) == ([29, 9], ["5", None])
    assert (found[0]["images"][0].getpixel((0, 0)), found[1]["images"]) == ((255, 0, 0), [])


def test_images_are_written_with_or_without_those_that_failed(tmp_path):
    made = photos(tmp_path / "photos", {"a": picture(1), "lost": None, "b": picture(2, "PNG")})
    done = export(made, tmp_path / "out", "parquet")
    found = loaded(tmp_path / "out", tmp_path / "cache")
    assert (found["key"], [one.format for one in found["image"]]) == (["a", "b"], ["JPEG", "PNG"])
    assert (done.exported, done.left_out) == (2, {"download=timeout": 1})
    everything = export(made, tmp_path / "all", "parquet", left_out=True)
    rows = pq.read_table(tmp_path / "all" / "data").to_pylist()
    assert [(row["key"], row["left_out"], row["image"] is None) for row in rows] == [
        ("a", None, False),
        ("lost", "download=timeout", True),
        ("b", None, False),
    ]
    assert (everything.exported, everything.left_out) == (3, {})


def test_pictures_are_stored_as_they_are_in_groups_of_a_size(tmp_path, made, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_BYTES", 1)
    export(made[0], tmp_path / "out", "parquet", made[1])
    file = pq.ParquetFile(tmp_path / "out" / "data" / "train-00000.parquet")
    assert file.num_row_groups == 3
    columns = [file.metadata.row_group(0).column(number) for number in range(file.metadata.num_columns)]
    assert {one.path_in_schema: one.compression for one in columns}["images.list.element.bytes"] == "UNCOMPRESSED"
    stored = file.read(["images"]).to_pylist()
    assert stored[2]["images"] == [{"bytes": PICTURES[name], "path": name} for name in ("p1", "p2")]
    assert Image.open(io.BytesIO(stored[0]["images"][0]["bytes"])).size == (8, 6)


def test_the_card_is_computed_from_the_data(tmp_path, made):
    export(made[0], tmp_path / "out", "parquet", made[1])
    text = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert (front["license"], front["size_categories"]) == ("other", ["n<1K"])
    for line in (
        "| rows | 3 |",
        "| pictures | 3 |",
        "| cost in USD | 0.5 |",
        "| tokens read by the LLM | 200 |",
        "| generate=refused | 1 |",
        "| image_missing | 1 |",
        r"| coco\|x | 3 |",
        r"| coco\|x | CC0 | 3 |",
        "| openai | gpt | detail | 2 | 2 | 0.5 |",
        f"| photos | images/1.0 | 1 | 4 |  | {made[1].as_parent().sha256[:16]} |",
    ):
        assert line in text.splitlines(), line
    assert str(tmp_path) not in text


def test_licences_of_a_mix_are_those_of_its_images(tmp_path, made):
    shutil.copytree(GOLDEN / "samples-1.1", tmp_path / "mix")
    mix = Dataset.open(tmp_path / "mix")
    change = Change(1, mix.schema_version, parents=[made[0].as_parent()], info={"changed": 1})
    export(Dataset(mix.store, commit(mix.store, change)), tmp_path / "out", "parquet")
    assert "| coco | CC0 | 4 |" in (tmp_path / "out" / "README.md").read_text()


def test_croissant_names_files_with_hashes_and_columns(tmp_path, made):
    done = export(made[0], tmp_path / "out", "parquet", made[1])
    found = json.loads((tmp_path / "out" / "croissant.json").read_text())
    assert (found["name"], found["license"], found["conformsTo"]) == (
        "talks",
        ["CC0"],
        "http://mlcommons.org/croissant/1.0",
    )
    (file,) = found["distribution"]
    shard = json.loads((tmp_path / "out" / "export.json").read_text())["shards"][0]
    assert (file["contentUrl"], file["sha256"]) == (done.files[0], shard["sha256"])
    fields = {field["name"]: field for field in found["recordSet"][0]["field"]}
    assert fields["rows/images"]["dataType"] == "sc:ImageObject"
    assert [one["name"] for one in fields["rows/messages"]["subField"]] == [
        "rows/messages/role",
        "rows/messages/content/type",
        "rows/messages/content/text",
    ]


def test_mlcroissant_reads_it(tmp_path, made):
    mlcroissant = pytest.importorskip("mlcroissant")
    export(made[0], tmp_path / "out", "parquet", made[1])
    rows = list(mlcroissant.Dataset(jsonld=str(tmp_path / "out" / "croissant.json")).records("rows"))
    assert [row["rows/key"] for row in rows] == [b"t0", b"t1", b"t2"]
    assert [len(row["rows/images"]) for row in rows] == [1, 0, 2]


def test_an_import_of_llavas_json_keeps_its_ids(tmp_path):
    row = {"id": 7, "conversations": [{"from": "human", "value": "Hi"}], "model": ""}
    (tmp_path / "in.json").write_text(json.dumps([row]))
    export(talks(tmp_path / "talks", tmp_path / "in.json"), tmp_path / "out", "parquet")
    (found,) = pq.read_table(tmp_path / "out" / "data").to_pylist()
    assert (found["id"], json.loads(found["extra"]), found["images"]) == ("7", {"id": 7, "model": ""}, [])


def test_a_column_that_some_fragments_lack_is_named(tmp_path):
    tables = [pa.table({"key": ["a"], "image": [{"bytes": picture(1), "path": None}], "score": [1]})]
    tables.append(tables[0].drop(["score"]))
    made = write_dataset(tmp_path / "photos", "images", tables)
    done = export(made, tmp_path / "out", "parquet")
    assert "columns that only some fragments have were not written: score." in done.notes[0]
    assert pq.read_table(tmp_path / "out" / "data").column_names == ["key", "image"]


@pytest.mark.parametrize("to", ["llava_json", "parquet", "webdataset", "energon"])
def test_a_dataset_without_rows_gives_no_rows_and_no_fault(tmp_path, to):
    made = write_dataset(tmp_path / "talks", "conversations", [])
    done = export(made, tmp_path / "out", to)
    assert (done.rows, done.exported, done.bytes) == (0, 0, 4 if to == "llava_json" else 0)


def test_a_manifest_sends_no_card_to_another_server(tmp_path, made, monkeypatch):
    parents = [Parent(path="s3://elsewhere/photos", manifest=1, sha256="00" * 32), made[1].as_parent()]
    change = Change(2, made[0].schema_version, parents=parents, info={"changed": 1})
    dataset = Dataset(made[0].store, commit(made[0].store, change))
    opened, asked = Dataset.open.__func__, []

    def open_(kind, path, *more):
        asked.append(str(path))
        return opened(kind, path, *more)

    monkeypatch.setattr(Dataset, "open", classmethod(open_))
    found = lineage(dataset)
    assert [(one.name, one.rows) for one in found] == [("talks", 5), ("photos", None), ("photos", 4)]
    assert asked and not [path for path in asked if "://" in path]
