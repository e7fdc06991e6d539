"""Runners: where a Beam job runs. The job is the same everywhere."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from pipelines.engine.workers import Hands
from schemas.errors import InputError

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.runners.runner import PipelineRunner

    from pipelines.engine.step import Needs

MOST_THREADS = 48
"""Fragments under way at a time when all that they do is wait."""

BLOCKS_PER_WORKER = 4
"""Blocks of tasks for each worker elsewhere: enough that none is idle for long while another has work left."""

MOST_BLOCKS = 1000
"""Blocks of tasks where the number of workers is the runner's own affair."""

T = TypeVar("T")


@dataclass(frozen=True)
class Runner:
    """`name`: local, dask, dataflow, or any runner that Beam knows. `arguments` go to Beam as they are."""

    name: str = "local"
    workers: int = 0
    """Processes, or threads for a step that waits; 0 means one per core, or more (`MOST_THREADS`)."""
    arguments: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.workers or os.cpu_count() or 1

    @property
    def live(self) -> bool:
        """Whether this process hears of each row as it is written."""
        return self.name == "local"

    def hands(self, needs: Needs, tasks: int, shared: bool) -> Hands:
        """On what tasks are worked in a process that Beam runs in. `shared`: other processes see the dataset.

        On `local` Beam itself has one thread: its own threads flush half an element now and then, and share a core.
        """
        if not self.live:
            return Hands()
        count = max(self.count, MOST_THREADS) if needs.waits and not self.workers else self.count
        count = min(count, tasks, needs.most_workers or count)
        if count <= 1:
            return Hands()
        return Hands("threads" if needs.threads or not shared else "processes", count)

    def blocks(self, tasks: list[T]) -> list[list[T]]:
        """Tasks in the blocks in which the runner hands them out: one where this process shares them out itself."""
        if self.live:
            return [tasks] if tasks else []
        parts = min(len(tasks), self.count * BLOCKS_PER_WORKER if self.name == "dask" else MOST_BLOCKS)
        return [tasks[number::parts] for number in range(parts)]

    @contextmanager
    def session(self) -> Iterator[Runner]:
        """A runner for several jobs in a row: with dask, one cluster of local processes serves them all."""
        given = any(argument.startswith("--dask_client_address") for argument in self.arguments)
        if self.name != "dask" or given:
            yield self
            return
        with _local_cluster(self.count) as address:
            yield replace(self, arguments=[*self.arguments, f"--dask_client_address={address}"])

    @contextmanager
    def pipeline(self) -> Iterator[beam.Pipeline]:
        """A pipeline to fill; it runs, and is waited for, when the block ends."""
        logging.getLogger("apache_beam").setLevel(logging.WARNING)
        with self.session() as runner, _run(*runner._beam()) as pipeline:
            yield pipeline

    def _beam(self) -> tuple[PipelineRunner | str, list[str]]:
        _check(self.arguments)
        if self.name == "local":
            return _local_runner(), self.arguments
        if self.name == "dask":
            # Beam's default puts 128 elements, so all of a small job, on one worker; each partition costs 0.1 s.
            return _dask_runner(), [*self.arguments, f"--dask_npartitions={8 * self.count}"]
        return {"dataflow": "DataflowRunner"}.get(self.name, self.name), self.arguments


def _check(arguments: list[str]) -> None:
    """Raises InputError for the modes of Beam's local runner that lose or mix up elements."""
    for argument in arguments:
        if argument.startswith(("--direct_running_mode", "--direct_num_workers")):
            raise InputError(
                f"{argument}: Beam's own threads and processes damage elements that take over a second to make. "
                "Leave it out: --workers N gives N worker processes."
            )


@contextmanager
def _run(runner: PipelineRunner | str, arguments: list[str]) -> Iterator[beam.Pipeline]:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    try:
        pipeline = beam.Pipeline(runner=runner, options=PipelineOptions(arguments))
    except (ValueError, ImportError) as error:
        raise InputError(f"runner {runner!r}: {error}. Known here: local, dask, dataflow, or a Beam runner.") from error
    yield pipeline
    pipeline.run().wait_until_finish()


def _local_runner() -> PipelineRunner:
    # Pinned by class: "DirectRunner" tries to download another runner first.
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    return FnApiRunner()


def _dask_runner() -> PipelineRunner:
    try:
        from apache_beam.runners.dask.dask_runner import DaskRunner
    except ImportError as error:
        raise InputError("runner dask: dask is not installed. Install lavabeam[dask].") from error
    return DaskRunner()


@contextmanager
def _local_cluster(workers: int) -> Iterator[str]:
    """The address of a scheduler with `workers` processes on this machine, ended with the block."""
    _dask_runner()
    from dask.distributed import LocalCluster, default_client

    logging.getLogger("distributed").setLevel(logging.ERROR)
    with (
        tempfile.TemporaryDirectory() as scratch,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.ERROR,
            local_directory=scratch,
        ) as cluster,
    ):
        yield cluster.scheduler_address
        # Beam leaves its clients open; without this each would try for 30 s to reach the ended scheduler.
        with suppress(ValueError):
            while True:
                default_client().close()
