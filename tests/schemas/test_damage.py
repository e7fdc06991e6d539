"""Damaged and foreign files of a dataset: named by `verify`, an error of ours when read, and never a signal."""

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from bench.fuzz_datasets import BAD, Place
from schemas import Dataset
from schemas.chunks import Chunk
from schemas.columnfile import column_path, describe_column_file, read_column_file, write_column_file
from schemas.commit import commit
from schemas.errors import CorruptError, InputError
from schemas.filetables import FILES, IDS, files_table, ids_table
from schemas.garbage import collect
from schemas.manifest import LARGEST, file_name
from schemas.records import BASE
from schemas.store import Store
from schemas.verifying import check_bytes, damages
from schemas.writing import write_dataset
from tests.schemas.lists import change, entry


@pytest.fixture
def photos(tmp_path):
    """Three fragments of two rows."""
    rows = [{"key": f"key {row}", "url": "http://h", "captions": ["a", "b"]} for row in range(6)]
    table = pa.Table.from_pylist(rows, BASE["images"])
    return write_dataset(tmp_path / "photos", "images", [table.slice(start, 2) for start in (0, 2, 4)])


def base(dataset: Dataset, fragment: int = 0) -> Path:
    return Path(dataset.store.path(dataset.fragments[fragment].entry.files["base"].path))


def edit(file: Path, old: bytes, new: bytes) -> None:
    """Other bytes in the same place: the length stays."""
    content = file.read_bytes()
    assert old in content and len(old) == len(new)
    file.write_bytes(content.replace(old, new, 1))


def offsets(file: Path) -> None:
    """The second offset of `key` far beyond its buffer: to look at the row would read memory that is not ours."""
    edit(file, (5).to_bytes(4, "little") + (10).to_bytes(4, "little"), b"\xff\xff\xff\x7f" + (10).to_bytes(4, "little"))


PLAIN = {
    "an offset outside": (offsets, "unreadable"),
    "not utf-8": (lambda file: edit(file, b"key 0", b"key \xff"), "unreadable"),
    "a column of another name": (lambda file: edit(file, b"url\0", b"urk\0"), "columns"),
    "no end": (lambda file: file.write_bytes(file.read_bytes()[:-8] + bytes(8)), "end-of-stream marker"),
    "zeros": (
        lambda file: file.write_bytes(bytes(file.stat().st_size - 8) + file.read_bytes()[-8:]),
        "unreadable|rows",
    ),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-100]), "bytes, the manifest says"),
    "empty": (lambda file: file.write_bytes(b""), "0 bytes"),
    "missing": (Path.unlink, "missing"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "this is not a file"),
    "a pipe": (lambda file: (file.unlink(), os.mkfifo(file)), "this is not a file"),
}


@pytest.mark.parametrize("what", PLAIN)
def test_reading_damage_is_one_error_that_names_the_file(photos, what):
    damage, words = PLAIN[what]
    damage(base(photos))
    with pytest.raises(CorruptError, match=f"(?s){base(photos)}.*({words})|({words}).*{base(photos)}"):
        Dataset.open(photos.path).take(range(2))


def test_a_column_of_another_type_than_the_schema_says_is_damage(tmp_path):
    table = pa.table(
        {
            name: pa.array([b"a"], pa.binary()) if name == "url" else pa.nulls(1, kind)
            for name, kind in zip(BASE["images"].names, BASE["images"].types, strict=True)
        }
    ).set_column(0, "key", [["k"]])
    dataset = write_dataset(tmp_path / "d", "images", [table])
    with pytest.raises(CorruptError, match="column 'url' of type binary, the manifest says string"):
        dataset.take([0])


def test_what_only_a_sum_shows_is_read_and_named_by_checked_and_verify(photos):
    edit(base(photos), b"key 0", b"kex 0")
    assert Dataset.open(photos.path)[0]["key"] == "kex 0"
    with pytest.raises(CorruptError, match=f"{base(photos)}: sha256"):
        Dataset.open(photos.path, checked=True).take([0])
    with pytest.raises(CorruptError, match=f"{base(photos)}: sha256"):
        check_bytes(Dataset.open(photos.path))
    assert Dataset.open(photos.path, checked=True)[2]["key"] == "key 2"


def test_a_checked_file_is_hashed_once(photos, monkeypatch):
    hashed = []
    monkeypatch.setattr(
        Store, "sha256", lambda store, name, given=Store.sha256: hashed.append(name) or given(store, name)
    )
    opened = Dataset.open(photos.path, checked=True)
    for columns in (["key"], ["url"], None):
        opened.take([0], columns)
    assert len(hashed) == 1


def test_verify_names_every_damaged_file_and_its_kind(photos):
    base(photos, 0).unlink()
    edit(base(photos, 1), b"key 3", b"kex 3")
    base(photos, 2).write_bytes(base(photos, 2).read_bytes()[:-1])
    found = list(damages(Dataset.open(photos.path)))
    assert [(one.kind, one.path, one.step) for one in found] == [
        ("missing", str(base(photos, 0)), "base"),
        ("wrong bytes", str(base(photos, 1)), "base"),
        ("cut", str(base(photos, 2)), "base"),
    ]
    assert [one.fragment for one in found] == [one.id for one in photos.fragments]


def test_verify_goes_on_behind_damaged_parts_of_the_list(store):
    """Three ranges, whose column files are not there at all."""
    ids, files = (sorted(Path(store.path("manifests")).glob(f"{name}-*")) for name in ("fragments", "base"))
    ids[0].unlink()
    files[0].write_bytes(files[0].read_bytes()[:-1])
    edit(files[1], b"base", b"bass")
    found = [(one.kind, Path(one.path)) for one in damages(Dataset.open(store.root))]
    assert sorted(found[:3]) == sorted([("missing", ids[0]), ("cut", files[0]), ("wrong bytes", files[1])])
    assert len(found) > 3 and {kind for kind, _ in found[3:]} == {"missing"}


