"""The program of every rank: `python -m trainer.run RUN_FOLDER`, started by our launcher, torchrun or deepspeed.

The folder holds recipe.yaml and inputs.json, which `trainer.launch` writes after it has checked everything.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from schemas.errors import InputError, LavaBeamError
from trainer.config import Recipe, load_saved_recipe
from trainer.following import OPTION, follow_launcher
from trainer.preflight import Job, check, evaluation_mix
from trainer.runfolder import (
    METRICS,
    MODEL,
    RECIPE,
    RESULT,
    checkpoint_step,
    checkpoints,
    finished,
    newest_checkpoint,
    read_mark,
    write_json,
)

if TYPE_CHECKING:
    from trainer.evaluation import Evaluation
    from trainer.inputs.collate import Collator
    from trainer.inputs.steps import Part
    from trainer.loop import Loop
    from trainer.metrics.recorder import Recorder

ERROR = "error.json"
PEER_LOST = re.compile(r"Connection (closed|reset) by peer")
"""gloo's error when another rank has died; a traceback of it would hide that rank's own message."""


def main(folder: Path) -> int:
    """Train the folder's recipe on this rank and return the exit code. Our own errors are also left in error.json."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    try:
        train(folder, rank, world)
        return 0
    except LavaBeamError as error:
        failure = error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or folder
        failure = LavaBeamError(f"{where}: {error.strerror}. Free some space, then run the same command again.")
    except RuntimeError as error:
        if not PEER_LOST.search(str(error)):
            raise
        print(f"rank {rank}: another rank has ended; its own message says why.", file=sys.stderr, flush=True)
        return 1
    print(f"rank {rank}: {failure}", file=sys.stderr, flush=True)
    with suppress(OSError):  # a full disk may not even take this
        write_json(folder / ERROR, {"rank": rank, "message": str(failure), "code": failure.exit_code})
    return failure.exit_code


def run_folder(arguments: list[str]) -> Path:
    """The run folder among a rank's arguments. deepspeed's launcher puts `--local_rank=N` before it, which is in the
    environment as well; ours puts the option of `following.py` there."""
    folders = [argument for argument in arguments if argument != OPTION and not argument.startswith("--local_rank")]
    if len(folders) != 1 or folders[0].startswith("-"):
        sys.exit("usage: python -m trainer.run RUN_FOLDER, which `lavabeam train RECIPE --prepare` makes")
    return Path(folders[0])


def train(folder: Path, rank: int, world: int) -> None:
    """One rank's whole run: load, train, export, and on rank 0 write result.json."""
    began = time.perf_counter()
    stop = stop_on_signals()
    recipe, mark = open_run(folder)
    if finished(folder, mark) is not None:
        if rank == 0:
            print(f"{folder}: nothing to do, this run is finished.", file=sys.stderr, flush=True)
        return
    job = check(recipe, world)
    checkpoint = newest_checkpoint(folder, mark)
    if rank == 0:
        _report_start(folder, checkpoint)
    loop = build_loop(job, folder, stop, checkpoint)
    done = loop.run(checkpoint_step(checkpoint) if checkpoint else 0)
    if done == len(loop.steps):
        _finish(loop, job, folder, mark, done, time.perf_counter() - began)


def open_run(folder: Path) -> tuple[Recipe, str]:
    """Recipe and fingerprint of a run folder; raises InputError when it was not prepared."""
    mark = read_mark(folder)
    if mark is None:
        raise InputError(
            f"{folder}: not a prepared run folder (inputs.json is missing). Prepare: lavabeam train RECIPE --prepare."
        )
    return load_saved_recipe(folder / RECIPE), mark


def stop_on_signals() -> threading.Event:
    """From now on SIGTERM and Ctrl-C set this event: the run ends with a checkpoint after the current step, or after
    its first step if it is still loading."""
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # a terminal's Ctrl-C reaches every rank
        signal.signal(number, lambda *_: asked.set())
    return asked


