"""Runners: where a Beam job runs. The job is the same everywhere."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipelines.engine.dataflow import DataflowConfig
from pipelines.engine.elsewhere import DATAFLOW, check_runner, is_spread, run_and_wait, run_on_dataflow
from pipelines.engine.step import Needs
from pipelines.engine.workers import Hands
from schemas.errors import InputError

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.runners.runner import PipelineRunner

MOST_THREADS = 48
"""Fragments under way at a time when all that they do is wait."""

BLOCKS_PER_WORKER = 4
"""Blocks of tasks for each worker elsewhere: enough that none is idle for long while another has work left."""

MOST_BLOCKS = 1000
"""Blocks of tasks where the number of workers is the runner's own affair."""

NO_NEEDS = Needs()

T = TypeVar("T")


@dataclass(frozen=True)
class Runner:
    """`name`: local, dask, dataflow, or any runner that Beam knows. `arguments` go to Beam as they are."""

    name: str = "local"
    workers: int = 0
    """Processes, or threads for a step that waits; 0 means one per core, or more (`MOST_THREADS`)."""
    arguments: list[str] = field(default_factory=list)
    dataflow: DataflowConfig = field(default_factory=DataflowConfig)
    """What `--runner dataflow` was told; the other runners do not look at it."""
    files: list[str] | None = None
    """Beam's flags for the files that workers on Dataflow install; None until `session` has made them."""

    @property
    def count(self) -> int:
        return self.workers or os.cpu_count() or 1

    @property
    def live(self) -> bool:
        """Whether this process hears of each row as it is written."""
        return self.name == "local"

    @property
    def on_dataflow(self) -> bool:
        return self.name.lower() in DATAFLOW

    def check(self) -> None:
        """Raises InputError for a runner that does not exist, and for options that it lacks or does not take."""
        check_runner(self.name, self.arguments)
        _check(self.arguments)
        if self.on_dataflow:
            self.dataflow.check()
            if self.workers:
                raise InputError("runner dataflow: it has no --workers. Give --max-workers, the machines at most.")

    def admit(self, name: str, needs: Needs, places: Iterable[str]) -> None:
        """Raises InputError when the work of step `name` on the datasets `places` cannot be done by this runner."""
        if not is_spread(self.name, self.arguments):
            return
        if needs.one_machine:
            raise InputError(f"{name}: runner {self.name} works on several machines. {needs.one_machine}")
        if needs.divides_rates and not self.workers and not self.on_dataflow and self.name != "dask":
            raise InputError(
                f"{name}: its requests in flight, and in a minute, are divided among all worker processes. "
                f"Say how many runner {self.name} has, with --workers."
            )
        if self.on_dataflow:
            self.dataflow.check_needs(name, needs)
            for place in places:
                self.dataflow.check_place(place)
        elif needs.most_workers is not None and not 0 < self.workers <= needs.most_workers:
            raise InputError(
                f"{name}: a host's limit is divided among all worker processes, at most {needs.most_workers} of them. "
                f"Say how many runner {self.name} has, with --workers; a higher --host-limit allows more."
            )

    def processes(self, needs: Needs, hands: Hands) -> int:
        """Worker processes that may share the work, on all machines."""
        if self.on_dataflow:
            return self.dataflow.spread(needs).workers
        return (hands.count if hands.kind == "processes" else 1) if self.live else self.count

    def hands(self, needs: Needs, tasks: int, shared: bool) -> Hands:
        """On what tasks are worked in a process that Beam runs in. `shared`: other processes see the dataset.

        On `local` Beam itself has one thread: its own threads flush half an element now and then, and share a core.
        """
        if not self.live:
            return Hands(resources=self.dataflow.resources(needs) if self.on_dataflow else {})
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
        """A runner for several jobs in a row: with dask, one cluster of local processes serves them all; on Dataflow
        they install the same files."""
        if self.on_dataflow and self.files is None:
            with tempfile.TemporaryDirectory() as folder:
                yield replace(self, files=self._package(Path(folder)))
            return
        given = any(argument.startswith("--dask_client_address") for argument in self.arguments)
        if self.name != "dask" or given:
            yield self
            return
        with _local_cluster(self.count) as address:
            yield replace(self, arguments=[*self.arguments, f"--dask_client_address={address}"])

    @contextmanager
    def pipeline(self, step: str = "", run: str = "", needs: Needs = NO_NEEDS) -> Iterator[beam.Pipeline]:
        """A pipeline to fill; it runs, and is waited for, when the block ends. A job is named by `step` and `run`."""
        logging.getLogger("apache_beam").setLevel(logging.WARNING)
        logging.getLogger("apache_beam.runners.portability.stager").setLevel(logging.ERROR)  # our wheel runs anywhere
        self.check()
        with self.session() as runner:
            beam_runner, arguments = runner._beam(step, run, needs)
            pipeline = _new_pipeline(beam_runner, arguments)
            yield pipeline
            if self.on_dataflow:
                run_on_dataflow(pipeline, step, self.dataflow)
            else:
                run_and_wait(pipeline, self.name)

    def _beam(self, step: str, run: str, needs: Needs) -> tuple[PipelineRunner | str, list[str]]:
        if self.name == "local":
            return _local_runner(), self.arguments
        if self.name == "dask":
            # Beam's default puts 128 elements, so all of a small job, on one worker; each partition costs 0.1 s.
            return _dask_runner(), [*self.arguments, f"--dask_npartitions={8 * self.count}"]
        if self.on_dataflow:
            return "DataflowRunner", [*self.dataflow.arguments(step, run, needs, self.files or []), *self.arguments]
        return self.name, self.arguments

    def _package(self, folder: Path) -> list[str]:
        from pipelines.engine.package import package

        return package(folder, self.dataflow.packages, ours=not self.dataflow.image)


def _check(arguments: list[str]) -> None:
    """Raises InputError for the modes of Beam's local runner that lose or mix up elements."""
    for argument in arguments:
        if argument.startswith(("--direct_running_mode", "--direct_num_workers")):
            raise InputError(
                f"{argument}: Beam's own threads and processes damage elements that take over a second to make. "
                "Leave it out: --workers N gives N worker processes."
            )


def _new_pipeline(runner: PipelineRunner | str, arguments: list[str]) -> beam.Pipeline:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    try:
        return beam.Pipeline(runner=runner, options=PipelineOptions(arguments))
    except (ValueError, ImportError) as error:
        raise InputError(f"runner {runner!r}: {error}. Known here: local, dask, dataflow, or a Beam runner.") from error


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
