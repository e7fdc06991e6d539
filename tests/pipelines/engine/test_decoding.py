"""A picture whose decoder hangs or crashes costs one row, and all decoders together keep to one budget of memory."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from schemas import Dataset, decoding
from schemas.picturetypes import PictureError
from schemas.records import BASE, IMAGE
from schemas.writing import write_dataset
from tests.pipelines.steps import look

ROOT = Path(__file__).parents[3]


@pytest.fixture
def photos(tmp_path):
    schema = BASE["images"].append(pa.field("image", IMAGE))
    pictures = [[b"good", b"slow"], [b"crash", b"better", b"slow"]]
    parts = [
        [{"key": f"{part}/{row}", "image": {"bytes": data, "path": None}} for row, data in enumerate(rows)]
        for part, rows in enumerate(pictures)
    ]
    tables = [pa.Table.from_pylist(part, schema) for part in parts]
    return write_dataset(tmp_path / "photos", "images", tables).path


def test_a_decoder_that_hangs_or_crashes_costs_one_row(photos, monkeypatch):
    monkeypatch.setattr(decoding, "SECONDS", 1.0)
    summary = run_step(look(), photos, Runner("local", 2))
    assert summary.statuses == {"ok": 2, "undecodable": 3}
    rows = Dataset.open(photos).take(range(5), ["look", "look_detail"])
    assert [row["look"] for row in rows] == [4.0, None, None, 6.0, None]
    assert rows[1]["look_detail"] == rows[4]["look_detail"] == "too_slow: not decoded in 1 s of CPU time"
    assert rows[2]["look_detail"] == "corrupt: the decoder ended its process twice"


def test_marks_tell_pictures_apart():
    pictures = [b"", b"a", b"b", b"a" * 9000, b"a" * 9001, b"b" + b"a" * 8999, b"a" * 8999 + b"b"]
    assert len({decoding.mark_of(data) for data in pictures}) == len(pictures)


def test_a_refused_picture_is_not_decoded_again(tmp_path):
    board = decoding.Board()
    region = board.region()
    notes = decoding.Notes(board.descriptor, region)
    with notes.decoding(b"one"), notes.decoding(b"two"):
        begun = board.begun(region, os.getpid())
        assert begun.keys() == {decoding.mark_of(b"one"), decoding.mark_of(b"two")}
        assert all(0 <= seconds < 60 for seconds in begun.values())
    assert board.begun(region, os.getpid()) == {}
    notes.refused[decoding.mark_of(b"one")] = decoding.too_slow()
    with pytest.raises(PictureError, match="too_slow"), notes.decoding(b"one"):
        pytest.fail("it was decoded")


class Peak:
    """How much is held at a time."""

    def __init__(self):
        self.now = self.most = 0
        self._lock = threading.Lock()

    def add(self, size):
        with self._lock:
            self.now += size
            self.most = max(self.most, self.now)


@pytest.mark.parametrize("shared", [False, True])
def test_threads_keep_to_the_budget(shared):
    board = decoding.Board()
    memory, peak = decoding.Memory(board.descriptor if shared else None), Peak()

    def work(size):
        for _ in range(3):
            with memory.hold(size), memory.hold(size):  # the inner one waits for nothing
                peak.add(min(size, decoding.BUDGET))
                threading.Event().wait(0.005)
                peak.add(-min(size, decoding.BUDGET))

    sizes = [decoding.BUDGET // 2, decoding.BUDGET // 3, decoding.BUDGET // 4, 2 * decoding.BUDGET]
    threads = [threading.Thread(target=work, args=(size,)) for size in sizes * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    assert decoding.BUDGET // 2 < peak.most <= decoding.BUDGET


def test_processes_share_the_budget_and_one_that_dies_gives_its_part_back():
    board = decoding.Board()
    code = (
        "import os, sys; from schemas.decoding import BUDGET, Memory; memory = Memory(int(sys.argv[1]))\n"
        "with memory.hold(BUDGET):\n"
        "    print('held', flush=True); sys.stdin.read(1); os._exit(1)"
    )
    command = [sys.executable, "-c", code, str(board.descriptor)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, pass_fds=(board.descriptor,), **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        held = threading.Event()

        def wait():
            with decoding.Memory(board.descriptor).hold(decoding.SMALL + 1):
                held.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not held.wait(0.2)
        other.stdin.write(b"x")
        other.stdin.flush()
        thread.join(timeout=120)
        assert held.is_set()
