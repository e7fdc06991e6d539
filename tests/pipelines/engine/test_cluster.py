"""Dask: whole recipes, workers that die, one cluster for a command, and clusters that are there already."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from lavabeam.demo.teacher import Teacher
from pipelines import catalog
from pipelines.dedupe import Dedupe, DedupeConfig
from pipelines.engine.cluster import Cluster, _own_gpu
from pipelines.engine.runners import Runner
from pipelines.engine.step import Needs
from pipelines.engine.work import run_step
from pipelines.recipes import load_recipe, run_recipe
from schemas import Dataset
from schemas.errors import InputError, WorkerError
from schemas.writing import write_dataset
from tests.pictures import encoded
from tests.pipelines.dedupe.test_step import MIXED, known_of
from tests.pipelines.engine.test_run import all_steps, files, keys
from tests.pipelines.steps import Frail, FrailConfig
from tests.pipelines.tokenizer import write_tokenizer

PICTURES = 9
MADE = ("photos", "talks", "mixed")


@pytest.fixture(scope="module")
def dask():
    """One cluster for the tests of this file."""
    with Runner("dask", 2).session() as runner:
        yield runner


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Every kind of action: a function that loads the recipe for a folder of datasets."""
    web = tmp_path / "web"
    web.mkdir()
    for number in range(PICTURES - 1):  # the last one is not there
        # The fifth is the first again.
        (web / f"{number}.png").write_bytes(encoded(Image.new("RGB", (40 + number % 5, 30), "teal")))
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(web)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at = f"http://127.0.0.1:{server.server_address[1]}"
    rows = [{"url": f"{at}/{number}.png", "alt_text": f"a dog, number {number}"} for number in range(PICTURES)]
    urls = str(tmp_path / "urls.jsonl")
    Path(urls).write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_tokenizer(tmp_path / "tokenizer")
    mix = {"sources": {"talks": {"conversations": "talks", "images": "photos"}}, "template": "chatml"}
    image = {"mode": "square", "image_size": 8, "patch_size": 4}
    (tmp_path / "mix.yaml").write_text(json.dumps({**mix, "tokenizer": str(tmp_path / "tokenizer"), "image": image}))
    monkeypatch.setitem(catalog.STEPS, "look", catalog.Entry("tests.pipelines.steps:look", "a filter step"))
    with Teacher() as teacher:
        endpoint = {"model": "scripted-teacher", "provider": "test", "base_url": teacher.base_url, "temperature": 0}
        asks = {**endpoint, "cache": str(tmp_path / "cache"), "kinds": [{"kind": "detail"}]}
        steps = [
            {
                "import": {
                    "importer": "url_list",
                    "to": "photos",
                    "path": str(tmp_path / "urls.jsonl"),
                    "rows_per_slice": 2,
                }
            },
            {"download": {"dataset": "photos", "allow_private_hosts": ["127.0.0.1"], "retries": 0}},
            {"dedupe": {"dataset": "photos"}},
            {"look": {"dataset": "photos"}},
            {"generate": {"dataset": "photos", "to": "talks", **asks}},
            {"mix": {"recipe": "mix.yaml", "to": "mixed"}},
        ]
        (tmp_path / "recipe.yaml").write_text(json.dumps({"steps": steps}))
        yield partial(load_recipe, tmp_path / "recipe.yaml")
    server.shutdown()


def test_a_recipe_gives_the_same_files_as_on_local_from_one_cluster(recipe, tmp_path, monkeypatch):
    started = []
    start = Cluster._start
    monkeypatch.setattr(Cluster, "_start", lambda self: started.append(self) or start(self))
    here = list(run_recipe(recipe(tmp_path / "local"), Runner("local", 1)))
    there = list(run_recipe(recipe(tmp_path / "dask"), Runner("dask", 2)))
    assert len(started) == 1
    assert [(one.step, one.made, one.statuses) for one in there] == [(one.step, one.made, one.statuses) for one in here]
    assert there[-1].rows > 3
    for name in MADE:
        assert files(str(tmp_path / "dask" / name)) == files(str(tmp_path / "local" / name))
    assert sum(one.made for one in run_recipe(recipe(tmp_path / "dask"), Runner("dask", 2))) == 0
    assert len(started) == 1  # nothing to make, no cluster


