"""What every rank runs: `python -m trainer.run RUN_FOLDER`, started by our launcher, torchrun or deepspeed.

The folder holds recipe.yaml and inputs.json, which `trainer.launch` writes after it has checked everything.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from schemas.errors import InputError, LavaBeamError
from trainer.config import Recipe, load_saved_recipe
from trainer.following import OPTION, follow_launcher
from trainer.preflight import Job, check
from trainer.runfolder import (
    METRICS,
    MODEL,
    RECIPE,
    RESULT,
    checkpoints,
    finished,
    newest_checkpoint,
    read_mark,
    write_json,
)
from trainer.runtime.zero import deepspeed_config, prepare_deepspeed

ERROR = "error.json"


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
        failure = LavaBeamError(f"{where}: {error.strerror}. Free some space, then start the same command again.")
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
    cuda = torch.cuda.is_available()
    stop = stop_on_signals()
    prepare_deepspeed(cuda)
    recipe, mark = open_run(folder)
    if finished(folder, mark) is not None:
        if rank == 0:
            print(f"{folder}: nothing to do, this run is finished.", file=sys.stderr, flush=True)
        return
    job = check(recipe, world)
    checkpoint = newest_checkpoint(folder, mark)
    if rank == 0:
        _report_start(folder, checkpoint)
    trainer = build_trainer(job, folder, rank, world, cuda, checkpoint, stop)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step < trainer.steps.schedule.steps:
        return
    trainer.check_learnt()
    _finish(trainer, job, folder, mark, time.perf_counter() - began)


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


def build_trainer(
    job: Job, folder: Path, rank: int, world: int, cuda: bool, checkpoint: Path | None, stop: threading.Event
) -> Any:
    """The trainer of one rank: model, epoch plans, collator, callbacks. `checkpoint`: what it will resume from."""
    from trainer.inputs.collate import Collator
    from trainer.inputs.data import BadRows, Samples
    from trainer.inputs.schedule import Schedule
    from trainer.models.loading import attention, load_model
    from trainer.runtime.checkpoint import check_order
    from trainer.runtime.loop import LlavaTrainer, Steps

    recipe, source = job.recipe, job.folder
    assert source is not None
    kernel, packed = attention(recipe.plan.rows, cuda and precision_of(recipe, cuda) == "bf16")
    schedule = Schedule(job.mix, recipe, source, world, packed)
    if checkpoint is not None:
        check_order(checkpoint, schedule)
    arguments = training_arguments(recipe, folder, schedule.steps, cuda)
    torch.manual_seed(recipe.plan.seed)  # adapters start at random
    model = load_model(job, kernel, torch.bfloat16 if arguments.bf16 else torch.float32)
    limit = source.longest(recipe.data.max_length)
    samples = Samples(job.mix, source, max_length=limit, cut=recipe.data.too_long == "cut")
    anyres = source.rule.mode == "anyres"
    collator = Collator(source.rule, source.image_id, source.tokenizer.pad_id, packed=packed, anyres=anyres)
    return LlavaTrainer(
        model=model,
        args=arguments,
        steps=Steps(samples, schedule, collator, rank),
        bad_rows=BadRows(folder / f"bad-rows-{rank}.jsonl", recipe.data.max_bad),
        workers=recipe.data.workers,
        recipe=recipe,
        stop=stop,
        callbacks=[recorder(job, folder, schedule, cuda)],
    )


def recorder(job: Job, folder: Path, schedule: Any, cuda: bool) -> Any:
    """The callback that writes the run's metrics: metrics.jsonl, the progress bar and the trackers."""
    from trainer.runtime.flops import model_flops, peak_flops
    from trainer.runtime.metrics import Recorder
    from trainer.runtime.trackers import open_trackers

    recipe = job.recipe
    assert job.folder is not None
    device = torch.cuda.get_device_name() if cuda else None
    _, mark = open_run(folder)
    return Recorder(
        folder / METRICS,
        schedule,
        recipe.stage,
        flops=model_flops(job.folder, job.stage, recipe.lora.rank),
        peak=peak_flops(recipe.peak_tflops, precision_of(recipe, cuda), device),
        trackers=lambda step: open_trackers(recipe, folder, step, mark),
    )


def training_arguments(recipe: Recipe, folder: Path, steps: int, cuda: bool) -> Any:
    """transformers' TrainingArguments. They must exist before the model is loaded: ZeRO-3 then shards it on load."""
    from transformers import TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    settings, precision = recipe.optimizer, precision_of(recipe, cuda)
    return TrainingArguments(
        output_dir=str(folder),
        deepspeed=deepspeed_config(recipe, precision),
        use_cpu=not cuda,
        bf16=precision == "bf16",
        per_device_train_batch_size=1,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps(steps),
        max_grad_norm=settings.clip,
        seed=recipe.plan.seed,
        save_strategy="steps" if recipe.checkpoints.every else "no",
        save_steps=recipe.checkpoints.every or 1,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[],
        ignore_data_skip=True,
        remove_unused_columns=False,
        disable_tqdm=True,
    )


def precision_of(recipe: Recipe, cuda: bool) -> str:
    """`bf16` or `fp32`: the recipe's choice, or what the device supports."""
    if recipe.deepspeed.precision != "auto":
        return recipe.deepspeed.precision
    return "bf16" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def _report_start(folder: Path, checkpoint: Path | None) -> None:
    """Print which checkpoint is used, and which are not because a run was killed while it wrote them."""
    whole = checkpoints(folder)
    for path in sorted(set(folder.glob("checkpoint-*")) - set(whole)):
        print(f"{path}: incomplete, not used.", file=sys.stderr, flush=True)
    if checkpoint is not None:
        print(f"{folder}: resuming from {checkpoint.name}.", file=sys.stderr, flush=True)


def _finish(trainer: Any, job: Job, folder: Path, mark: str, seconds: float) -> None:
    from trainer.models.adapter import write_adapter
    from trainer.models.adapterfolder import ADAPTER
    from trainer.models.export import export, gathered_weights
    from trainer.models.original import write_projector
    from trainer.runtime.fragments import parameter_sizes
    from trainer.runtime.metrics import read_metrics, summary

    weights = gathered_weights(trainer.deepspeed, trainer.model)
    if trainer.args.process_index != 0 or weights is None or job.folder is None:
        return
    training = {"stage": job.recipe.stage, "steps": trainer.state.global_step, "fingerprint": mark}
    if job.stage.adapter:
        made = write_adapter(trainer.model, weights, job.folder, folder / ADAPTER)
    else:
        made = export(weights, trainer.model.config, job.folder, folder / MODEL, training)
    if job.recipe.original_projector:
        linear = trainer.model.config.projector_hidden_act == "linear"
        write_projector(weights, folder / "mm_projector.bin", linear)
    lines = read_metrics(folder / METRICS)
    result = {
        "fingerprint": mark,
        "stage": job.recipe.stage,
        "steps": trainer.state.global_step,
        "rows": job.mix.rows,
        "first_loss": lines[0]["loss"],
        "last_loss": lines[-1]["loss"],
        **summary(lines),
        "seconds": round(seconds, 2),
        "trainable_parameters": sum(parameter_sizes(trainer.deepspeed).values()),
        "model": made.name,
    }
    write_json(folder / RESULT, result)


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
