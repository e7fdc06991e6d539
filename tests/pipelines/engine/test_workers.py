"""Worker processes die, are interrupted and meet defects: no fragment is lost, no process is left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipelines.engine.makers import StepMaker
from pipelines.engine.making import Made
from pipelines.engine.processes import _Line
from pipelines.engine.runlog import read_records
from pipelines.engine.runners import Runner
from pipelines.engine.step import Context, Needs
from pipelines.engine.work import run_step
from pipelines.engine.workers import Hands, Workforce
from schemas import Dataset
from schemas.errors import SchemaError, WorkerError
from schemas.store import Store
from schemas.writing import write_dataset
from tests.pipelines.engine.test_run import files, keys, shout
from tests.pipelines.steps import Twin

ROOT = Path(__file__).parents[3]
FRAGMENTS = 12


@pytest.fixture
def many(tmp_path):
    write_dataset(tmp_path / "many", "images", [keys(10 * number, 10) for number in range(FRAGMENTS)])
    return str(tmp_path / "many")


def test_any_number_of_workers_makes_the_same_files(tmp_path):
    made = []
    for workers in (1, 2, 5):
        folder = tmp_path / str(workers)
        write_dataset(folder, "images", [keys(10 * number, 10) for number in range(FRAGMENTS)])
        summary = run_step(shout(), folder, Runner("local", workers))
        made.append(files(str(folder)))
        records = list(read_records(Store(folder), summary.run))
        assert len(records) == FRAGMENTS
        assert len({record["process"] for record in records}) == workers
        assert len([path for path in (folder / "runs" / summary.run).iterdir() if path.suffix == ".jsonl"]) == 1
    assert made[0] == made[1] == made[2]


def test_the_ranges_of_a_dataset_wide_step_share_the_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.engine.blocks.RANGE_ROWS", 20)
    write_dataset(tmp_path / "many", "images", [keys(10 * number, 10) for number in range(FRAGMENTS)])
    summary = run_step(Twin(Twin.Config()), tmp_path / "many", Runner("local", 2))
    records = [one for one in read_records(Store(tmp_path / "many"), summary.run) if "twin." in one["file"]]
    assert len(records) == FRAGMENTS
    assert len({record["process"] for record in records}) <= 2


def test_a_worker_that_is_killed_is_replaced_and_its_fragment_made_again(many):
    summary = run_step(shout(die_after=3), many, Runner("local", 2))
    assert summary.statuses == {"ok": 60, "odd": 60}
    assert Dataset.open(many).verify() == []
    assert len({record["process"] for record in read_records(Store(many), summary.run)}) > 2


def test_a_fragment_that_no_worker_survives_is_named_and_the_others_are_kept(many):
    with pytest.raises(
        WorkerError, match=r"many, fragment 00\d\d-.*4 consecutive worker processes.*shout.*SIGKILL.*fewer --workers"
    ):
        run_step(shout(die_after=1), many, Runner("local", 2))
    assert Dataset.open(many).manifest.number == 1
    assert run_step(shout(), many, Runner("local", 2)).made == FRAGMENTS


def test_an_error_of_ours_and_a_defect_come_over_as_they_were(many):
    with pytest.raises(SchemaError, match=r"returned 9 rows for 10"):
        run_step(shout(lose_rows=True), many, Runner("local", 2))
    with pytest.raises(Exception, match="a defect of the step"):
        run_step(shout(fail_on="k3"), many, Runner("local", 2))
    with pytest.raises(Exception, match="a defect of the step"):
        run_step(shout(fail_on="k3", error="FileNotFoundError"), many, Runner("local", 2))
    _until(lambda: ["none is left"] if not _workers() else [], 1)


def test_a_dead_worker_is_noticed_though_its_child_keeps_the_pipe_open(many, tmp_path):
    end = tmp_path / "the child may end"
    try:
        summary = run_step(shout(die_after=4, child=str(end)), many, Runner("local", 2))
        assert not end.with_suffix(".late").exists()
    finally:
        end.touch()
    assert summary.statuses == {"ok": 60, "odd": 60}


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_is_a_keyboard_interrupt_wherever_it_comes(many, workers):
    code = (
        "from tests.pipelines.steps import *; from pipelines.engine.runners import Runner\n"
        "from pipelines.engine.work import run_step\n"
        f"run_step(Shout(ShoutConfig(sleep=0.5)), {many!r}, Runner('local', {workers}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True) as run:
        _until(lambda: list(Path(many).rglob("shout.*.arrow")), 1)
        run.send_signal(signal.SIGINT)
        assert run.communicate(timeout=180)[1].splitlines()[-1] == "KeyboardInterrupt"


def test_a_terminals_ctrl_c_does_not_reach_workers():
    """It goes to a process group, and one that still imports would print a traceback."""
    line = _Line()
    try:
        assert os.getpgid(line.process.pid) == line.process.pid
    finally:
        line.process.kill()
        line.process.wait()


def test_a_step_of_a_script_runs_in_worker_processes(many, tmp_path):
    """Its class has no name that another process could import."""
    script = tmp_path / "own.py"
    script.write_text(
        textwrap.dedent(f"""
        import pyarrow as pa
        from enum import StrEnum
        from pipelines.engine.runners import Runner
        from pipelines.engine.step import Config, Step
        from pipelines.engine.work import run_step

        class Status(StrEnum):
            ok = "ok"

        class Length(Step):
            name, version, Config = "length", 1, Config
            reads, adds, statuses = ("key",), (pa.field("length", pa.int32()),), Status

            def process(self, batch):
                print("between the messages")
                return self.rows_to_batch([{{"length": len(key), "status": "ok"}} for key in batch["key"].to_pylist()])

        print(run_step(Length(Config()), {many!r}, Runner("local", 2)).statuses)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "{'ok': 120}\n"
    assert done.stderr.count("between the messages") == FRAGMENTS


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_run(many, how):
    code = (
        "from tests.pipelines.steps import *; from pipelines.engine.runners import Runner\n"
        "from pipelines.engine.work import run_step\n"
        f"run_step(Shout(ShoutConfig(sleep=60)), {many!r}, Runner('local', 2))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL) as run:
        workers = _until(lambda: [one for one in _children(run.pid) if _has_written(many, one)], 2)
        run.send_signal(how)
        run.wait(timeout=120)
    _until(lambda: [one for one in workers if not one.is_running() or one.status() == psutil.STATUS_ZOMBIE], 2)


def _children(process: int) -> list[psutil.Process]:
    return psutil.Process(process).children(recursive=True)


def _workers() -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [one for one in _children(os.getpid()) if "pipelines.engine.processes" in " ".join(one.cmdline())]
    return _workers()


def _has_written(dataset: str, process: psutil.Process) -> bool:
    return any(file.path.startswith(dataset) for file in process.open_files())


def _until(found, number: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 180
    while len(there := found()) < number:
        assert time.monotonic() < deadline, there
        time.sleep(0.05)
    return there


@pytest.mark.parametrize(("threads", "together"), [(False, 1), (True, 2)])
def test_blocks_that_a_cluster_hands_out_at_once_take_turns_unless_the_step_takes_several(
    many, monkeypatch, threads, together
):
    """A cluster's process may be given a block while it works on another one."""
    inside: list[str] = []
    seen: list[int] = []
    both = threading.Barrier(2)

    def make(_maker, task, _context, _count):
        inside.append(task)
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        seen.append(len(inside))
        inside.remove(task)
        return Made(task, record={"fragment": task})

    monkeypatch.setattr("pipelines.engine.workers.make", make)
    maker = StepMaker(shout(), many, "images")
    maker.needs = Needs(threads=threads)
    force = Workforce(maker, Context("r", many), Hands())
    blocks = [threading.Thread(target=lambda name=name: list(force.make([name]))) for name in "ab"]
    for block in blocks:
        block.start()
    for block in blocks:
        block.join()
    assert max(seen) == together
    assert sorted(record["fragment"] for record in read_records(Store(many), "r")) == ["a", "b"]
