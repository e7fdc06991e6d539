"""Merging by ranges against the plain rules of the specification, on random histories, and by processes at once."""

import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import manifest
from schemas.chunks import Chunk
from schemas.commit import Change, commit
from schemas.errors import ConflictError
from schemas.format1 import range_of
from schemas.manifest import FileEntry, FragmentEntry
from schemas.store import Store

VERSION = "images/1.0"
NAMES = ("a", "b", "c")
IDS = [f"f{number}" for number in range(7)]
Plain = dict[str, dict[str, FileEntry]]
"""Fragment id -> file name -> entry: what a dataset holds, as the rules see it."""


pytestmark = pytest.mark.usefixtures("small_ranges")


def entry(fragment: str, name: str, word: str, inputs: dict[str, str] | None = None) -> FileEntry:
    return FileEntry(
        path=f"fragments/{fragment}/{name}.{word}.arrow",
        fingerprint=word,
        plan=word,
        inputs=inputs or {},
        version=VERSION,
        columns=[name, word],
        rows=3,
        bytes=7,
        sha256=word,
        statuses={word: 3},
        groups={fragment: {word: 2}},
    )


def merged(old: Plain, listed: Plain | None, changed: Plain) -> Plain:
    """What schemas/README.md says: listed fragments, newer files over older ones, and stale files leave."""
    result = {}
    for name, own in (old if listed is None else listed).items():
        files = {**old.get(name, {}), **own, **changed.get(name, {})}
        while True:
            kept = {
                key: one
                for key, one in files.items()
                if all(source in files and files[source].fingerprint == word for source, word in one.inputs.items())
            }
            if len(kept) == len(files):
                break
            files = kept
        result[name] = files
    return result


def plain(fragments) -> Plain:
    return {one.id: dict(one.files) for one in fragments}


def entries(listed: Plain) -> list[FragmentEntry]:
    return [FragmentEntry(id=name, rows=3, files=files) for name, files in listed.items()]


def as_change(base: int, listed: Plain | None, changed: Plain) -> Change:
    return Change(base, VERSION, fragments=entries(listed) if listed is not None else None, files=changed)


words = st.sampled_from(["x", "y"])
lists = st.lists(st.sampled_from(IDS), unique=True, min_size=1, max_size=7)
bases = st.dictionaries(st.sampled_from(IDS), words)
inputs = st.dictionaries(st.sampled_from(["base", *NAMES]), words, max_size=2)
files = st.dictionaries(st.sampled_from(NAMES), st.tuples(words, inputs), min_size=1, max_size=2)
changes = st.dictionaries(st.sampled_from(IDS), files, max_size=5)
steps = st.lists(st.tuples(st.none() | lists, bases, changes), min_size=1, max_size=5)


def made(step, old: Plain) -> tuple[Plain | None, Plain]:
    """A random step as (listed, changed), for the fragments that there are."""
    order, base, changed = step
    listed = {name: {"base": entry(name, "base", base.get(name, "x"))} for name in order} if order or not old else None
    known = listed if listed is not None else old
    chosen = {name: parts for name, parts in changed.items() if name in known}
    return listed, {
        name: {key: entry(name, key, word, made_from) for key, (word, made_from) in parts.items()}
        for name, parts in chosen.items()
    }


@settings(max_examples=30)
@given(steps)
def test_a_history_of_changes_is_what_the_rules_say(history):
    store, expected, number = Store(f"memory://rules/{uuid.uuid4().hex}"), {}, 0
    for order, *others in history:
        listed, changed = made((order if expected or order else IDS, *others), expected)
        newer = merged(expected, listed, changed)
        result = commit(store, as_change(number, listed, changed))
        if number:
            assert (result.number == number) == (newer == expected and list(newer) == list(expected))
        number, expected = result.number, newer
        read = manifest.read(store)
        assert plain(read.fragments) == expected
        assert list(plain(read.fragments)) == list(expected)
        assert read.statuses() == sums(expected, read.names)
        check_bytes(read)
    store.fs.rm(store.root, recursive=True)


