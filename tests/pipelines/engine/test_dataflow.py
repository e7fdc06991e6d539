"""What a user says about Dataflow becomes flags and hints of Beam, or one message. Needs no apache-beam[gcp]."""

import base64
import bz2
import pickle

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, WorkerOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2

from pipelines import catalog
from pipelines.download import Download
from pipelines.engine import dataflow
from pipelines.engine.dataflow import DataflowConfig, Spread, job_name
from pipelines.engine.imports import _local_source
from pipelines.engine.job import fragment_job
from pipelines.engine.makers import StepMaker
from pipelines.engine.runners import Runner
from pipelines.engine.step import Context, Needs
from pipelines.generate import Generate
from pipelines.judge import Judge
from pipelines.recipes import load_recipe, run_recipe
from schemas.commit import Change
from schemas.errors import InputError
from tests.pipelines.steps import Shout, ShoutConfig

RUN = "20261128T101500-123-abcdef"
GIVEN = {"project": "p", "region": "europe-west4", "temp_location": "gs://b/temp"}
GPU = "type:nvidia-l4;count:1;install-nvidia-driver"


@pytest.fixture
def installed(monkeypatch):
    """As if lavabeam[gcp] were there."""
    monkeypatch.setattr(dataflow, "_installed", lambda module: True)


def config(**given) -> DataflowConfig:
    return DataflowConfig(**{**GIVEN, **given})


def test_all_that_is_missing_is_one_message():
    with pytest.raises(InputError, match=r"--project, --region, --temp-location are missing\. Give all of") as raised:
        Runner("dataflow").check()
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=r"dataflow: --region is missing"):
        Runner("DataflowRunner", dataflow=config(region="")).check()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temp_location": "temp"}, "--temp-location temp: expected a folder in a bucket"),
        ({"staging_location": "s3://b"}, "--staging-location s3://b: expected a folder in a bucket"),
    ],
)
def test_places_of_a_job_are_in_a_bucket(installed, given, message):
    with pytest.raises(InputError, match=message):
        Runner("dataflow", dataflow=config(**given)).check()


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(dataflow, "_installed", lambda module: module == "gcsfs")
    with pytest.raises(InputError, match=r"Install lavabeam\[gcp\]"):
        Runner("dataflow", dataflow=config()).check()


def test_threads_of_this_machine_are_no_machines_of_dataflow(installed):
    with pytest.raises(InputError, match=r"--workers does not apply\. Give --max-workers"):
        Runner("dataflow", 4, dataflow=config()).check()


def test_a_local_dataset_is_refused_by_name():
    runner = Runner("dataflow", dataflow=config())
    runner.admit("shout", Needs(), ["gs://b/photos"])
    with pytest.raises(InputError, match=r"work/photos: workers on Dataflow cannot reach"):
        runner.admit("shout", Needs(), ["gs://b/photos", "work/photos"])


def test_a_model_on_this_machine_travels_in_an_image():
    needs = Needs(model_files=("models/blip",))
    with pytest.raises(InputError, match=r"caption: workers on Dataflow do not have models/blip.*give --image"):
        Runner("dataflow", dataflow=config()).admit("caption", needs, [])
    Runner("dataflow", dataflow=config(image="r/i:1")).admit("caption", needs, [])


@pytest.mark.parametrize("runner", ["dataflow", "PortableRunner", "apache_beam.runners.portability.FlinkRunner"])
def test_a_cap_that_each_machine_would_keep_by_itself_is_refused(runner, tmp_path):
    asked = {"model": "gpt-4o-mini", "max_cost": 5, "cache": str(tmp_path)}
    for step in (Generate(Generate.Config(**asked)), Judge(Judge.Config(**asked, images="gs://b/photos"))):
        with pytest.raises(InputError, match=r"on several machines\. The answer cache and the spend ledger .*local"):
            Runner(runner, 2, dataflow=config()).admit(step.name, step.needs, [])
        Runner("local").admit(step.name, step.needs, [])
        Runner("PortableRunner", 2, ["--environment_type", "LOOPBACK"]).admit(step.name, step.needs, [])


def test_a_hosts_limit_is_not_passed_by_many_processes():
    """8 downloads at a time from a host are not divided among 10 machines with 4 processes each."""
    needs = Download(Download.Config(host_limit=8)).needs
    assert config().spread(needs) == Spread(8, 1, 1)
    assert config(max_workers=2).spread(needs) == Spread(2, 4, 1)
    assert config(max_workers=3).spread(needs) == Spread(3, 1, 1)
    runner = Runner("dataflow", dataflow=config(max_workers=2))
    assert runner.processes(needs, runner.hands(needs, 100, True)) == 8
    portable = Runner("PortableRunner", 0, ["--job_endpoint=h:1"])
    with pytest.raises(InputError, match=r"at most 8 of them.*--workers"):
        portable.admit("download", needs, [])
    Runner("PortableRunner", 8, ["--job_endpoint=h:1"]).admit("download", needs, [])