def test_a_file_that_is_whole_and_not_what_the_manifest_says_is_foreign(photos):
    listed = replace(photos.fragments[0].entry.files["base"], rows=99)
    with pytest.raises(CorruptError, match="2 rows, the manifest says 99") as error:
        read_column_file(photos.store, listed)
    assert error.value.kind == "foreign"


@pytest.mark.parametrize("link", ["fragments", "fragments/{id}", "fragments/{id}/{name}", "manifests"])
def test_a_link_out_of_the_folder_is_neither_read_nor_written_nor_swept(photos, tmp_path, link):
    name = link.format(id=photos.fragments[0].id, name=base(photos).name)
    inside, outside = Path(photos.path) / name, tmp_path / "elsewhere"
    inside.rename(outside)
    inside.symlink_to(outside)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CorruptError, match=f"the link {inside} is outside the dataset's folder"):
        Dataset.open(photos.path).take([0])
    if not name.endswith(".arrow"):
        for act in (lambda store: store.write(f"{name}/x").__enter__(), lambda store: store.remove(f"{name}/x")):
            with pytest.raises(CorruptError, match="outside the dataset"):
                act(photos.store)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("folder", ["fragments", "leases"])
def test_a_collection_stops_before_a_link_out_of_the_folder(photos, tmp_path, folder):
    commit(photos.store, change(1, info={"a": 1}))
    inside, outside = Path(photos.path) / folder, tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "kept.x.arrow").write_text("ours")
    if inside.exists():
        inside.rename(tmp_path / "moved") if any(inside.iterdir()) else inside.rmdir()
    inside.symlink_to(outside)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CorruptError, match=f"the link {inside} is outside"):
        collect(photos.store, keep=1)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_inside_the_folder_and_a_linked_dataset_are_fine(photos, tmp_path):
    moved = base(photos).with_name("moved")
    base(photos).rename(moved)
    base(photos).symlink_to(moved.name)
    (tmp_path / "other").symlink_to(photos.path)
    assert Dataset.open(tmp_path / "other").verify() == []


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\0", "a\\b", ""])
def test_the_store_itself_refuses_paths_that_lead_out(tmp_path, name):
    store = Store(tmp_path / "d")
    for act in (store.read, store.size, store.sha256, store.open_arrow, store.remove, lambda n: store.move("a", n)):
        with pytest.raises(CorruptError, match="is outside the dataset's folder"):
            act(name)


def test_what_a_dead_run_left_damaged_is_made_again(tmp_path):
    store, path = Store(tmp_path / "d"), column_path("f", "look", "a" * 64)
    table = pa.table({"look_status": ["ok"]})
    write_column_file(store, path, table.to_batches(), table.schema, "images", fingerprint="a" * 64)
    asked = {"fingerprint": "a" * 64, "plan": "a" * 64, "inputs": {}, "rows": 1, "status_column": "look_status"}
    assert describe_column_file(store, path, **asked).rows == 1
    Path(store.path(path)).write_bytes(bytes(100))
    assert describe_column_file(store, path, **asked) is None
    assert not store.exists(path)


def files_with(**values) -> pa.Table:
    """A table of one column file, as no writer of ours makes it."""
    table = files_table([entry("f", "base", "w")])
    for name, value in values.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), [pa.array([value], table.schema.field(name).type)])
    return table


NONSENSE = {
    "'rows' is -5": files_with(rows=-5),
    "'bytes' is -1": files_with(bytes=-1),
    "'sha256' is null": files_with(sha256=None),
    "Expecting value": files_with(columns="no json"),
    "'columns' is 7": files_with(columns="7"),
    "has duplicates": files_with(columns='["a", "a"]'),
    "is outside": files_with(path="../../x"),
    "'id' is null": ids_table([None], [1]),
    "'rows' is -1": ids_table(["a"], [-1]),
}


@pytest.mark.parametrize("words", NONSENSE)
def test_a_chunk_with_a_right_sum_and_wrong_values_is_one_clear_error(tmp_path, words, monkeypatch):
    store, table = Store(tmp_path), NONSENSE[words]
    made = Chunk.of("x", table, FILES if "path" in table.column_names else IDS)
    with monkeypatch.context() as unchecked:
        unchecked.setattr("schemas.chunks.check_inside", lambda *_: None)
        made.save(store)
    with pytest.raises(CorruptError, match=f"x-.*{words}"):
        _ = Chunk(made.ref, made.schema, 1, store).table


def test_no_number_follows_the_largest_one(store):
    Path(store.path(file_name(1))).rename(store.path(file_name(LARGEST)))
    with pytest.raises(InputError, match=r"no larger number can follow.*Rename"):
        commit(store, change(LARGEST, info={"a": 1}))


def test_a_text_that_is_no_unicode_is_one_clear_error(store):
    head = Path(store.path(file_name(1)))
    head.write_text(head.read_text().replace('"message": ""', '"message": "\\ud800"'))
    with pytest.raises(InputError, match=r"manifest-000001\.json: this is not a manifest: a text is '\\ud800'"):
        Dataset.open(store.root)


def test_random_damage_ends_in_our_words(tmp_path):
    outcomes = list(Place(tmp_path / "photos", seed=3).run(0, 15))
    assert len(outcomes) == 45
    assert [one for one in outcomes if one[2].startswith(BAD)] == []
