"""Runners: where a Beam job runs. The job is the same everywhere."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from schemas.errors import InputError

MOST_THREADS = 48
"""Fragments under way at a time when all that they do is wait."""


@dataclass(frozen=True)
class Runner:
    """`name`: local, dask, dataflow, or any runner that Beam knows. `arguments` go to Beam as they are."""

    name: str = "local"
    workers: int = 0
    """Threads (local) or processes (dask); 0 means one per core, or more (`widened`)."""
    arguments: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.workers or os.cpu_count() or 1

    @property
    def live(self) -> bool:
        """Whether workers share this process, so that their rows can be counted as they are written."""
        return self.name == "local"

    def widened(self, tasks: int) -> Runner:
        """A thread for each of `tasks`, up to a limit, where nobody said how many and threads are what workers are."""
        return (
            replace(self, workers=max(self.count, min(tasks, MOST_THREADS))) if self.live and not self.workers else self
        )

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

    def _beam(self) -> tuple[Any, list[str]]:
        if self.name == "local":
            return _local_runner(), self._local_arguments()
        if self.name == "dask":
            # Beam's default puts 128 tasks, so all of a small job, on one worker; a partition per task costs 0.1 s.
            return _dask_runner(), [*self.arguments, f"--dask_npartitions={8 * self.count}"]
        return {"dataflow": "DataflowRunner"}.get(self.name, self.name), self.arguments

    def _local_arguments(self) -> list[str]:
        # One Beam worker: the threads of multi_threading flush half-written elements (Beam 2.77).
        return ["--direct_num_workers=1", *self.arguments]


@contextmanager
def _run(runner: Any, arguments: list[str]) -> Iterator[beam.Pipeline]:
    try:
        pipeline = beam.Pipeline(runner=runner, options=PipelineOptions(arguments))
    except (ValueError, ImportError) as error:
        raise InputError(f"runner {runner!r}: {error}. Known here: local, dask, dataflow, or a Beam runner.") from error
    yield pipeline
    pipeline.run().wait_until_finish()


def _local_runner() -> Any:
    # Pinned by class: "DirectRunner" tries to download another runner first.
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    return FnApiRunner()


def _dask_runner() -> Any:
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
