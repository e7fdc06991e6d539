"""Folder format 2: chunks that versions share, flags, and what happens to heads and chunks that are not as written."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from schemas import Dataset, manifest
from schemas.chunks import IDS, Chunk, ids_table
from schemas.commit import Change, commit
from schemas.errors import CorruptError, InputError, LavaBeamError, StorageError, VersionError
from schemas.garbage import collect
from schemas.manifest import FileEntry, FragmentEntry
from schemas.records import BASE
from schemas.store import Store
from schemas.writing import write_dataset

GOLDEN = Path(__file__).parent.parent / "golden"
VERSION = "images/1.0"


def entry(fragment: str, name: str, word: str, inputs: dict | None = None, **more) -> FileEntry:
    path = f"fragments/{fragment}/{name}.{word}.arrow"
    given = {"columns": [f"{name}_x"], "rows": 10, "bytes": 5, "sha256": word, "inputs": inputs or {}, **more}
    return FileEntry(path=path, fingerprint=word, plan=word, version=VERSION, **given)


def listed(number: int) -> list[FragmentEntry]:
    names = [f"{place:04d}-aa" for place in range(number)]
    return [FragmentEntry(id=name, rows=10, files={"base": entry(name, "base", f"b{name}")}) for name in names]


def change(base: int, **more) -> Change:
    return Change(base=base, schema_version=VERSION, **more)


@pytest.fixture
def small_ranges(monkeypatch):
    monkeypatch.setattr("schemas.merging.RANGE", 3)
    monkeypatch.setattr("schemas.format1.RANGE", 3)


@pytest.fixture
def store(tmp_path, small_ranges):
    store = Store(tmp_path / "d")
    commit(store, change(0, fragments=listed(8)))
    return store


def chunks(store: Store) -> set[str]:
    return set(store.list("manifests"))


def test_a_new_column_writes_the_chunks_of_its_own_name_alone(store):
    before = chunks(store)
    commit(store, change(1, files={one.id: {"look": entry(one.id, "look", "w")} for one in listed(8)}))
    assert {name.split("-")[0] for name in chunks(store) - before} == {"look"}
    assert len(chunks(store) - before) == 3


def test_appending_fragments_writes_the_last_range_alone(store):
    before = chunks(store)
    commit(store, change(1, fragments=listed(9)))
    assert sorted(name.split("-")[0] for name in chunks(store) - before) == ["base", "fragments"]
    assert [one.id for one in manifest.read(store).fragments] == [one.id for one in listed(9)]


def test_a_file_of_one_fragment_writes_one_range(store):
    before = chunks(store)
    commit(store, change(1, files={"0004-aa": {"look": entry("0004-aa", "look", "w")}}))
    assert len(chunks(store) - before) == 1
    assert [list(one.files) for one in manifest.read(store).fragments][3:6] == [["base"], ["base", "look"], ["base"]]


def test_opening_reads_the_head_alone(store):
    for name in chunks(store):
        os.unlink(store.path(f"manifests/{name}"))
    dataset = Dataset.open(store.root)
    assert (dataset.rows, len(dataset.fragments), dataset.columns) == (80, 8, ["base_x"])


def test_entries_keep_every_field_and_are_pickled_as_plain_values(store):
    groups = {"b.com": {"ok": 1, "late": 2}, "other": {"ok": 3}}
    made = entry("0004-aa", "look", "w", {"base": "b0004-aa"}, statuses={"ok": 4, "late": 2}, groups=groups)
    made = replace(made, plan="p", columns=["x", "a\nb", 'c"d'])
    commit(store, change(1, files={"0004-aa": {"look": made}}))
    found = manifest.read(store).fragments[4]
    assert found.files["look"] == made
    assert list(found.files["look"].groups["b.com"]) == ["ok", "late"]
    copy = pickle.loads(pickle.dumps(found))
    assert copy == found and type(copy.files) is dict
    assert len(pickle.dumps(found)) < 2000


def test_the_list_is_a_sequence(store):
    fragments = manifest.read(store).fragments
    assert (len(fragments), fragments[-1].id, [one.id for one in fragments[2:4]]) == (
        8,
        "0007-aa",
        ["0002-aa", "0003-aa"],
    )
    with pytest.raises(IndexError, match="fragment 8 of 8"):
        fragments[8]
    assert "look" not in fragments[0].files
    with pytest.raises(KeyError):
        fragments[0].files["look"]


def test_sums_are_in_the_head(store):
    files = {
        one.id: {"look": entry(one.id, "look", "w", statuses={"ok": 8, "late": 2}, groups={"h": {"ok": 8}})}
        for one in listed(8)
    }
    commit(store, change(1, files=files))
    head = json.loads(store.read("manifest-000002.json"))
    assert head["totals"]["statuses"] == {"look": {"ok": 64, "late": 16}}
    assert head["totals"]["groups"] == {"look": {"h": {"ok": 64}}}
    assert (head["totals"]["rows"], head["totals"]["bytes"]) == (80, 80)
    assert head["totals"]["columns"] == ["base_x", "look_x"]
    assert len(json.dumps(head)) < 10_000


def test_groups_beyond_the_largest_are_other(store, monkeypatch):
    monkeypatch.setattr("schemas.manifest.GROUPS", 2)
    groups = {f"h{number}": {"ok": number} for number in range(1, 5)} | {"other": {"late": 1}}
    commit(store, change(1, files={"0004-aa": {"look": entry("0004-aa", "look", "w", groups=groups)}}))
    found = manifest.read(store).groups("look")
    assert found == {"h4": {"ok": 4}, "other": {"ok": 3, "late": 1}, "h3": {"ok": 3}}


def test_a_dataset_of_format_1_becomes_format_2_at_the_next_commit_and_keeps_its_history(tmp_path):
    shutil.copytree(GOLDEN / "images-1.0", tmp_path / "d")
    old = Dataset.open(tmp_path / "d")
    fragment = old.manifest.fragments[0]
    again = commit(old.store, change(1, files={fragment.id: dict(fragment.files)}))
    assert (again.number, again.format, chunks(old.store)) == (1, 1, set())
    made = commit(old.store, change(1, files={fragment.id: {"look": entry(fragment.id, "look", "w")}}))
    assert (made.number, made.format, made.info) == (2, 2, {"golden": "images-1.0"})
    assert made.fragments[0].files["base"] == fragment.files["base"]
    assert list(Dataset.open(tmp_path / "d", at=1).manifest.fragments) == [fragment]
    assert Dataset.open(tmp_path / "d", at=1).verify() == []


def test_the_golden_dataset_of_format_2_keeps_its_values():
    dataset = Dataset.open(GOLDEN / "format-2")
    look = dataset.manifest.fragments[1].files["look"]
    assert (look.fingerprint, look.plan) == ("11" * 32, "22" * 32)
    assert look.inputs == {"base": dataset.manifest.fragments[1].files["base"].fingerprint}
    assert (look.statuses, look.groups) == ({"late": 1}, {"example.com": {"late": 1}})
    assert dataset.manifest.statuses() == {"look": {"late": 1}}
    assert dataset.manifest.steps["look"].config == {"closely": True}
    assert dataset.manifest.parents[0].manifest == 4
    assert "look_status" not in dataset.columns
    assert [one.read(["key"]).column(0).to_pylist() for one in dataset.fragments] == [["a"], ["b"]]
    assert Dataset.open(GOLDEN / "format-2", at=1).manifest.message == "written whole"


# What a writer of another release may have added


def edit(store: Store, number: int, **values) -> None:
    file = Path(store.path(manifest.file_name(number)))
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_an_unknown_reader_flag_is_refused_on_open(store):
    edit(store, 1, reader_flags=["deletions"])
    with pytest.raises(VersionError, match=r"000001\.json.*reader flags \['deletions'\].*Upgrade"):
        Dataset.open(store.root)


def test_an_unknown_writer_flag_is_read_and_neither_committed_to_nor_cleaned(store):
    edit(store, 1, writer_flags=["indexes"])
    assert Dataset.open(store.root).rows == 80
    before = sorted(store.walk(""))
    for refused in (lambda: commit(store, change(1, info={"a": 1})), lambda: collect(store, keep=1)):
        with pytest.raises(VersionError, match=r"writer flags \['indexes'\].*can be read.*Upgrade"):
            refused()
    assert sorted(store.walk("")) == before


def test_known_flags_are_kept_by_a_commit(store, monkeypatch):
    monkeypatch.setattr(manifest, "WRITER_FLAGS", frozenset({"indexes"}))
    edit(store, 1, writer_flags=["indexes"])
    assert commit(store, change(1, info={"a": 1})).writer_flags == ["indexes"]


# Bad input


def chunk_file(store: Store, name: str) -> Path:
    return next(Path(store.path("manifests")).glob(f"{name}-*"))


def other_rows(file: Path) -> bytes:
    return Chunk.of("fragments", ids_table(["z"], [10]), IDS)._content


BAD_CHUNKS = {
    "missing": (None, "missing, though the manifest lists it"),
    "cut": (lambda file: file.read_bytes()[:-9], "bytes, the manifest that names it says"),
    "same length": (lambda file: file.read_bytes()[:-9] + b"\1" * 9, "sha256 .* says"),
    "of another dataset": (other_rows, "bytes, the manifest that names it says"),
}


@pytest.mark.parametrize("what", sorted(BAD_CHUNKS))
def test_a_chunk_that_is_not_as_written_is_one_clear_error(store, what):
    make, told = BAD_CHUNKS[what]
    file = chunk_file(store, "fragments")
    file.unlink() if make is None else file.write_bytes(make(file))
    dataset = Dataset.open(store.root)
    with pytest.raises(CorruptError, match=f"{file}.*{told}"):
        list(dataset.fragments)
    with pytest.raises(CorruptError, match=f"{file}"):
        commit(store, change(1, files={one.id: {"a": entry(one.id, "a", "w")} for one in listed(8)}))
    assert manifest.numbers(store) == [1]


def test_a_chunk_of_another_manifest_is_refused_even_when_the_head_agrees(store):
    chunk = Chunk.of("fragments", ids_table(["z"], [10]), IDS)
    chunk.save(store)
    ranges = json.loads(store.read("manifest-000001.json"))["ranges"]
    edit(store, 1, ranges=[{**ranges[0], **chunk.ref.model_dump()}, *ranges[1:]])
    with pytest.raises(CorruptError, match="1 rows, the manifest that names it says 3"):
        list(Dataset.open(store.root).fragments)


def test_a_path_that_leads_outside_is_refused(tmp_path):
    for number, path in enumerate(("../x.arrow", "/etc/passwd", "a/../../b", "", "a\\b", "..")):
        store = Store(tmp_path / str(number))
        bad = replace(entry("f", "base", "w"), path=path)
        commit(store, change(0, fragments=[FragmentEntry(id="f", rows=10, files={"base": bad})]))
        with pytest.raises(CorruptError, match="leads out of the dataset's folder"):
            list(Dataset.open(store.root).fragments[0].read().column_names)
    fine = replace(entry("f", "base", "w"), path="fragments/f/a..b.arrow")
    commit(Store(tmp_path / "f"), change(0, fragments=[FragmentEntry(id="f", rows=10, files={"base": fine})]))
    assert Dataset.open(tmp_path / "f").fragments[0].columns == ["base_x"]


HEADS = {
    "[]": "the file is list",
    "null": "the file is NoneType",
    "7": "the file is int",
    "{}": "'format' is None",
    '{"format": "1"}': "'format' is '1'",
    '{"format": 1e400}': "'format' is inf",
    '{"format": 1}': "'fragments' is nothing",
    '{"format": 1, "fragments": {}}': "'the file' is {}",
    '{"format": 1, "fragments": [{"id": "a", "rows": -5, "files": {}}]}': "'0.rows' is -5",
    '{"format": 2}': "is nothing",
    "{": "JSON",
    "\ud800".encode("utf-8", "surrogatepass"): "JSON",
    "[" * 100_000: "JSON",
}


@pytest.mark.parametrize("content", HEADS, ids=list(map(str, range(len(HEADS)))))
def test_nonsense_in_place_of_a_head_is_one_clear_error(tmp_path, content):
    (tmp_path / "manifest-000001.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=rf"manifest-000001\.json: this is not.*{HEADS[content]}.*remove it"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("ranges", None), ("totals", {}), ("names", []), ("ranges", []), ("schema_version", 7), ("steps", [1])],
)
def test_a_head_with_a_field_that_is_not_right_is_one_clear_error(store, field, value):
    edit(store, 1, **{field: value})
    with pytest.raises(InputError, match=r"manifest-000001\.json: this is not a manifest: .*Restore"):
        Dataset.open(store.root)


def test_the_name_of_a_manifest_says_its_number_so_that_a_copy_is_a_rollback(store):
    commit(store, change(1, files={"0004-aa": {"look": entry("0004-aa", "look", "w")}}))
    shutil.copy(store.path("manifest-000001.json"), store.path("manifest-000007.json"))
    back = manifest.read(store)
    assert (back.number, list(back.fragments[4].files)) == (7, ["base"])
    assert commit(store, change(7, info={"a": 1})).number == 8


def test_a_dataset_without_fragments_is_read_and_grows(tmp_path):
    write_dataset(tmp_path / "d", "images", [])
    empty = Dataset.open(tmp_path / "d")
    assert (empty.rows, empty.columns, list(empty.fragments), empty.verify()) == (0, [], [], [])
    assert commit(empty.store, change(1, fragments=listed(2))).rows == 20


def test_a_place_that_must_not_be_written_is_one_clear_error_and_nothing_half_written(store, monkeypatch):
    before = sorted(store.walk(""))

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.makedirs", refuse)
    with pytest.raises(StorageError, match=r"Permission denied\. Make it writable"):
        commit(store, change(1, info={"a": 1}))
    monkeypatch.undo()
    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(LavaBeamError, match=r"Permission denied\. Make it writable"):
        commit(store, change(1, info={"a": 1}))
    monkeypatch.undo()
    assert sorted(store.walk("")) == before
    assert commit(store, change(1)).number == 1


def test_a_fragment_listed_twice_is_refused(tmp_path):
    store = Store(tmp_path / "d")
    commit(store, change(0, fragments=[*listed(1), *listed(1)]))
    with pytest.raises(CorruptError, match="lists fragment '0000-aa' twice"):
        commit(store, change(1, files={"0000-aa": {"look": entry("0000-aa", "look", "w")}}))


def test_files_of_the_current_version_are_listed(tmp_path):
    table = pa.Table.from_pylist([{"key": "a"}, {"key": "b"}], BASE["images"])
    dataset = write_dataset(tmp_path / "d", "images", [table.slice(0, 1), table.slice(1)])
    rows = list(dataset.files("base"))
    assert [(step, rows) for _, step, _, rows, _ in rows] == [("base", 1), ("base", 1)]
    assert all(Path(path).stat().st_size == size for path, _, _, _, size in rows)
    with pytest.raises(InputError, match=r"no column file of 'bas'.*'base'"):
        dataset.files("bas")