def sums(expected: Plain, names: list[str]) -> dict[str, dict[str, int]]:
    found = {name: {} for name in names}
    for one in expected.values():
        for name, file in one.items():
            for status, rows in file.statuses.items():
                found[name][status] = found[name].get(status, 0) + rows
    return found


def check_bytes(read: manifest.Manifest) -> None:
    """However a range came about, its chunks are the bytes that its entries alone decide."""
    for number, one in enumerate(read.fragments.ranges):
        fresh = range_of(list(read.fragments)[number * 3 : number * 3 + 3], read.names)
        assert one.ref == fresh.ref
        assert [isinstance(chunk, Chunk) and chunk.ref.sha256 for chunk in one.chunks] == [
            chunk.ref.sha256 for chunk in fresh.chunks
        ]


@settings(max_examples=20)
@given(changes, st.sets(st.sampled_from(NAMES)))
def test_disjoint_changes_merge_to_the_same_in_any_order(changed, ours):
    listed = {name: {"base": entry(name, "base", "x")} for name in IDS}
    parts: list[Plain] = [{}, {}]
    for fragment, found in changed.items():
        for name, (word, _) in found.items():
            parts[name in ours].setdefault(fragment, {})[name] = entry(fragment, name, word, {"base": "x"})
    results = []
    for order in (parts, parts[::-1]):
        store = Store(f"memory://merge/{uuid.uuid4().hex}")
        commit(store, as_change(0, listed, {}))
        for part in order:
            commit(store, as_change(1, None, part))
        results.append(plain(manifest.read(store).fragments))
    assert results[0] == results[1] == merged(merged(listed, None, parts[0]), None, parts[1])


def test_a_listed_file_as_it_was_does_not_undo_what_somebody_committed_since(tmp_path):
    store = Store(tmp_path)
    first = {name: {"base": entry(name, "base", "x"), "a": entry(name, "a", "old")} for name in IDS}
    commit(store, as_change(0, first, {}))
    commit(store, as_change(1, None, {"f0": {"a": entry("f0", "a", "new")}}))
    listed = {**first, "g": {"base": entry("g", "base", "x")}}
    with pytest.raises(ConflictError):
        commit(
            store,
            as_change(1, {**listed, "f1": {"base": entry("f1", "base", "y")}}, {"f0": {"a": entry("f0", "a", "z")}}),
        )
    commit(store, as_change(1, listed, {}))
    newest = plain(manifest.read(store).fragments)
    assert newest["f0"]["a"].fingerprint == "new"
    assert newest["f1"]["a"].fingerprint == "old" and "g" in newest


WRITER = """
import sys
from schemas import manifest
from schemas.commit import Change, commit
from schemas.store import Store
from tests.schemas.test_merging import VERSION, IDS, entry
root, name, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = Store(root)
for number in range(rounds):
    base = manifest.read(store).number
    fragment = IDS[number % len(IDS)]
    commit(store, Change(base, VERSION, run=name, files={fragment: {name: entry(fragment, name, f"{name}{number}")}}))
"""


def test_processes_that_commit_at_once_lose_nothing(tmp_path, rounds: int = 8):
    store = Store(tmp_path / "d")
    commit(store, as_change(0, {name: {"base": entry(name, "base", "x")} for name in IDS}, {}))
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-c", WRITER, store.root]
    running = [subprocess.Popen([*command, name, str(rounds)], cwd=root) for name in NAMES[:2]]
    assert [one.wait() for one in running] == [0, 0]
    assert manifest.numbers(store) == list(range(1, 2 * rounds + 2))
    seen: dict[str, int] = {"a": 0, "b": 0}
    for number in manifest.numbers(store)[1:]:
        one = manifest.read(store, number)
        seen[one.run] += 1
        now = plain(one.fragments)
        for name, count in seen.items():
            for made_ in range(max(count - len(IDS), 0), count):
                assert now[IDS[made_ % len(IDS)]][name].fingerprint == f"{name}{made_}"
    assert seen == {"a": rounds, "b": rounds}
    assert store.list("leases") == []
