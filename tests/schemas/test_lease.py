"""Leases: the kernel, not a process number, says whether a writer lives."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from schemas import lease as leases
from schemas.commit import Change, commit
from schemas.errors import ConflictError, InputError, StorageError
from schemas.lease import GC, hold, live, pin, sweep
from schemas.store import Store

ROOT = Path(__file__).parent.parent.parent
HOLDER = """
import sys, time
from schemas.lease import hold
from schemas.store import Store
store = Store(sys.argv[1])
with hold(store, run="r1", manifest=0, makes="download"):
    with Store(sys.argv[1], token="r1").write("fragments/0/download.aa.arrow") as file:  # as a worker of the run does
        file.write(b"half"); file.flush()
        print("writing", flush=True)
        sys.stdin.readline()
print("done", flush=True)
"""


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store(tmp_path / "d" if request.param == "local" else f"memory://lease/{tmp_path.name}")


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lease r1 on tmp_path/d, in the middle of writing a file."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "d")]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    yield process
    process.kill()
    process.wait()


def unfinished(store: Store) -> list[str]:
    return [name for name, _, _ in store.temporaries()]


def age(store: Store, name: str, seconds: float) -> None:
    os.utime(store.path(name), (time.time() - seconds,) * 2)


def test_a_lease_says_what_its_run_works_on_and_goes_with_it(store):
    with hold(store, run="r-1.a", makes=("download", "base")) as ours:
        (found,) = live(store)
        assert (found.run, found.manifest, found.makes, found.kind) == ("r-1.a", 0, ["download", "base"], "run")
        assert store.token == ours.token == "r-1.a"
    assert (live(store), store.list("leases")) == ([], [])
    assert store.token != "r-1.a"


def test_what_a_living_writer_is_writing_is_never_swept(tmp_path, holder):
    store = Store(tmp_path / "d")
    (draft,) = unfinished(store)
    age(store, draft, 7200)
    assert sweep(store) == {}
    holder.communicate("\n")
    assert holder.returncode == 0
    assert store.exists("fragments/0/download.aa.arrow") and unfinished(store) == [] and store.list("leases") == []


def test_what_a_killed_writer_left_is_swept_at_once_and_its_lease_too(tmp_path, holder):
    store = Store(tmp_path / "d")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert live(store) == [] and len(store.list("leases")) == 1
    assert sweep(store, remove=False).keys() == set(unfinished(store)) and store.list("leases")
    assert len(sweep(store)) == 1
    assert unfinished(store) == [] and store.list("leases") == []


def test_a_writer_without_a_lease_has_an_hour(tmp_path):
    store = Store(tmp_path / "d", token="converter")
    drafts = [Path(store.temporary(f"fragments/0/{name}.arrow")) for name in "ab"]
    for draft in drafts:
        draft.write_bytes(b"half")
    age(store, f"fragments/0/{drafts[0].name}", 3700)
    assert len(sweep(store)) == 1
    assert unfinished(store) == [f"fragments/0/{drafts[1].name}"]


def test_names_of_unfinished_files_say_neither_host_nor_process(tmp_path):
    import socket

    name = Path(Store(tmp_path, token="run-7").temporary("a.arrow")).name
    assert name.startswith("a.arrow.tmp-run-7-")
    assert socket.gethostname() not in name and f"-{os.getpid()}-" not in name


def test_a_lease_without_a_lock_lives_as_long_as_its_time_is_written(tmp_path, monkeypatch):
    store = Store(f"memory://beats/{tmp_path.name}")
    monkeypatch.setattr(leases, "BEAT_S", 0.02)
    with hold(store, run="r1"):
        first = live(store)[0].beat
        deadline = time.monotonic() + 120
        while live(store)[0].beat == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert live(store)[0].beat > first
    with store.write("leases/r2.json") as file:
        file.write(json.dumps({"run": "r2", "started": "", "manifest": 1, "locked": False, "beat": 5}).encode())
    assert live(store) == []
    sweep(store)
    assert store.list("leases") == []


def test_a_file_system_without_locks_gets_a_heartbeat(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(leases.fcntl, "flock", unsupported)
    store = Store(tmp_path / "d")
    with hold(store, run="r1"):
        (found,) = live(store)
        assert not found.locked and found.beat > time.time() - 60
    assert store.list("leases") == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"who": 1}', b'{"beat": "x", "locked": false}', b"\xff"]
)
def test_nonsense_in_a_lease_is_a_dead_lease(store, content):
    with store.write("leases/r1.json") as file:
        file.write(content)
    assert live(store) == []
    sweep(store)
    assert store.list("leases") == []


def test_the_same_run_holds_a_dataset_once(tmp_path):
    store = Store(tmp_path)
    with (
        hold(store, run="r1"),
        pytest.raises(ConflictError, match="run r1 is already working on this dataset"),
        hold(store, run="r1"),
    ):
        pass
    with pytest.raises(InputError, match=r"run '\.\./x': expected letters"), hold(store, run="../x"):
        pass


def test_a_run_waits_for_a_cleaning_then_says_so(store, capsys):
    with hold(store, run="gc-1", kind=GC):
        with pytest.raises(ConflictError, match="still cleaning after 0 s"), hold(store, run="r1", wait=0.15):
            pass
        assert "waiting for `lavabeam gc`" in capsys.readouterr().err
        assert [one.run for one in live(store)] == ["gc-1"]


def test_a_run_goes_on_when_the_cleaning_ends(tmp_path):
    store, ended = Store(tmp_path), threading.Event()
    done = []

    def run() -> None:
        with hold(Store(tmp_path), run="r1"):
            done.append(ended.is_set())

    with hold(store, run="gc-1", kind=GC):
        thread = threading.Thread(target=run)
        thread.start()
        while len(live(store)) < 2:
            time.sleep(0.005)
        ended.set()
    thread.join(20)
    assert done == [True]


def test_a_version_that_went_before_the_run_held_it_is_named(tmp_path):
    store = Store(tmp_path)
    commit(store, Change(0, "images/1.0", fragments=[]))
    with pytest.raises(ConflictError, match="gc` removed manifest 7"), hold(store, run="r1", manifest=7):
        pass
    with hold(store, run="r1", manifest=1):
        assert live(store)[0].manifest == 1


def test_a_dataset_that_we_may_not_write_to_is_read_without_a_lease(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.makedirs", refuse)
    store, read = Store(tmp_path / "d"), False
    with pin(store, run="r1", manifest=1):
        read = True
    assert read
    with pytest.raises(StorageError, match="Make it writable"), hold(store, run="r1"):
        pass
