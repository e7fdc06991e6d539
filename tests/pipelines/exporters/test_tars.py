"""webdataset and energon: read by webdataset where it is installed, and by their documented layouts."""

import json
import tarfile
from itertools import groupby

import pytest
import yaml

from tests.pipelines.exporting import export, photos, picture, talks

PICTURES = {"coco/a.b.jpg": picture(1), "p.gif": picture(2, "GIF"), "named.jpg": picture(3, "PNG")}
ROWS = [
    {"id": 1, "image": "coco/a.b.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat?"}]},
    {"id": "t", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "é"}], "model": ""},
    {"image": ["p.gif", "named.jpg"], "conversations": [{"from": "human", "value": "<image><image>"}]},
]


@pytest.fixture
def made(tmp_path):
    (tmp_path / "in.json").write_text(json.dumps(ROWS))
    return talks(tmp_path / "talks", tmp_path / "in.json"), photos(tmp_path / "photos", PICTURES)


def samples(folder) -> list[tuple[str, dict[str, bytes]]]:
    """As the documented layout has it: consecutive files of one name up to its first dot are a sample."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            files = [(*info.name.split(".", 1), tar.extractfile(info).read()) for info in tar]
        found += [
            (key, {ending: content for _, ending, content in part}) for key, part in groupby(files, lambda one: one[0])
        ]
    return found


@pytest.mark.parametrize("to", ["webdataset", "energon"])
def test_a_sample_is_its_json_and_its_pictures_by_their_real_type(tmp_path, made, to):
    done = export(made[0], tmp_path / "out", to, made[1])
    found = samples(tmp_path / "out")
    assert [key for key, _ in found] == ["000000000", "000000001", "000000002"]
    assert [sorted(files) for _, files in found] == [["jpg", "json"], ["json"], ["0.gif", "1.png", "json"]]
    assert found[0][1]["jpg"] == PICTURES["coco/a.b.jpg"]
    assert (found[2][1]["0.gif"], found[2][1]["1.png"]) == (PICTURES["p.gif"], PICTURES["named.jpg"])
    written = [json.loads(files["json"]) for _, files in found]
    about = [row.pop("lavabeam") for row in written]
    assert written == ROWS
    assert [one["pictures"] for one in about] == [["jpg"], [], ["0.gif", "1.png"]]
    assert about[0]["key"] == "000000000/1"
    assert done.exported == 3


def test_bytes_say_nothing_of_time_or_user(tmp_path, made):
    export(made[0], tmp_path / "out", "webdataset", made[1])
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        assert {(one.mtime, one.uid, one.gid, one.uname, one.mode) for one in tar} == {(0, 0, 0, "", 0o644)}


def test_shards_of_a_size_keep_samples_whole(tmp_path, made):
    done = export(made[0], tmp_path / "out", "webdataset", made[1], shard_size=3000)
    assert done.files == [f"shard-{number:06d}.tar" for number in range(3)]
    assert [key for key, _ in samples(tmp_path / "out")] == ["000000000", "000000001", "000000002"]


def test_images_come_with_caption_and_columns(tmp_path):
    pictures = {"a/1": picture(1), "lost": None, "b": picture(2, "PNG")}
    made = photos(tmp_path / "photos", pictures, caption=["a cat", "x", None], alt_text=["alt", "x", "alt"])
    done = export(made, tmp_path / "out", "webdataset")
    (_, first), (_, second) = samples(tmp_path / "out")
    assert (sorted(first), first["txt"], second["txt"]) == (["jpg", "json", "txt"], b"a cat", b"alt")
    assert (json.loads(first["json"])["key"], second["png"]) == ("a/1", pictures["b"])
    assert done.left_out == {"download=timeout": 1}


def test_energon_metadata_lists_every_shard(tmp_path, made):
    done = export(made[0], tmp_path / "out", "energon", made[1], shard_size=3000)
    folder = tmp_path / "out" / ".nv-meta"
    assert yaml.safe_load((folder / "dataset.yaml").read_text()) == {
        "__module__": "megatron.energon",
        "__class__": "CrudeWebdataset",
    }
    split = yaml.safe_load((folder / "split.yaml").read_text())
    assert split == {"exclude": [], "split_parts": {"train": done.files, "val": [], "test": []}}
    assert json.loads((folder / ".info.json").read_text())["shard_counts"] == dict.fromkeys(done.files, 1)


def test_webdataset_reads_it(tmp_path, made):
    wds = pytest.importorskip("webdataset")
    export(made[0], tmp_path / "out", "webdataset", made[1])
    found = list(wds.WebDataset(str(tmp_path / "out" / "shard-000000.tar"), shardshuffle=False).decode("pil"))
    assert [one["__key__"] for one in found] == ["000000000", "000000001", "000000002"]
    assert [one["json"].get("id") for one in found] == [1, "t", None]
    assert (found[0]["jpg"].size, found[2]["1.png"].size) == ((9, 6), (11, 6))
