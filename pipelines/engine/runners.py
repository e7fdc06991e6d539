"""Runners: where a Beam job runs. The job is the same everywhere."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipelines.engine.cluster import (
    ADDRESS,
    Cluster,
    check_installed,
    count_workers,
    is_given,
    is_on_this_machine,
    shuffled_as_tasks,
)
from pipelines.engine.dataflow import DataflowConfig
from pipelines.engine.elsewhere import DATAFLOW, check_runner, is_spread, run_and_wait, run_on_dataflow
from pipelines.engine.machine import fitting
from pipelines.engine.processes import prestart
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
    """The options of `--runner dataflow`; other runners ignore them."""
    files: list[str] | None = None
    """Beam's flags for the packages installed by Dataflow workers; None until `session` has set them."""
    cluster: Cluster | None = None
    """The processes of this machine that Dask uses; None until `session` has made it."""
    most: int | None = None
    """Workers at a time at most, where fewer than `workers` fit (`fitted`)."""

    @property
    def count(self) -> int:
        count = self.workers or os.cpu_count() or 1
        return min(count, self.most or count)

    @property
    def live(self) -> bool:
        """Whether this process is notified of each written row."""
        return self.name == "local"

    @property
    def on_dask(self) -> bool:
        return self.name == "dask"

    @property
    def on_dataflow(self) -> bool:
        return self.name.lower() in DATAFLOW

    def check(self) -> None:
        """Raises InputError for an unknown runner, and for missing or unsupported options."""
        check_runner(self.name, self.arguments)
        _check(self.arguments)
        if self.on_dataflow:
            self.dataflow.check()
            if self.workers:
                raise InputError(
                    "runner dataflow: --workers does not apply. Give --max-workers, the maximum number of machines."
                )

    def admit(self, name: str, needs: Needs, places: Iterable[str]) -> None:
        """Raises InputError when the work of step `name` on the datasets `places` cannot be done by this runner."""
        if not self.is_spread:
            return
        if needs.one_machine:
            raise InputError(f"{name}: runner {self.name} runs on several machines. {needs.one_machine}")
        if needs.divides_rates and not self.workers and not self.on_dataflow and self.name != "dask":
            raise InputError(
                f"{name}: its requests in flight, and in a minute, are divided among all worker processes. "
                f"Give the number of workers of runner {self.name} with --workers."
            )
        if self.on_dataflow:
            self.dataflow.check_needs(name, needs)
            for place in places:
                self.dataflow.check_place(place)
        elif needs.most_workers is not None and not 0 < self.workers <= needs.most_workers:
            raise InputError(
                f"{name}: a host's limit is divided among all worker processes, at most {needs.most_workers} of them. "
                f"Give the number of workers of runner {self.name} with --workers; a higher --host-limit allows more."
            )

    @property
    def is_spread(self) -> bool:
        """Whether workers may be on several machines."""
        if self.on_dask:
            return not is_on_this_machine(self.arguments)
        return is_spread(self.name, self.arguments)

    def fitted(self, name: str, needs: Needs, shared: bool) -> Runner:
        """This runner with as many workers as fit here, for the work of step `name`; `shared` as for `hands`.

        Raises InputError for a GPU or a model's file that is not there. Other machines are not looked at.
        """
        if not (self.live or self.on_dask) or self.is_spread:
            return self
        apart = self.on_dask or (shared and not needs.threads)
        fits = fitting(name, needs, min(self.count, needs.most_workers or self.count), apart)
        return replace(self, most=fits) if fits < self.count else self

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
        parts = min(len(tasks), self._partitions if self.on_dask else MOST_BLOCKS)
        return [tasks[number::parts] for number in range(parts)]

    @property
    def _partitions(self) -> int:
        """Parts of a Dask job. Where only some of the workers may work at a time there are no more parts than that."""
        return self.count if self.most else self.count * BLOCKS_PER_WORKER

    def prestart(self, hands: Hands) -> None:
        """Start what a job will need in parallel with this process's import of Beam."""
        if hands.kind == "processes":
            prestart(hands.count)
        if self.cluster is not None:
            self.cluster.prestart()

    @contextmanager
    def session(self) -> Iterator[Runner]:
        """A runner for several jobs in a row: with dask, one cluster of local processes serves them all, started by the
        first; on Dataflow they install the same files. Sessions may be nested: the outermost counts."""
        if self.on_dataflow and self.files is None:
            with tempfile.TemporaryDirectory() as folder:
                yield replace(self, files=self._package(Path(folder)))
            return
        if not self.on_dask or self.cluster is not None:
            yield self
        elif is_given(self.arguments):
            found = count_workers(self.arguments)
            yield replace(self, workers=self.workers or found)
        else:
            with closing(Cluster(self.count)) as cluster:
                yield replace(self, cluster=cluster)

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
                with shuffled_as_tasks() if self.on_dask else nullcontext():
                    run_and_wait(pipeline, self.name)

    def _beam(self, step: str, run: str, needs: Needs) -> tuple[PipelineRunner | str, list[str]]:
        if self.name == "local":
            return _local_runner(), self.arguments
        if self.on_dask:
            # Beam's default puts 128 elements, so all of a small job, on one worker.
            partitions = f"--dask_npartitions={self._partitions}"
            address = [f"{ADDRESS}={self.cluster.address}"] if self.cluster is not None else []
            return _dask_runner(), [*self.arguments, *address, partitions]
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
                f"{argument}: Beam's own threads and processes corrupt elements that take more than a second. Leave "
                f"it out: --workers N gives N worker processes."
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
    check_installed()
    from apache_beam.runners.dask.dask_runner import DaskRunner

    return DaskRunner()
