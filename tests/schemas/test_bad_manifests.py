"""Manifests of another release, and heads and chunks that are not as written: one clear error each."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from schemas import Dataset, manifest
from schemas.chunks import Chunk
from schemas.commit import commit
from schemas.errors import CorruptError, InputError, LavaBeamError, StorageError, VersionError
from schemas.filetables import IDS, ids_table
from schemas.garbage import collect
from schemas.manifest import FragmentEntry
from schemas.store import Store
from schemas.writing import write_dataset
from tests.schemas.lists import change, entry, listed


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
    make, expected = BAD_CHUNKS[what]
    file = chunk_file(store, "fragments")
    file.unlink() if make is None else file.write_bytes(make(file))
    dataset = Dataset.open(store.root)
    with pytest.raises(CorruptError, match=f"{file}.*{expected}"):
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


OUTSIDE = ("../x.arrow", "/etc/passwd", "a/../../b", "", "a\\b", "..")


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_leads_outside_is_neither_read_nor_written(tmp_path, monkeypatch, path):
    store = Store(tmp_path / "d")
    bad = replace(entry("f", "base", "w"), path=path)
    given = change(0, fragments=[FragmentEntry(id="f", rows=10, files={"base": bad})])
    with pytest.raises(CorruptError, match="is outside the dataset's folder"):
        commit(store, given)
    assert manifest.numbers(store) == []
    with monkeypatch.context() as unchecked:
        unchecked.setattr("schemas.chunks.check_inside", lambda *_: None)
        commit(store, given)
    with pytest.raises(CorruptError, match="is outside the dataset's folder"):
        list(Dataset.open(store.root).fragments[0].read().column_names)


@pytest.mark.parametrize("name", ["../../escaped", "a/b", "..", "", "/x"])
def test_a_fragment_id_that_leads_outside_is_refused(tmp_path, name):
    files = {"base": entry("f", "base", "w")}
    with pytest.raises(CorruptError, match="is outside the dataset's folder"):
        commit(Store(tmp_path / "d"), change(0, fragments=[FragmentEntry(id=name, rows=10, files=files)]))


def test_dots_in_a_name_are_no_way_out(tmp_path):
    fine = replace(entry("f", "base", "w"), path="fragments/f/a..b.arrow")
    commit(Store(tmp_path / "f"), change(0, fragments=[FragmentEntry(id="f..g", rows=10, files={"base": fine})]))
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


def test_a_copy_of_a_format_1_manifest_is_a_rollback_too(tmp_path):
    golden = Path(__file__).parent.parent / "golden" / "images-1.0"
    shutil.copytree(golden, tmp_path / "d")
    shutil.copy(golden / "manifest-000001.json", tmp_path / "d" / "manifest-000005.json")
    dataset = Dataset.open(tmp_path / "d")
    assert (dataset.manifest.number, dataset.rows, dataset.verify()) == (5, 2, [])
    assert commit(dataset.store, change(5, info={"a": 1})).number == 6


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


def claimed(store: Store, name: str, value: int) -> None:
    """Manifest 1 with `value` for one count of its first range, and totals that fit."""
    head = json.loads(Path(store.path(manifest.file_name(1))).read_text())
    head["totals"][name] += value - head["ranges"][0][name]
    head["ranges"][0][name] = value
    edit(store, 1, ranges=head["ranges"], totals=head["totals"])


def test_a_head_that_counts_other_rows_than_its_list_is_not_walked(store):
    claimed(store, "rows", 29)
    with pytest.raises(CorruptError, match=r"30 rows, and the manifest that names it says 29"):
        Dataset.open(store.root).take([78])


def test_verify_ends_when_the_head_claims_a_trillion_fragments(store):
    claimed(store, "fragments", 10**12)
    assert "the manifest that names it says 1000000000000" in Dataset.open(store.root).verify()[0]


def test_a_manifest_too_large_to_be_one_is_not_read(store):
    with Path(store.path(manifest.file_name(2))).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"000002\.json.*1099511627776 bytes long; expected: at most"):
        Dataset.open(store.root)


@pytest.mark.parametrize("folder", ["fragments", "manifests", "leases"])
def test_a_file_in_place_of_a_folder_is_one_clear_error(store, folder):
    shutil.rmtree(store.path(folder), ignore_errors=True)
    Path(store.path(folder)).write_text("")
    for action in (lambda: collect(store, keep=1), lambda: commit(store, change(1, info={"a": 1}))):
        try:
            action()
        except LavaBeamError as error:
            assert store.root in str(error)