def build_loop(job: Job, folder: Path, stop: threading.Event, checkpoint: Path | None) -> Loop:
    """The loop of one rank: epoch plans, collator, the model in its engine, metrics. What `checkpoint` holds is
    loaded."""
    from transformers.utils import logging

    from trainer.checkpoint import best_evaluation, check_order, load
    from trainer.engines import start_engine
    from trainer.engines.base import join_ranks
    from trainer.inputs.collate import Collator
    from trainer.inputs.data import Samples
    from trainer.inputs.device import Device
    from trainer.inputs.schedule import Schedule
    from trainer.inputs.steps import Part, Steps
    from trainer.loop import Loop
    from trainer.models.kernels import Machine, attention, precision_of
    from trainer.models.loading import load_model
    from trainer.models.ulysses import own_group
    from trainer.room import fitted_share

    recipe, source = job.recipe, job.folder
    assert source is not None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    cuda = torch.cuda.is_available()
    precision = precision_of(recipe)
    device = join_ranks(cuda)
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    sharing = recipe.sequence_parallel
    machine = Machine.here(precision)
    kernel, packed = attention(recipe.attention, recipe.plan.rows, machine, source.text, shared=sharing > 1)
    schedule = Schedule(job.mix, recipe, source, recipe.data_ranks(world), packed)
    if checkpoint is not None:
        check_order(checkpoint, schedule)
    again = fitted_share(job, schedule, total_memory(device))
    torch.manual_seed(recipe.plan.seed)  # adapters start at random
    group = own_group(sharing) if sharing > 1 else None
    engine = start_engine(
        recipe, precision, device, source.text, lambda dtype: load_model(job, kernel, dtype, again, group)
    )
    if checkpoint is not None:
        load(checkpoint, engine)
    limit = source.longest(recipe.data.max_length)
    samples = Samples(job.mix, source, max_length=limit, cut=recipe.data.too_long == "cut")
    tokens = source.image_id, source.tokenizer.pad_id
    collator = Collator(source.rule, *tokens, packed=packed, multiple=sharing)
    steps = Steps(samples, schedule, collator, rank // sharing, Part(rank % sharing, sharing))
    place = Device(device, engine.dtype, source.mean, source.std)
    first = recorder(job, folder, schedule, cuda) if rank == 0 else None
    tested = evaluation(job, folder, collator, rank, steps.made.part)
    best = best_evaluation(checkpoint) if checkpoint else None
    return Loop(engine, steps, place, recipe, folder, recorder=first, stop=stop, evaluation=tested, best=best)


def evaluation(job: Job, folder: Path, collator: Collator, rank: int, part: Part) -> Evaluation | None:
    """The rows that a run is evaluated on, if its recipe says so."""
    from trainer.evaluation import Evaluation
    from trainer.inputs.data import BadRows, Samples
    from trainer.inputs.heldout import evaluated
    from trainer.inputs.rows import Rows

    recipe, source = job.recipe, job.folder
    if recipe.evaluate is None or source is None:
        return None
    mix, limit = evaluation_mix(recipe, job.mix), source.longest(recipe.data.max_length)
    rows = evaluated(mix, recipe.held_out, recipe.evaluate.rows)
    return Evaluation(
        Samples(mix, source, max_length=limit, cut=recipe.data.too_long == "cut"),
        rows,
        Rows.of(mix, source.rule, limit).lengths[rows],
        collator,
        BadRows(folder / f"bad-rows-{rank}.jsonl", recipe.data.max_bad),
        part,
    )


def recorder(job: Job, folder: Path, schedule: Any, cuda: bool) -> Recorder:
    """What writes the run's metrics: metrics.jsonl, the progress bar and the trackers."""
    from trainer.metrics.flops import model_flops, peak_flops
    from trainer.metrics.recorder import Recorder
    from trainer.metrics.trackers import open_trackers
    from trainer.models.kernels import precision_of

    recipe = job.recipe
    assert job.folder is not None
    device = torch.cuda.get_device_name() if cuda else None
    _, mark = open_run(folder)
    return Recorder(
        folder / METRICS,
        schedule,
        recipe.stage,
        flops=model_flops(job.folder, job.stage, recipe.lora.rank),
        peak=peak_flops(recipe.peak_tflops, precision_of(recipe), device),
        trackers=lambda step: open_trackers(recipe, folder, step, mark),
    )


def total_memory(device: torch.device) -> int | None:
    """Bytes of a GPU, free or not: every rank has to come to the same number. None for a CPU."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def _report_start(folder: Path, checkpoint: Path | None) -> None:
    """Print which checkpoint is used, and which are not because a run was killed while it wrote them."""
    whole = checkpoints(folder)
    for path in sorted(set(folder.glob("checkpoint-*")) - set(whole)):
        print(f"{path}: incomplete, not used.", file=sys.stderr, flush=True)
    if checkpoint is not None:
        print(f"{folder}: resuming from {checkpoint.name}.", file=sys.stderr, flush=True)


def _finish(loop: Loop, job: Job, folder: Path, mark: str, done: int, seconds: float) -> None:
    """Write the finished model and result.json, on rank 0."""
    from trainer.metrics.recorder import read_metrics, summary
    from trainer.models.adapter import write_adapter
    from trainer.models.adapterfolder import ADAPTER
    from trainer.models.export import export
    from trainer.models.original import write_projector
    from trainer.models.parts import BASE

    weights, model = loop.engine.gather(), loop.engine.model
    if weights is None or job.folder is None:
        return
    lines = read_metrics(folder / METRICS)
    training = {"stage": job.recipe.stage, "steps": done, "fingerprint": mark}
    if job.stage.adapter:
        made = write_adapter(model, weights, job.folder, folder / ADAPTER)
    else:
        # Only of a base that the run has made: what others own may be written in place one day.
        learnt = set(loop.engine.sizes()) if job.folder.path.resolve() == (folder / BASE).resolve() else None
        made = export(weights, model.config, job.folder, folder / MODEL, training, learnt)
    if job.recipe.original_projector:
        linear = model.config.projector_hidden_act == "linear"
        write_projector(weights, folder / "mm_projector.bin", linear)
    result = {
        "fingerprint": mark,
        "stage": job.recipe.stage,
        "steps": done,
        "rows": job.mix.rows,
        "first_loss": lines[0]["loss"],
        "last_loss": lines[-1]["loss"],
        **summary(lines),
        "seconds": round(seconds, 2),
        "trainable_parameters": sum(loop.engine.sizes().values()),
        "model": made.name,
        **({"evaluated_rows": len(loop.evaluation.rows), "best": best_of(loop, made.name)} if loop.evaluation else {}),
    }
    write_json(folder / RESULT, result)


def best_of(loop: Loop, finished: str) -> dict[str, Any] | None:
    """The best evaluation of a finished run, and what in its folder holds those weights, if it was kept."""
    if loop.best is None:
        return None
    kept = loop.folder / f"checkpoint-{loop.best['step']}"
    last = loop.best["step"] == len(loop.steps)
    return {**loop.best, "path": finished if last else kept.name if kept.is_dir() else None}


def _leave(code: int) -> None:
    """Exit without the interpreter's teardown, where ZeRO-3 on gloo sometimes aborts after all work is done."""
    if code == 0 and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    follow_launcher(sys.argv[1:])
    _leave(main(run_folder(sys.argv[1:])))
