"""Remote Beam runners: accepted names, waiting for a job, and translating its errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipelines.engine.dataflow import job_page
from schemas.config import nearest
from schemas.errors import InputError, WorkerError

if TYPE_CHECKING:
    import apache_beam as beam

    from pipelines.engine.dataflow import DataflowConfig

DATAFLOW = ("dataflow", "dataflowrunner")
_JOB_SERVERS = ("flink", "flinkrunner", "spark", "sparkrunner", "samza", "samzarunner")
_PORTABLE = ("portable", "portablerunner")
_ON_THIS_MACHINE = ("local", "dask", "fnapirunner", "directrunner", "prismrunner")
_NAMES = ["local", "dask", "dataflow", "PortableRunner"]
_ENDPOINT = "--runner PortableRunner -- --job_endpoint=HOST:PORT"


def check_runner(name: str, arguments: Sequence[str]) -> None:
    """Raises InputError for a runner that does not exist, or that lacks what it cannot do without."""
    word = name.lower()
    if word in _JOB_SERVERS:
        raise InputError(
            f"runner {name}: Beam would fetch a job server from Maven and start it with Java. Start one next to the "
            f"cluster and give its address: {_ENDPOINT} --environment_type=...; see docs/pipelines.md."
        )
    if word in _PORTABLE and value_of("--job_endpoint", arguments) is None:
        raise InputError(f"runner {name}: no job server was given. Give {_ENDPOINT}; see docs/pipelines.md.")
    if "." not in name and word not in (*_ON_THIS_MACHINE, *DATAFLOW, *_PORTABLE) and word not in _of_beam():
        raise InputError(
            f"runner {name}: there is no such runner. {nearest(name, _NAMES)} The dotted name of a class of Beam "
            "works as well."
        )


def is_spread(name: str, arguments: Sequence[str]) -> bool:
    """Whether a runner's workers may be on several machines. LOOPBACK's are in the process that submits."""
    if name.lower() in _PORTABLE:
        return (value_of("--environment_type", arguments) or "").upper() != "LOOPBACK"
    return name.lower() not in _ON_THIS_MACHINE


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The value of a Beam flag, written `--flag=value` or `--flag value`."""
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == flag:
            return value if equals else next(iter(arguments[number + 1 : number + 2]), "")
    return None


def run_and_wait(pipeline: beam.Pipeline, runner: str) -> None:
    """Run a job of any runner but Dataflow to its end."""
    client: Any = None
    try:
        result: Any = pipeline.run()
        client = getattr(result, "client", None)
        result.wait_until_finish()
    except Exception as error:
        if type(error).__name__ == "KilledWorker":  # of Dask
            raise WorkerError(
                f"runner {runner}: several consecutive worker processes died on the same work. If memory "
                "ran out, use fewer --workers. Finished fragments are kept: run the same command again for the rest."
            ) from error
        if _is_of(error, "grpc"):
            raise InputError(
                f"runner {runner}: the job server is unreachable or disconnected ({_first_line(error)}). "
                "Check that it is running, and that --job_endpoint names it."
            ) from error
        raise
    finally:
        if client is not None:  # Beam leaves its connection to a Dask scheduler open
            client.close()


def run_on_dataflow(pipeline: beam.Pipeline, step: str, config: DataflowConfig) -> None:
    """Submit a job, say where it can be watched, and wait for its end; an interruption cancels it.

    Raises InputError when Dataflow does not take it, WorkerError when it fails.
    """
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException

    try:
        result: Any = pipeline.run()
    except Exception as error:
        if not _is_of(error, "google", "apitools", "apache_beam.runners.dataflow") and not isinstance(error, OSError):
            raise
        raise InputError(
            f"{step}: Dataflow rejected the job: {_first_line(error)}. Check that the account may create jobs in "
            f"{config.project} and write to {config.temp_location}."
        ) from error
    page = job_page(config.project, config.region, result.job_id())
    try:
        print(f"{step}: Dataflow job {result.job_id()}, {page}", file=sys.stderr, flush=True)
        result.wait_until_finish()
    except DataflowRuntimeException as error:
        runner: Any = pipeline.runner
        if getattr(runner, "last_error_msg", None) is None:  # it had ended before anybody asked how it does
            runner.poll_for_job_completion(runner, result, None)
        reported = _last_line(runner.last_error_msg or "no message")
        raise WorkerError(
            f"{step}: Dataflow job {result.job_id()} ended as {result.state}: {reported} Its log: {page} "
            "Finished fragments are kept: run the same command again to make the others."
        ) from error
    except BaseException:
        try:
            result.cancel()
        except Exception as error:
            words = f"{step}: the job could not be cancelled ({_first_line(error)}); cancel it there: {page}"
            print(words, file=sys.stderr, flush=True)
        raise


def is_interruption(error: BaseException | None) -> bool:
    """Whether Beam made this of a Ctrl-C: it raises a RuntimeError with the words of any exception in a step."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or str(error).startswith("KeyboardInterrupt"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _of_beam() -> list[str]:
    """Beam's own names, in lower case. Here, because importing Beam takes a second."""
    from apache_beam.options.pipeline_options import StandardOptions

    return [path.rsplit(".", 1)[-1].lower() for path in StandardOptions.ALL_KNOWN_RUNNERS]


def _is_of(error: BaseException, *modules: str) -> bool:
    return any(f"{kind.__module__}.".startswith(f"{module}.") for kind in type(error).__mro__ for module in modules)


def _last_line(message: str) -> str:
    """Of a traceback what was raised; other messages have one line."""
    return message.strip().splitlines()[-1].strip()[:300]


def _first_line(error: Any) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
