"""Pictures out of Hugging Face storage, written by the library itself."""

import io

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.importers.huggingface import HuggingFace, HuggingFaceConfig
from schemas.errors import InputError


def png(color):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 3), color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def dataset():
    images = [{"bytes": png(color), "path": None} for color in ("red", "green", "blue")]
    columns = {"image": images, "caption": ["a", "b", "c"], "id": [7, 8, 9]}
    features = {"image": datasets.Image(), "caption": datasets.Value("string"), "id": datasets.Value("int64")}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def importer(path, **config):
    return HuggingFace(HuggingFaceConfig(path=str(path), columns={"key": "id"}, **config))


def all_rows(made):
    return [row for part in made.slices() for row in made.rows(part).to_pylist()]


def check(rows, keys=("7", "8", "9")):
    assert [row["key"] for row in rows] == list(keys)
    assert [row["alt_text"] for row in rows] == ["a", "b", "c"]
    assert {(row["width"], row["height"], row["import_status"]) for row in rows} == {(6, 3, "ok")}
    assert rows[1]["image"]["bytes"] == png("green")
    assert len(rows[0]["sha256"]) == 64


def test_save_to_disk_in_several_files(dataset, tmp_path):
    dataset.save_to_disk(tmp_path / "saved", num_shards=2)
    made = importer(tmp_path / "saved", rows_per_slice=2)
    assert [part.rows for part in made.slices()] == [2, 1]
    check(all_rows(made))


def test_a_split_of_several(dataset, tmp_path):
    datasets.DatasetDict({"train": dataset, "test": dataset.select([0])}).save_to_disk(tmp_path / "saved")
    check(all_rows(importer(tmp_path / "saved", split="train")))
    with pytest.raises(InputError, match=r"no split 'tran'. Did you mean 'train'"):
        importer(tmp_path / "saved", split="tran").slices()


def test_parquet_files(dataset, tmp_path):
    dataset.to_parquet(tmp_path / "data-00000.parquet")
    check(all_rows(importer(tmp_path / "*.parquet", rows_per_slice=2)))


def test_arrow_file_format_and_raw_bytes(tmp_path):
    table = pa.table({"jpg": [png("red"), b"junk", None], "id": ["x", "y", "z"]})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    rows = all_rows(importer(tmp_path / "a.arrow", image="jpg"))
    assert [row["import_status"] for row in rows] == ["ok", "undecodable", "no_image"]
    assert rows[1]["import_detail"] == "the cell (4 bytes): not_image: unknown first bytes"


def test_a_picture_stored_as_a_path_is_read(tmp_path):
    (tmp_path / "red.png").write_bytes(png("red"))
    pq.write_table(pa.table({"image": [{"bytes": None, "path": str(tmp_path / "red.png")}]}), tmp_path / "a.parquet")
    row = all_rows(HuggingFace(HuggingFaceConfig(path=str(tmp_path / "a.parquet"))))[0]
    assert (row["image"]["path"], row["key"], row["width"]) == ("red.png", "a/000000000", 6)


def test_errors_say_what_was_found(dataset, tmp_path):
    dataset.save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match=r"no column 'img' with pictures. Columns found: image, caption, id"):
        importer(tmp_path / "saved", image="img").slices()
    with pytest.raises(InputError, match=r"not a `save_to_disk` dataset \(state.json is missing\)"):
        importer(tmp_path).slices()
    datasets.concatenate_datasets([dataset, dataset]).save_to_disk(tmp_path / "twice")
    with pytest.raises(InputError, match=r"row 3: the key '7' also appears in an earlier row"):
        importer(tmp_path / "twice").slices()
    (tmp_path / "cut.arrow").write_bytes(b"\xff\xff\xff\xff12")
    with pytest.raises(InputError, match="this is not an Arrow file"):
        importer(tmp_path / "cut.arrow").slices()


def test_an_address_in_place_of_a_path_is_not_fetched(tmp_path):
    (tmp_path / "here.png").write_bytes(png("red"))
    paths = [
        str(tmp_path / "here.png"),
        "http://127.0.0.1:1/a.png",
        f"file://{tmp_path}/here.png",
        "simplecache::s3://a/b",
    ]
    images = pa.array([{"bytes": None, "path": path} for path in paths])
    pq.write_table(pa.table({"image": images, "id": [1, 2, 3, 4]}), tmp_path / "data.parquet")
    rows = all_rows(importer(tmp_path / "data.parquet"))
    assert [row["import_status"] for row in rows] == ["ok", "no_image", "no_image", "no_image"]


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000, '{"splits": 5, "_data_files": [{"x": 1}]}'])
def test_a_saved_dataset_whose_lists_are_nonsense_is_one_clear_error(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=name):
        importer(tmp_path).slices()


def test_a_saved_dataset_names_only_files_of_its_folder(tmp_path):
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "../other/a.arrow"}]}')
    with pytest.raises(InputError, match=r"state.json: '../other/a.arrow' is not in this folder"):
        importer(tmp_path).slices()


def test_damaged_files_are_one_clear_error_and_never_end_the_process(tmp_path):
    table = pa.table({"image": [png("red")] * 20, "id": [str(number) for number in range(20)]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        whole, refused = (tmp_path / name).read_bytes(), 0
        for place in range(6, len(whole), len(whole) // 25):
            (tmp_path / name).write_bytes(whole[:place] + b"\xff\xff\xff\x7f" + whole[place + 4 :])
            try:
                all_rows(importer(tmp_path / name))
            except InputError as error:
                refused += name in str(error)
        assert refused > 2


def test_cells_that_name_what_cannot_be_read_have_no_picture(tmp_path):
    paths = ["a\0b", str(tmp_path), "/dev/zero", "/proc/self/mem", "x" * 10_000]
    images = pa.array([{"bytes": None, "path": path} for path in paths])
    pq.write_table(pa.table({"image": images, "id": list(range(5))}), tmp_path / "data.parquet")
    assert {row["import_status"] for row in all_rows(importer(tmp_path / "data.parquet"))} == {"no_image"}
    number = pa.array([{"bytes": "text", "path": 3}])
    pq.write_table(pa.table({"image": number, "id": [1]}), tmp_path / "data.parquet")
    assert all_rows(importer(tmp_path / "data.parquet"))[0]["import_status"] == "no_image"
