"""Entry point of the flex template's launcher: it describes one small job that runs `lavabeam run` on its worker.

A launcher must describe exactly one job and end, and a recipe is a job for each step, one after the other. So the job
that it describes has one worker, which starts those jobs and waits for them. A worker that is lost is replaced by
Dataflow, and the same command goes on where the lost one stopped.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING

from lavabeam.cli.cloud import SAID_BY_DATAFLOW, parameters, words
from schemas.errors import InputError

if TYPE_CHECKING:
    import apache_beam as beam

_ONE_WORKER = [
    "--max_num_workers=1",
    "--number_of_worker_harness_threads=1",
    "--experiments=no_use_multiple_sdk_containers",
    "--sdk_location=container",
]


def main(arguments: list[str] | None = None) -> None:
    """Describe the job; Dataflow says where with --template_location, and starts it."""
    command, flags = split(sys.argv[1:] if arguments is None else arguments)
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    fill(pipeline, command)
    pipeline.run()


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """`--name=value` words of the launcher -> the words of our command, and Beam's flags for the job that runs it.

    Raises InputError without a recipe, or without an image.
    """
    names = [word.removeprefix("--").partition("=")[0] for word in arguments]
    given = {name: word.partition("=")[2] for name, word in zip(names, arguments, strict=True)}
    given.setdefault("image", given.get("sdk_container_image", ""))
    for name in ("recipe", "image", *sorted(SAID_BY_DATAFLOW)):
        if not given.get(name):
            raise InputError(
                f"flex template: the parameter {name!r} is missing. Give it when the template is launched."
            )
    ours = {str(param.name) for param in parameters()}
    flags = [word for name, word in zip(names, arguments, strict=True) if name not in ours]
    if "sdk_container_image" not in given:
        flags.append(f"--sdk_container_image={given['image']}")
    places = [word for name in sorted(SAID_BY_DATAFLOW) for word in (f"--{name.replace('_', '-')}", given[name])]
    command = ["run", *words({name: given[name] for name in given if name in ours})]
    return [*command, "--runner", "dataflow", *places], [*flags, *_ONE_WORKER]


def fill(pipeline: beam.Pipeline, command: list[str]) -> None:
    """The one job: a worker that runs the command."""
    import apache_beam as beam

    pipeline | beam.Create([command]) | "lavabeam run" >> beam.Map(run_command)


def run_command(command: list[str]) -> None:
    """`lavabeam` with these words; its lines go to the job's log. Raises RuntimeError when it fails."""
    words = [sys.executable, "-P", "-m", "lavabeam", *command]
    log, last = logging.getLogger("lavabeam"), ""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = line.rstrip() or last
            log.warning("%s", line.rstrip())
    if process.returncode:
        raise RuntimeError(f"lavabeam {' '.join(command)}: exit code {process.returncode}: {last}")


if __name__ == "__main__":
    main()