def test_every_kind_of_step_gives_the_same_files(tmp_path, dask):
    for name, runner in (("local", Runner("local", 1)), ("dask", dask)):
        photos = str(tmp_path / name / "photos")
        write_dataset(photos, "images", [keys(0, 100), keys(100, 100), keys(200, 7)])
        all_steps(photos, runner)
    for name in ("photos", "talks"):
        assert files(str(tmp_path / "dask" / name)) == files(str(tmp_path / "local" / name))


def test_dedupe_gives_the_same_files(tmp_path, dask):
    for name, runner in (("local", Runner("local", 1)), ("dask", dask)):
        known_of(tmp_path / name, MIXED, [2, 5])
        run_step(Dedupe(DedupeConfig()), tmp_path / name, runner)
    assert files(str(tmp_path / "dask")) == files(str(tmp_path / "local"))


def test_a_worker_that_dies_in_the_middle_is_replaced(tmp_path, dask):
    for name in ("whole", "cut"):
        write_dataset(tmp_path / name, "images", [keys(start, 20) for start in range(0, 200, 20)])
    run_step(Frail(FrailConfig()), tmp_path / "whole", Runner("local", 1))
    step = Frail(FrailConfig(dies_at="k137", once=str(tmp_path / "died")))
    assert run_step(step, tmp_path / "cut", dask).made == 10
    assert (tmp_path / "died").exists()
    assert files(str(tmp_path / "cut")) == files(str(tmp_path / "whole"))
    assert Dataset.open(tmp_path / "cut").verify() == []


def test_work_that_no_worker_survives_is_one_error_and_the_rest_is_kept(tmp_path, dask):
    write_dataset(tmp_path / "p", "images", [keys(start, 20) for start in range(0, 200, 20)])
    with pytest.raises(WorkerError, match=r"consecutive worker processes died .* use fewer --workers"):
        run_step(Frail(FrailConfig(dies_at="k197")), tmp_path / "p", dask)
    assert run_step(Frail(FrailConfig()), tmp_path / "p", dask).made == 10
    runs = [path.read_text() for path in (tmp_path / "p" / "runs").rglob("frail-*.jsonl")]
    assert '"reused": true' in "".join(runs)


def test_a_cluster_that_is_there_says_how_many_workers_it_has(tmp_path, dask):
    from distributed import Client

    given = Runner("dask", 0, [f"--dask_client_address={dask.cluster.address}"])
    with Client(dask.cluster.address) as client:
        client.wait_for_workers(1, timeout=180)  # those that another test ended are replaced
        with given.session() as runner:
            assert runner.count == len(client.scheduler_info(n_workers=-1)["workers"])
            assert runner.cluster is None
    write_dataset(tmp_path / "p", "images", [keys(0, 20), keys(20, 20)])
    assert run_step(Frail(FrailConfig()), tmp_path / "p", given).made == 2


def test_an_address_where_nobody_answers_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.engine.cluster._CONNECT_S", 0.5)
    write_dataset(tmp_path / "p", "images", [keys(0, 20)])
    runner = Runner("dask", 1, ["--dask_client_address=tcp://127.0.0.1:9"])
    with pytest.raises(InputError, match=r"runner dask: the scheduler tcp://127.0.0.1:9 does not answer"):
        run_step(Frail(FrailConfig()), tmp_path / "p", runner)


@pytest.mark.parametrize(
    ("arguments", "spread"),
    [
        ([], False),
        (["--dask_client_address=tcp://127.0.0.1:8786"], False),
        (["--dask_client_address", "localhost:8786"], False),
        (["--dask_client_address=tcp://10.0.0.7:8786"], True),
        (["--dask_scheduler_file=/shared/scheduler.json"], True),
    ],
)
def test_what_must_stay_on_one_machine_is_refused_on_a_cluster_of_others(arguments, spread):
    runner = Runner("dask", 2, arguments)
    assert runner.is_spread == spread
    if spread:
        with pytest.raises(InputError, match=r"generate: runner dask runs on several machines\. A file"):
            runner.admit("generate", Needs(one_machine="A file."), [])
    else:
        runner.admit("generate", Needs(one_machine="A file."), [])


def test_each_worker_has_a_gpu_of_its_own_and_one_gpu_is_left_alone():
    shown = [_own_gpu(["4", "GPU-7a"], number).get("CUDA_VISIBLE_DEVICES") for number in range(3)]
    assert shown == ["4", "GPU-7a", "4"]
    assert _own_gpu(["4"], 1) == {} and _own_gpu([], 0) == {}
