"""`train`: check a recipe, start one process per GPU (two on a machine without a GPU), watch them, report."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from schemas.errors import InputError, LavaBeamError
from trainer.config import load_recipe
from trainer.cuts import notes_on_cuts
from trainer.following import OPTION
from trainer.launchers import launcher_lines, slurm_script
from trainer.preflight import Job, check
from trainer.runfolder import RESULT, alone, checkpoints, finished, make_room, read_mark, run_fingerprint, write_inputs

ERROR = "error.json"
LOG_LINES = 15
CPU_PROCESSES = 2
POLL_SECONDS = 0.1
GRACE_SECONDS = 60.0
STOPPED = (-signal.SIGTERM, -signal.SIGINT)

Report = Callable[[str], None]


def train(
    recipe: str | Path,
    *,
    processes: int | None = None,
    overrides: dict[str, Any] | None = None,
    dry_run: bool = False,
    replace: bool = False,
    prepare_only: bool = False,
    nodes: int = 1,
    report: Report | None = None,
) -> dict[str, Any]:
    """Run one stage and return its result: steps, losses, seconds, the model's folder.

    A finished run is not repeated (`"reused": True`); an interrupted one continues from its newest checkpoint.
    `overrides` replaces dotted keys of the recipe. `replace` deletes another run in the output folder, which is
    refused otherwise. `prepare_only` writes the run folder and a Slurm script for `nodes` machines; one of the
    `launch` lines then starts it. Raises InputError for anything wrong with the recipe, mix or checkpoint, before a
    process is started.
    """
    say = report or (lambda text: print(text, file=sys.stderr, flush=True))
    settings = load_recipe(recipe, overrides)
    count = default_processes() if processes is None else processes
    if not (dry_run or prepare_only):
        _check_machine(count, nodes)
    job = check(settings, count * nodes)
    if (lacks := _machine_lacks(job, ahead=dry_run or prepare_only)) is not None:
        job = dataclasses.replace(job, notes=(*job.notes, f"this machine would refuse the run: {lacks}"))
    if dry_run:
        from trainer.dryrun import describe

        return describe(job, count, nodes)
    for note in (*job.notes, *notes_on_cuts(job)):
        say(f"{settings.stage}: {note}.")
    folder = Path(settings.output)
    with alone(folder):
        done = _prepare(folder, job, count * nodes, replace)
        if done is not None:
            say(f"{settings.stage}: nothing to do, {folder} already holds this run ({done['steps']} steps).")
            return {**done, "model": str(folder / done["model"]), "reused": True}
        if prepare_only:
            (folder / "job.slurm").write_text(slurm_script(folder.resolve(), count, nodes), encoding="utf-8")
            return {"stage": settings.stage, "prepared": str(folder), "launch": launcher_lines(folder, count, nodes)}
        return _run(folder, settings.stage, count, say)


def _prepare(folder: Path, job: Job, ranks: int, replace: bool) -> dict[str, Any] | None:
    """Write what the ranks read from the run folder. Returns the result where the folder holds this run, finished."""
    job = joined(job, folder, ranks, replace)
    mark, settings = run_fingerprint(job), job.recipe
    done = finished(folder, mark)
    if done is not None:
        return done
    make_room(folder, job, read_mark(folder) == mark, replace)
    write_inputs(folder, job, mark, ranks, {"length": settings.steps or settings.epochs or 1})
    for stale in (RESULT, ERROR):
        (folder / stale).unlink(missing_ok=True)
    return None


def _check_machine(processes: int, nodes: int) -> None:
    """Raise InputError for ranks that cannot be started from here."""
    if nodes > 1:
        raise InputError(
            f"{nodes} machines: `lavabeam train` starts ranks on this one only. Prepare the run folder with --prepare, "
            "then start it with one of the commands that this prints."
        )
    if not _has_gpu():
        return
    import torch

    if 0 < torch.cuda.device_count() < processes:
        raise InputError(
            f"{processes} processes need one GPU each, but this machine has {torch.cuda.device_count()} GPUs. Leave "
            "--processes out, or use `plan.accumulation`."
        )


def _machine_lacks(job: Job, ahead: bool) -> str | None:
    """What this machine lacks for the kernels that the recipe names. `ahead`: a dry run or --prepare, which may be for
    another machine, and where only an attention that no GPU runs with this model is an error. Raises InputError."""
    recipe = job.recipe
    if recipe.attention == "auto" and not recipe.liger:
        return None
    from trainer.models.kernels import Machine, attention, check_attention, check_liger, precision_of
    from trainer.models.partcheck import check_llm

    text = job.folder.text if job.folder else check_llm(str(recipe.model.llm))
    try:
        attention(recipe.attention, recipe.plan.rows, Machine.here(precision_of(recipe)), text)
        if recipe.liger:
            check_liger()
    except InputError as error:
        if not ahead:
            raise
        check_attention(recipe.attention, recipe.plan.rows, text)
        return str(error).removesuffix(".")
    return None


def _run(folder: Path, stage: str, count: int, say: Report) -> dict[str, Any]:
    """Train a prepared folder on `count` ranks and return its result."""
    began = time.perf_counter()
    start_ranks(folder, count)
    if not (folder / RESULT).is_file():
        newest = checkpoints(folder)[-1:]
        where = f"with {newest[0].name}" if newest else "before its first checkpoint"
        say(f"{stage}: stopped {where}; the same command resumes from there.")
        return {"stage": stage, "stopped": True, "reused": False}
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    total = round(time.perf_counter() - began, 2)
    return {**result, "wall_seconds": total, "model": str(folder / result["model"]), "reused": False}


def joined(job: Job, folder: Path, ranks: int, replace: bool) -> Job:
    """The job with its model assembled, if that was in parts. A folder that holds another run is not changed."""
    if job.folder is not None:
        return job
    from trainer.models.parts import BASE, assembled, joined_before

    make_room(folder, job, joined_before(job) or not (folder / BASE).exists(), replace)
    return check(assembled(job), ranks)


def _has_gpu() -> bool:
    """Whether a GPU driver is loaded (Nvidia's, AMD's, or Windows' under WSL): known without importing torch."""
    return any(Path(path).exists() for path in ("/proc/driver/nvidia/version", "/dev/kfd", "/dev/dxg"))


def default_processes() -> int:
    """One per GPU; two on a machine without a GPU, to run the distributed code path."""
    if not _has_gpu():
        return min(CPU_PROCESSES, os.cpu_count() or 1)
    import torch

    return torch.cuda.device_count() or 1


def start_ranks(folder: Path, count: int) -> None:
    """Start `count` ranks on this machine and wait; raises LavaBeamError with the message of the rank that failed.

    SIGTERM and Ctrl-C are passed on: the ranks write a checkpoint and exit.
    """
    (folder / "logs").mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks: list[subprocess.Popen] = []
    logs: list[IO[bytes] | None] = []
    previous = signal.getsignal(signal.SIGTERM)
    stopping = threading.Event()
    try:
        for rank in range(count):
            log: IO[bytes] | None = (folder / "logs" / f"rank-{rank}.log").open("wb") if rank else None
            logs.append(log)
            command = [sys.executable, "-P", "-m", "trainer.run", OPTION, str(folder)]
            environment = rank_environment(rank, count, port)
            # Nothing is ever written to this pipe: it closes with this process, which ends the rank.
            alive = subprocess.PIPE
            ranks.append(subprocess.Popen(command, env=environment, stdin=alive, stdout=log, stderr=log))
        _pass_on_sigterm(ranks, stopping)
        _wait(ranks, folder, stopping)
    except KeyboardInterrupt:
        stopping.set()
        _signal(ranks, signal.SIGTERM)
        _wait(ranks, folder, stopping)
    finally:
        _end(ranks)
        for log in logs:
            if log is not None:
                log.close()
        if _in_main_thread():
            signal.signal(signal.SIGTERM, previous)


def rank_environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun would set, a fair share of the cores as threads, and the path of our packages."""
    rooms = str(Path(__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1))),
        "TOKENIZERS_PARALLELISM": "false",
        # DeepSpeed's optimizers ask torch to compile a function on import, which loads torch's whole compiler (4 s of
        # CPU per process); without a GPU nothing here is compiled. DS_ACCELERATOR silences its warning about that.
        **({} if _has_gpu() else {"TORCHDYNAMO_DISABLE": "1", "DS_ACCELERATOR": "cpu"}),
        # Steps differ in shape: blocks of fixed size would leave gaps that no later step fits into.
        **({"PYTORCH_ALLOC_CONF": "expandable_segments:True"} if _expandable() else {}),
        # Nothing is imported from the current folder, which may hold a trainer/ of the user's own.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": f"{rooms}{os.pathsep}{path}" if path else rooms,
    }


def _expandable() -> bool:
    return _has_gpu() and not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys()


def _wait(ranks: Sequence[subprocess.Popen], folder: Path, stopping: threading.Event) -> None:
    """Wait until all ranks have succeeded or one has failed. A rank that a signal stops before it handles signals has
    not failed."""
    while True:
        codes = [rank.poll() for rank in ranks]
        failed = next((number for number, code in enumerate(codes) if code), None)
        if failed is not None and stopping.is_set() and codes[failed] in STOPPED:
            return
        if failed is not None:
            raise _failure(folder, failed, codes[failed] or 1)
        if all(code == 0 for code in codes):
            return
        time.sleep(POLL_SECONDS)


def _failure(folder: Path, rank: int, code: int) -> LavaBeamError:
    if (folder / ERROR).is_file():
        error = json.loads((folder / ERROR).read_text(encoding="utf-8"))
        return LavaBeamError(f"{folder}, rank {error['rank']}: {error['message']}")
    log = folder / "logs" / f"rank-{rank}.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:] if log.is_file() else []
    tail = "\n".join(lines) or "see its messages above."
    return LavaBeamError(f"{folder}: rank {rank} exited with code {code}:\n{tail}")


def _pass_on_sigterm(ranks: Sequence[subprocess.Popen], stopping: threading.Event) -> None:
    def stop(*_: Any) -> None:
        stopping.set()
        _signal(ranks, signal.SIGTERM)

    if _in_main_thread():
        signal.signal(signal.SIGTERM, stop)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _signal(ranks: Sequence[subprocess.Popen], number: int) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(number)


def _end(ranks: Sequence[subprocess.Popen]) -> None:
    """Leave no process behind."""
    _signal(ranks, signal.SIGKILL if any(rank.poll() for rank in ranks) else signal.SIGTERM)
    for rank in ranks:
        try:
            rank.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()
        if rank.stdin is not None:
            rank.stdin.close()