@pytest.mark.parametrize(
    ("machine", "processes"),
    [
        ("n2-standard-16", 16),
        ("e2-medium", 2),
        ("e2-custom-6-8192", 6),
        ("c3-standard-8-lssd", 8),
        ("a2-highgpu-1g", 1),
    ],
)
def test_a_process_for_each_vcpu_that_the_machines_name_tells(machine, processes):
    assert config(machine_type=machine).spread(Needs()) == Spread(10, processes, 1)


def test_steps_that_take_several_fragments_have_one_process():
    assert config().spread(Needs(threads=True)) == Spread(10, 1, 4)


def flags(step: str = "shout", needs: Needs | None = None, **given) -> PipelineOptions:
    return PipelineOptions(config(**given).arguments(step, RUN, needs or Needs(), []))


def test_options_become_beams_flags():
    every = flags(
        machine_type="n2-standard-8",
        max_workers=50,
        disk_gb=40,
        service_account="w@p.iam",
        network="n",
        subnetwork="s",
        public_ips=False,
        labels={"team": "data"},
        image="r/lavabeam:1",
    )
    cloud, worker = every.view_as(GoogleCloudOptions), every.view_as(WorkerOptions)
    assert (cloud.project, cloud.region, cloud.temp_location) == ("p", "europe-west4", "gs://b/temp")
    assert cloud.job_name == "lavabeam-shout-20261128t101500-123-abcdef"
    assert cloud.labels == ["lavabeam-step=shout", "lavabeam-run=20261128t101500-123-abcdef", "team=data"]
    assert (cloud.service_account_email, worker.machine_type) == ("w@p.iam", "n2-standard-8")
    assert (worker.max_num_workers, worker.autoscaling_algorithm) == (50, "THROUGHPUT_BASED")
    assert (worker.disk_size_gb, worker.network, worker.subnetwork, worker.use_public_ips) == (40, "n", "s", False)
    assert worker.sdk_container_image == "r/lavabeam:1"
    assert every.get_all_options()["sdk_location"] == "container"
    assert every.get_all_options()["number_of_worker_harness_threads"] == 1
    assert not every.get_all_options()["experiments"]


def test_what_was_not_said_is_left_to_dataflow():
    worker = flags().view_as(WorkerOptions)
    assert (worker.machine_type, worker.max_num_workers) == ("e2-standard-4", 10)
    assert (worker.disk_size_gb, worker.network, worker.use_public_ips, worker.sdk_container_image) == (None,) * 4


def test_needs_decide_disk_threads_and_machine():
    model = flags(needs=Needs(threads=True, disk_gb=100, accelerator=GPU), disk_gb=50)
    assert model.view_as(WorkerOptions).disk_size_gb == 100
    assert model.view_as(WorkerOptions).machine_type == "g2-standard-8"
    assert model.get_all_options()["number_of_worker_harness_threads"] == 4
    assert model.get_all_options()["experiments"] == ["no_use_multiple_sdk_containers"]


@pytest.mark.parametrize("name", ["Shout", "dedupe_keys", "s" * 90])
def test_job_names_are_what_dataflow_takes(name):
    made = job_name(name, RUN)
    assert made[0].isalpha() and made[-1].isalnum() and set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_bad_labels_are_refused():
    with pytest.raises(ValueError, match="at most 63 lower-case"):
        config(labels={"Team": "Data"})


def test_needs_are_resource_hints_of_the_work():
    """Memory is a process's own, and a machine has as many processes as vCPUs."""
    runner = Runner("dataflow", dataflow=config())
    needs = Needs(memory_gb=2, accelerator=GPU)
    hands = runner.hands(needs, 10, True)
    pipeline = beam.Pipeline()
    change, context = Change(base=0, schema_version="images/1.0"), Context(run="r", dataset="d")
    fragment_job(pipeline, [[]], StepMaker(Shout(ShoutConfig()), "d", "images"), context, hands, change)
    components = pipeline.to_runner_api().components
    hints = {
        part.unique_name: dict(components.environments[part.environment_id].resource_hints)
        for part in components.transforms.values()
        if part.environment_id
    }
    wanted = {
        common_urns.resource_hints.ACCELERATOR.urn: GPU.encode(),
        common_urns.resource_hints.MIN_RAM_BYTES.urn: str(16 * 2**30).encode(),
    }
    (made,) = [name for name in hints if name.startswith("make")]
    assert hints.pop(made) == wanted
    assert hints and not any(hints.values())


