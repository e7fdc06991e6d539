"""Jobs as Dataflow gets them, executed: `make test-dataflow`, in an environment with lavabeam[gcp].

A recipe runs through the command line against local stand-ins of Dataflow and of Cloud Storage. Every job is executed
as it was sent, by workers that have nothing but what it installs, and the dataset is that of a local run.
"""

import base64
import bz2
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gcsfs", reason="needs lavabeam[gcp]: make test-dataflow")
pytest.importorskip("google.cloud.storage", reason="needs lavabeam[gcp]: make test-dataflow")

from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from google.cloud.dataflow_v1beta3 import AutoscalingAlgorithm, ContainerSpec, JobType

from lavabeam.cli.cloud import flex_template
from schemas.store import Store
from tests.dataflow.buckets import Buckets, serve
from tests.dataflow.service import Dataflow, Workers

ROOT = Path(__file__).parents[2]
KEY = "sk-secret-0123456789"
STEPS = ("import", "download", "dedupe_keys", "dedupe")


class Cloud:
    """Both stand-ins, and the command line with everything that points it to them."""

    def __init__(self, execute=None):
        self.buckets = Buckets()
        self.storage = serve(self.buckets)
        reached = {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self.storage.server_address[1]}",
            # Without credentials, and without asking over gRPC what kind of bucket it is.
            "FSSPEC_GS_TOKEN": "anon",
            "FSSPEC_GCS_TOKEN": "anon",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
        self.workers = Workers(self.buckets, Path(sys.prefix), reached)
        self.dataflow = Dataflow(execute or self.workers.execute)
        self.environment = {**os.environ, **reached, "OPENAI_API_KEY": KEY, "PYTHONPATH": str(ROOT)}

    def start(self, *words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "lavabeam", *words]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def lavabeam(self, *words: str) -> tuple[int, str]:
        """Exit code and all that was printed."""
        process = self.start(*words)
        try:
            out, err = process.communicate(timeout=1800)
        finally:
            process.kill()
        return process.returncode, out + err

    @property
    def there(self) -> list[str]:
        """The words of a run on Dataflow; more may stand in front."""
        places = ["--project", "my-project", "--region", "europe-west4", "--temp-location", "gs://b/temp"]
        return ["--runner", "dataflow", *places, "--", f"--dataflow_endpoint={self.dataflow.url}", "--no_auth"]

    def close(self) -> None:
        self.storage.shutdown()
        self.dataflow.server.shutdown()


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (96, 128, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((256, 192)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe of 20 pictures, of which two are the same and two are not there, and the server that has them."""
    folder = tmp_path_factory.mktemp("web")
    for number in range(18):
        (folder / f"{number}.jpg").write_bytes(picture(number % 17))
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_address[1]}"
    (folder / "urls.csv").write_text("url\n" + "".join(f"http://{host}/{number}.jpg\n" for number in range(20)))
    (folder / "recipe.yaml").write_text(
        "variables: {list: ''}\n"
        "steps:\n"
        "- import: {to: photos, importer: url_list, path: '${list}', rows_per_slice: 8}\n"
        f"- download: {{dataset: photos, allow_private_hosts: ['{host}'], retries: 0}}\n"
        "- dedupe: {dataset: photos}\n"
    )
    yield folder
    server.shutdown()


@pytest.fixture(scope="module")
def done(recipe):
    """The recipe, run on the stand-ins."""
    cloud = Cloud()
    cloud.buckets.put(("b", "urls.csv"), (recipe / "urls.csv").read_bytes(), {})
    words = ["run", str(recipe / "recipe.yaml"), "--set", "list=gs://b/urls.csv", "--folder", "gs://b/data"]
    cloud.code, cloud.said = cloud.lavabeam(*words, "--max-workers", "2", "--labels", "{team: data}", *cloud.there)
    yield cloud
    cloud.close()


def test_the_jobs_that_were_sent_make_the_dataset_of_a_local_run(done, recipe, tmp_path):
    assert done.code == 0, done.said + json.dumps(done.dataflow.errors)
    words = ["run", str(recipe / "recipe.yaml"), "--set", f"list={recipe / 'urls.csv'}", "--folder", str(tmp_path)]
    code, said = done.lavabeam(*words, "--workers", "1")
    assert code == 0, said
    mark = "data/photos/fragments/"
    there = {name.removeprefix(mark): one.content for (_, name), one in done.buckets.objects.items() if mark in name}
    folder = tmp_path / "photos" / "fragments"
    here = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.arrow")}
    assert there.keys() == here.keys() and len(here) == 3 * len(STEPS)
    assert there == here
    code, shown = done.lavabeam("show", "gs://b/data/photos")
    assert code == 0 and "18 ok" in shown and "2 not_found" in shown


def test_what_was_sent_is_what_the_options_say(done):
    jobs = list(done.dataflow.jobs.values())
    assert [job["labels"]["lavabeam-step"] for job in jobs] == list(STEPS)
    for job, step in zip(jobs, STEPS, strict=True):
        run = job["labels"]["lavabeam-run"]
        assert job["name"] == f"lavabeam-{step}-{run}".replace("_", "-")
        assert job["labels"]["team"] == "data"
        assert (job["projectId"], job["location"], job["type"]) == (
            "my-project",
            "europe-west4",
            JobType.JOB_TYPE_BATCH,
        )
        (pool,) = job["environment"]["workerPools"]
        assert (pool["machineType"], pool["numThreadsPerWorker"]) == ("e2-standard-4", 1)
        algorithm = AutoscalingAlgorithm.AUTOSCALING_ALGORITHM_BASIC
        assert pool["autoscalingSettings"] == {"algorithm": algorithm, "maxNumWorkers": 2}
        names = {one["name"] for one in pool["packages"]}
        assert "requirements.txt" in names and len([name for name in names if name.endswith(".whl")]) == 1
        assert f"Dataflow job {job['id']}, https://console.cloud.google.com/dataflow/jobs/europe-west4/" in done.said


def test_a_steps_needs_are_hints_of_its_transform_alone(done):
    """download needs 2 GiB for each process, of which a machine of 4 vCPUs has 4."""
    graphs = dict(zip(STEPS, map(beam_runner_api_pb2.Pipeline.FromString, done.workers.graphs), strict=True))
    ram = common_urns.resource_hints.MIN_RAM_BYTES.urn
    for step, graph in graphs.items():
        environments = graph.components.environments
        asked = {
            transform.unique_name: environments[transform.environment_id].resource_hints.get(ram)
            for transform in graph.components.transforms.values()
            if transform.environment_id
        }
        hinted = {name: value for name, value in asked.items() if value is not None}
        assert hinted == ({"make": str(8 * 2**30).encode()} if step == "download" else {}), step


def test_no_key_is_in_jobs_graphs_files_or_logs(done):
    graphs = b"".join(done.workers.graphs)
    functions = b"".join(map(_functions, done.workers.graphs))
    assert b"pipelines.download.step" in functions
    files = b"".join(one.content for one in done.buckets.objects.values())
    sent = json.dumps(list(done.dataflow.jobs.values())).encode()
    for place in (graphs, functions, files, sent, done.said.encode()):
        assert KEY.encode() not in place


def test_the_run_log_is_read_from_where_it_ended(done, monkeypatch):
    """As progress does: Cloud Storage refuses a range that begins at the end of a file."""
    for name, value in done.environment.items():
        monkeypatch.setenv(name, value)
    store = Store("gs://b/data/photos")
    (name,) = [name for _, name in done.buckets.objects if "/dedupe-" in name and name.endswith(".jsonl")]
    name = name.removeprefix("data/photos/")
    whole = store.read(name)
    assert whole and store.read(name, len(whole)) == b"" and store.read(name, len(whole) - 1) == whole[-1:]


def _functions(graph: bytes) -> bytes:
    """What DoFns were pickled to: graphs have them compressed."""
    found = []
    for transform in beam_runner_api_pb2.Pipeline.FromString(graph).components.transforms.values():
        if transform.spec.urn == common_urns.primitives.PAR_DO.urn:
            payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
            found.append(bz2.decompress(base64.b64decode(payload.do_fn.payload)))
    return b"".join(found)


@pytest.fixture
def broken(recipe):
    """Stand-ins with an imported list, whose Dataflow does not get on: `outcome` is called instead of a job."""

    def execute(job):
        return cloud.outcome(job)

    cloud = Cloud(execute)
    words = ["import", "url_list", "gs://b/photos", "--path", str(recipe / "urls.csv"), *cloud.there]
    code, said = cloud.lavabeam(*words)
    # A list on this machine is read here.
    assert code == 0 and "is on this machine" in said and not cloud.dataflow.jobs
    yield cloud
    cloud.close()


def test_a_job_that_fails_or_is_interrupted(broken):
    def fail(job):
        raise RuntimeError("The zone has no machines left.")

    broken.outcome = fail
    code, said = broken.lavabeam("download", "gs://b/photos", *broken.there)
    assert code == 1 and "Traceback" not in said
    assert (
        "download: Dataflow job 2026-11-28_00_00_00-1 ended as FAILED: The zone has no machines left. Its log:" in said
    )
    broken.outcome = lambda job: time.sleep(600)
    process = broken.start("download", "gs://b/photos", *broken.there)
    assert any("Dataflow job 2026-11-28_00_00_00-2" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    assert "interrupted" in process.communicate(timeout=120)[1]
    assert (process.returncode, len(broken.dataflow.cancelled)) == (130, 1)


def test_a_launched_template_describes_one_job_of_one_worker(tmp_path):
    spec = ContainerSpec.from_json(json.dumps(flex_template("r/lavabeam:1")))
    assert spec.default_environment.sdk_container_image == "r/lavabeam:1"
    cloud = Cloud()
    launched = {
        "recipe": "/recipes/photos.yaml",
        "folder": "gs://b/data",
        "runner": "DataflowRunner",
        "project": "my-project",
        "region": "europe-west4",
        "temp_location": "gs://b/temp",
        "staging_location": "gs://b/staging",
        "template_location": "gs://b/job_object",
        "sdk_container_image": "r/lavabeam:1",
        "dataflow_endpoint": cloud.dataflow.url,
    }
    words = [
        *(f"--{name}={value}" for name, value in launched.items()),
        "--no_auth",
        "--experiments=a",
        "--experiments=b",
    ]
    command = [sys.executable, "-m", "lavabeam.flex", *words]
    subprocess.run(command, cwd=ROOT, env=cloud.environment, check=True, timeout=300)
    job = json.loads(cloud.buckets.get(("b", "job_object")).content)
    (pool,) = job["environment"]["workerPools"]
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 1
    assert {"a", "b", "no_use_multiple_sdk_containers"} <= set(job["environment"]["experiments"])
    assert [one["containerImage"] for one in pool["sdkHarnessContainerImages"]] == ["r/lavabeam:1"]
    assert not cloud.dataflow.jobs
    cloud.close()
