"""Flink and Spark take jobs through the portable protocol; Beam's own job service speaks it too."""

import multiprocessing
import socket
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.engine.elsewhere import check_runner, is_spread, value_of
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.records import BASE
from schemas.writing import write_dataset
from tests.pipelines.steps import Shout, ShoutConfig, Twin


@pytest.fixture
def endpoint(tmp_path):
    """A job service on this machine."""
    port = tmp_path / "port"
    module = "apache_beam.runners.portability.local_job_service_main"
    command = [sys.executable, "-m", module, "-p", "0", "--port_file", str(port), "--staging_dir", str(tmp_path / "s")]
    with (tmp_path / "service.log").open("wb") as log:
        service = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(600):
            if port.is_file() and port.read_text():
                break
            time.sleep(0.1)
        yield f"localhost:{port.read_text()}"
    finally:
        service.kill()
        service.wait()


def apart(work, *arguments):
    """What `work` returns or raises in a process of its own: Beam's client of a job service leaves gRPC channels and
    threads behind, and processes that later tests fork from this one would die of them."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def keys(start: int, end: int) -> pa.Table:
    return pa.Table.from_pylist([{"key": f"k{number}"} for number in range(start, end)], BASE["images"])


def all_steps(photos: str, runner: Runner) -> dict[str, bytes]:
    """A step on rows and one on all of them; the column files by their path beside the dataset."""
    write_dataset(photos, "images", [keys(0, 70), keys(70, 140), keys(140, 150)])
    run_step(Shout(ShoutConfig()), photos, runner)
    run_step(Twin(Twin.Config()), photos, runner)
    parent = Path(photos).parent
    assert Dataset.open(photos)[3] | {"loud": "K3!", "cluster": "k103"} == Dataset.open(photos)[3]
    return {str(file.relative_to(parent)): file.read_bytes() for file in parent.rglob("fragments/**/*.arrow")}


def test_the_portable_protocol_gives_the_same_dataset_file_by_file(endpoint, tmp_path):
    portable = Runner("PortableRunner", 2, [f"--job_endpoint={endpoint}", "--environment_type=LOOPBACK"])
    made = apart(all_steps, str(tmp_path / "a" / "photos"), portable)
    assert made == all_steps(str(tmp_path / "b" / "photos"), Runner("local", 1))


def test_a_job_server_that_is_not_there_is_one_message(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    write_dataset(str(tmp_path), "images", [keys(0, 1)])
    flags = [f"--job_endpoint={nobody}", "--job_server_timeout=1", "--environment_type=LOOPBACK"]
    with pytest.raises(InputError, match=r"runner PortableRunner: the job server is unreachable"):
        apart(run_step, Shout(ShoutConfig()), str(tmp_path), Runner("PortableRunner", 1, flags))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "FlinkRunner",
            "runner FlinkRunner: Beam would fetch a job server .* --runner PortableRunner -- --job_endpoint",
        ),
        ("spark", "runner spark: Beam would fetch"),
        ("PortableRunner", "runner PortableRunner: no job server was given. Give --runner PortableRunner -- --job_end"),
        ("portablerunnner", r"there is no such runner\. Did you mean 'PortableRunner'"),
        ("ray", r"there is no such runner\. Known: "),
    ],
)
def test_a_runner_that_cannot_work_is_one_message(name, message):
    with pytest.raises(InputError, match=message):
        Runner(name).check()


@pytest.mark.parametrize("name", ["local", "dask", "DirectRunner", "InteractiveRunner", "a.dotted.Runner"])
def test_other_names_are_beams_own_affair(name):
    check_runner(name, [])


def test_workers_of_loopback_are_here_and_others_anywhere():
    assert value_of("--a", ["--b", "1", "--a", "2"]) == value_of("--a", ["--a=2"]) == "2"
    assert value_of("--a", ["--b=--a"]) is None
    assert not is_spread("PortableRunner", ["--environment_type=LOOPBACK"])
    assert is_spread("PortableRunner", ["--environment_type=DOCKER"]) and is_spread("PortableRunner", [])
    assert is_spread("dataflow", []) and not is_spread("local", []) and not is_spread("dask", [])
