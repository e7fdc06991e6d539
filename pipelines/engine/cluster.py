"""Dask clusters: local worker processes for one command, or a connection to an existing scheduler.

Worker processes come from a fork server: one process imports Beam and our code, while this one does the same, and each
worker starts as a copy of it. Otherwise every worker would import for seconds, again when it takes a lost one's place.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.engine.elsewhere import value_of
from pipelines.engine.machine import gpus
from pipelines.engine.processes import GIVEN_BACK, ONE_THREAD_EACH
from schemas.errors import InputError

ADDRESS, SCHEDULER_FILE = "--dask_client_address", "--dask_scheduler_file"
_IMPORTED_ONCE = ["distributed", "apache_beam.runners.dask.dask_runner", "pipelines.engine.job"]
_CONNECT_S = 15.0
"""How long a scheduler may take to answer."""


class Cluster:
    """A scheduler and `workers` processes of one thread each on this machine, started for the first job that asks.

    Each process gets an equal share of the machine's memory; Dask replaces one that exceeds it, or dies.
    """

    def __init__(self, workers: int):
        self.workers = workers
        self._cluster: Any = None
        self._folder = ""

    def prestart(self) -> None:
        """Let the fork server import what workers need, while this process imports the same."""
        check_installed()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED_ONCE)
        from multiprocessing import forkserver

        with _environment({**ONE_THREAD_EACH, **GIVEN_BACK}):
            forkserver.ensure_running()

    @property
    def address(self) -> str:
        """Of the scheduler, which runs from now on."""
        if self._cluster is None:
            self.prestart()
            self._folder = tempfile.mkdtemp(prefix="lavabeam-dask-")
            self._cluster = self._start()
        return self._cluster.scheduler_address

    def close(self) -> None:
        """End the processes."""
        if self._cluster is not None:
            self._cluster.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> Any:
        import dask
        from dask.distributed import Nanny, Scheduler, SpecCluster

        logging.getLogger("distributed").setLevel(logging.ERROR)
        here = {"host": "127.0.0.1", "protocol": "tcp://", "dashboard_address": "127.0.0.1:0"}
        options = {
            **here,
            "nthreads": 1,
            "memory_limit": 1 / self.workers,
            "local_directory": self._folder,
            "silence_logs": logging.ERROR,
        }
        found = gpus()
        workers = {
            number: {"cls": Nanny, "options": {**options, "env": _own_gpu(found, number)}}
            for number in range(self.workers)
        }
        scheduler = {"cls": Scheduler, "options": {**here, "dashboard": False}}
        # Dask writes what it sets for its workers into this process's environment.
        with _environment({}), dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
            return SpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.ERROR)


def check_installed() -> None:
    """Raises InputError without Dask. Imports nothing: that takes a second."""
    if importlib.util.find_spec("distributed") is None:
        raise InputError("runner dask: dask is not installed. Install lavabeam[dask].")


def is_given(arguments: Sequence[str]) -> bool:
    """Whether Beam's arguments name a scheduler."""
    return any(value_of(flag, arguments) is not None for flag in (ADDRESS, SCHEDULER_FILE))


def is_on_this_machine(arguments: Sequence[str]) -> bool:
    """Whether all workers are surely on this machine: no scheduler is named, or one that nobody else can reach."""
    if value_of(SCHEDULER_FILE, arguments) is not None:
        return False
    address = value_of(ADDRESS, arguments)
    return address is None or re.sub(r"^\w+://|:\d+$", "", address) in ("127.0.0.1", "localhost", "[::1]")


def count_workers(arguments: Sequence[str]) -> int:
    """Worker processes that the named scheduler has. Raises InputError when it does not answer, or has none."""
    check_installed()
    from dask.distributed import Client

    address, file = value_of(ADDRESS, arguments), value_of(SCHEDULER_FILE, arguments)
    named = address or file
    try:
        with Client(address=address, scheduler_file=file, timeout=_CONNECT_S, set_as_default=False) as client:
            found = len(client.scheduler_info(n_workers=-1)["workers"])
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"runner dask: the scheduler {named} does not answer. Check that it is running, and that {ADDRESS} is the "
            "address that it printed, as tcp://HOST:8786."
        ) from error
    if not found:
        raise InputError(f"runner dask: the scheduler {named} has no workers. Start some: dask worker {named}")
    return found


@contextmanager
def shuffled_as_tasks() -> Iterator[None]:
    """Groupings are made of tasks in this block. Dask would come to the same, after it has imported its data frames."""
    import dask

    with dask.config.set({"dataframe.shuffle.method": "tasks"}):
        yield


def _own_gpu(found: list[str], number: int) -> dict[str, str]:
    """A worker process uses one GPU."""
    return {"CUDA_VISIBLE_DEVICES": found[number % len(found)]} if len(found) > 1 else {}


@contextmanager
def _environment(added: dict[str, str]) -> Iterator[None]:
    """Variables for processes that are started in the block; what is set already wins. Undone afterwards."""
    before = dict(os.environ)
    os.environ.update({**added, **before})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