def test_an_accelerator_goes_to_steps_that_can_use_it():
    with_gpu = config(accelerator="type:nvidia-tesla-t4;count:1;install-nvidia-driver")
    assert with_gpu.resources(Needs()) == {}
    assert with_gpu.resources(Needs(accelerator="optional"))["accelerator"].startswith("type:nvidia-tesla-t4")
    assert config().resources(Needs(accelerator="optional")) == {}
    assert config().resources(Needs(accelerator=GPU)) == {"accelerator": GPU}


def test_prompts_travel_with_the_step(tmp_path):
    """Workers have no such file: what was read here is what they ask."""
    file = tmp_path / "mine.yaml"
    file.write_text("id: mine\nversion: '1'\nkind: mine\nabout: x\nanswer: turns\nsystem: Be brief.\nuser: Talk.\n")
    asked = {"model": "m", "price": {"input": 1, "output": 1}}
    talk = Generate(Generate.Config(**asked, kinds=[{"kind": "mine", "prompt": str(file)}]))
    judge = Judge(Judge.Config(**asked, images="photos", prompt=str(file)))
    sent = pickle.dumps((talk, judge))
    file.unlink()
    talk, judge = pickle.loads(sent)
    assert [prompt.system for _, prompt in talk.config.prompts()] == ["Be brief."]
    assert judge.config.loaded_prompt.system == "Be brief."


def test_a_recipe_is_refused_before_anything_runs(installed, tmp_path):
    (tmp_path / "urls.csv").write_text("url\nhttp://127.0.0.1:9/a.png\n")
    (tmp_path / "recipe.yaml").write_text(
        f"steps:\n- import: {{to: photos, importer: url_list, path: {tmp_path}/urls.csv}}\n"
        "- generate: {dataset: photos, to: talks, model: gpt-4o-mini}\n"
    )
    runner = Runner("dataflow", dataflow=config())
    with pytest.raises(
        InputError, match=r"recipe\.yaml: step 2 \(generate\): runner dataflow runs on several machines"
    ):
        next(run_recipe(load_recipe(tmp_path / "recipe.yaml", "gs://b/data"), runner))
    with pytest.raises(InputError, match=r"data/photos: workers on Dataflow cannot reach this place"):
        next(run_recipe(load_recipe(tmp_path / "recipe.yaml", tmp_path / "data"), runner))
    assert not (tmp_path / "data").exists()


def test_no_key_is_in_a_job(monkeypatch):
    """A job's graph is kept by Dataflow and shown to all who may see the job."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    step = Generate(Generate.Config(model="gpt-4o-mini"))
    pipeline = beam.Pipeline()
    change, context = Change(base=0, schema_version="images/1.0"), Context(run="r", dataset="d")
    hands = Runner("dataflow", dataflow=config()).hands(step.needs, 1, True)
    fragment_job(pipeline, [[]], StepMaker(step, "d", "images"), context, hands, change)
    functions = pickled_functions(pipeline)
    assert b"OPENAI_API_KEY" in functions  # the name of the variable is there, so the step is
    assert b"sk-secret" not in functions + pipeline.to_runner_api().SerializeToString()
    assert "sk-secret" not in " ".join(config().arguments("generate", RUN, step.needs, []))


def pickled_functions(pipeline: beam.Pipeline) -> bytes:
    """What the graph's DoFns were pickled to: the graph itself has them compressed."""
    found = []
    for transform in pipeline.to_runner_api().components.transforms.values():
        if transform.spec.urn == common_urns.primitives.PAR_DO.urn:
            payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
            found.append(bz2.decompress(base64.b64decode(payload.do_fn.payload)))
    return b"".join(found)


@pytest.mark.parametrize(
    ("name", "options", "local"),
    [
        ("url_list", {"path": ["gs://b/a.csv", "b.csv"]}, "b.csv"),
        ("refcoco", {"path": "gs://b/refs(unc).p", "split": "train"}, ""),  # a split is no place
        ("refcoco", {"path": "refs(unc).p"}, "refs(unc).p"),
        ("easy_vqa", {"split": "train"}, "what easy_vqa has installed"),
    ],
)
def test_a_source_that_other_machines_cannot_reach(name, options, local):
    kind = catalog.importer(name)
    assert _local_source(kind(kind.Config(**options))) == local
