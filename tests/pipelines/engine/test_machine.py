"""How many workers a step gets on this machine, and what is refused before any of them starts."""

import pytest

from pipelines.engine import machine, processes
from pipelines.engine.machine import available_memory, fitting, gpus
from pipelines.engine.runners import Runner
from pipelines.engine.step import Needs
from pipelines.engine.work import run_step
from pipelines.engine.workers import Hands
from schemas.errors import InputError
from schemas.writing import write_dataset
from tests.pipelines.engine.test_run import keys
from tests.pipelines.steps import Shout, ShoutConfig

GPU = "type:nvidia-l4;count:1;install-nvidia-driver"


@pytest.fixture(autouse=True)
def machine_of_10_gib(monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 10 << 30)
    monkeypatch.setattr(machine, "gpus", lambda: [])


@pytest.mark.parametrize(
    ("memory", "workers", "fits", "said"),
    [
        (None, 4, 4, ""),
        (2.5, 4, 4, ""),
        (3, 4, 3, "s: 3 workers at a time instead of 4: each needs 3 GiB of memory, and 10.0 GiB are free.\n"),
        (40, 4, 1, "s: 1 worker at a time instead of 4: each needs 40 GiB of memory, and 10.0 GiB are free.\n"),
        (40, 1, 1, ""),
    ],
)
def test_as_many_as_fit_into_memory(memory, workers, fits, said, capsys):
    assert fitting("s", Needs(memory_gb=memory), workers, processes=True) == fits
    assert capsys.readouterr().err == said


def test_threads_share_what_one_process_takes(capsys):
    assert fitting("s", Needs(memory_gb=9, threads=True), 4, processes=False) == 4
    assert capsys.readouterr().err == ""


def test_one_worker_per_gpu(monkeypatch, capsys):
    assert fitting("s", Needs(accelerator="optional"), 4, processes=True) == 4
    monkeypatch.setattr(machine, "gpus", lambda: ["0", "1"])
    assert fitting("s", Needs(accelerator="optional"), 4, processes=True) == 2
    assert fitting("s", Needs(accelerator=GPU), 4, processes=True) == 2
    assert "s: 2 workers at a time instead of 4: one per GPU, and there are 2.\n" in capsys.readouterr().err


@pytest.mark.parametrize("runner", [Runner("local", 2), Runner("dask", 2)])
def test_a_gpu_that_is_not_there_is_refused_by_name(runner):
    with pytest.raises(InputError, match=r"caption: its options ask for a GPU \(type:nvidia-l4.*device: cpu"):
        runner.fitted("caption", Needs(accelerator=GPU), shared=True)


@pytest.mark.parametrize("name", ["local", "dask"])
def test_missing_model_files_are_one_error_before_any_worker_starts(name, tmp_path, monkeypatch):
    class Heavy(Shout):
        needs = Needs(model_files=(str(tmp_path), str(tmp_path / "weights")))

    def start(*_):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(processes, "_Line", start)
    monkeypatch.setattr("pipelines.engine.cluster.Cluster.prestart", start)
    write_dataset(tmp_path / "p", "images", [keys(0, 5), keys(5, 5)])
    with pytest.raises(InputError, match=f"shout: {tmp_path}/weights: no such file or folder"):
        run_step(Heavy(ShoutConfig()), tmp_path / "p", Runner(name, 2))


def test_what_fits_is_what_works():
    needs = Needs(memory_gb=4)
    assert Runner("local", 4).fitted("s", needs, True).hands(needs, 100, True) == Hands("processes", 2)
    dask = Runner("dask", 4).fitted("s", needs, True)
    # A block is one worker's at a time: no more blocks than workers that fit.
    assert (dask.count, len(dask.blocks(list(range(100))))) == (2, 2)
    elsewhere = Runner("dask", 4, ["--dask_client_address=tcp://10.0.0.7:8786"])
    assert elsewhere.fitted("s", needs, True) is elsewhere


def test_cuda_decides_which_gpus_are_there(monkeypatch):
    for shown, found in (("", []), ("-1", []), ("2,3", ["2", "3"]), ("GPU-1a", ["GPU-1a"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        assert gpus() == found


@pytest.mark.parametrize(("limit", "left"), [("max\n", None), ("1000\n", 700)])
def test_a_containers_limit_counts(limit, left, tmp_path):
    for name, text in (("max", limit), ("current", "500\n"), ("stat", "anon 300\ninactive_file 200\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert machine._left_in_group("memory.max", "memory.current", tmp_path) == left
    assert machine._left_in_group("memory.max", "memory.current", tmp_path / "none") is None


def test_some_memory_is_free():
    assert 1 << 20 < available_memory() < 1 << 50
