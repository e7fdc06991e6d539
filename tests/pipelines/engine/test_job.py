"""The portable core: a pipeline that uses anything else may be silently wrong on some runner."""

from functools import partial

import apache_beam as beam
import pytest
from apache_beam.internal import pickler
from apache_beam.portability.api import beam_runner_api_pb2

from pipelines import catalog
from pipelines.engine.job import fragment_job, verdict_job
from pipelines.engine.makers import StepMaker, VerdictMaker
from pipelines.engine.step import Context
from pipelines.engine.workers import Hands
from schemas.commit import Change
from tests.pipelines.steps import Shout, ShoutConfig, Twin

ALLOWED = {
    "beam:transform:impulse:v1",
    "beam:transform:pardo:v1",
    "beam:transform:flatten:v1",
    "beam:transform:group_by_key:v1",
    "beam:transform:combine_per_key:v1",
    "beam:transform:combine_globally:v1",
    "beam:transform:reshuffle:v1",
}
CHANGE = Change(base=0, schema_version="images/1.0")
CONTEXT = Context(run="r", dataset="d")


def problems(pipeline: beam.Pipeline) -> list[str]:
    """What in the pipeline's proto lies outside the portable core."""
    proto = pipeline.to_runner_api()
    transforms = proto.components.transforms
    found, consumed = [], set()
    for transform in transforms.values():
        consumed |= set(transform.inputs.values())
        passes_on = set(transform.outputs.values()) <= set(transform.inputs.values()) and transform.outputs
        is_leaf = not transform.subtransforms and not passes_on
        if is_leaf and transform.spec.urn not in ALLOWED:
            found.append(f"{transform.unique_name}: {transform.spec.urn}")
        if is_leaf and len(transform.outputs) > 1:
            found.append(f"{transform.unique_name}: tagged outputs")
        if transform.spec.urn == "beam:transform:pardo:v1":
            payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
            if payload.state_specs or payload.timer_family_specs or payload.restriction_coder_id:
                found.append(f"{transform.unique_name}: state, timers or a splittable DoFn")
            function = pickler.loads(payload.do_fn.payload)[0] if payload.do_fn.payload else None
            if function is not None and type(function).finish_bundle is not beam.DoFn.finish_bundle:
                found.append(f"{transform.unique_name}: output in finish_bundle")
    leaves = [
        transform.unique_name
        for transform in transforms.values()
        if not transform.subtransforms and not set(transform.outputs.values()) & consumed
    ]
    return found + (leaves if len(leaves) != 1 else [])


def fill_steps(pipeline):
    fragment_job(pipeline, [], StepMaker(Shout(ShoutConfig()), "d", "images"), CONTEXT, Hands(), CHANGE)


def fill_verdicts(pipeline):
    verdict_job(pipeline, [], [], VerdictMaker(Twin(Twin.Config()), "d", "images"), CONTEXT, Hands(), CHANGE)


def fill_with(name, pipeline):
    step = catalog.step(name)
    verdict_job(pipeline, [], [], VerdictMaker(step(step.Config()), "d", "images"), CONTEXT, Hands(), CHANGE)


DATASET_STEPS = [partial(fill_with, name) for name in ("dedupe", "dedupe_text", "dedupe_semantic", "dedupe_joint")]


@pytest.mark.parametrize("fill", [fill_steps, fill_verdicts, *DATASET_STEPS])
def test_every_job_stays_in_the_portable_core(fill):
    pipeline = beam.Pipeline()
    fill(pipeline)
    assert problems(pipeline) == []


def test_the_walk_finds_what_it_forbids():
    pipeline = beam.Pipeline()
    split = pipeline | beam.Create([1, 2]) | beam.Partition(lambda element, _: element % 2, 2)
    split[0] | "even" >> beam.Map(print)
    split[1] | "odd" >> beam.Map(print)
    reported = "\n".join(problems(pipeline))
    assert "tagged outputs" in reported
    assert "even" in reported and "odd" in reported
