"""Checkpoints that any number of ranks, with any engine and at any ZeRO stage, can resume from.

`checkpoint-N/` holds float32 weights and AdamW's two moments of the trainable parameters. Each rank writes the pieces
that it updates (`engines.base.Fragment`) to its own safetensors file, and reads what it needs from all files, even if
it now holds other pieces than before. checkpoint.json is written last and makes the folder a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from schemas.errors import InputError, LavaBeamError
from trainer.engines.base import MOMENTS, WEIGHTS, Engine, Fragment
from trainer.runfolder import CHECKPOINT, checkpoint_step, checkpoints, write_json

NAMES = (WEIGHTS, *MOMENTS)
Piece = tuple[int, int, Any]


def begin(folder: Path) -> None:
    """Create an empty folder, removing what a killed run left of this checkpoint. On rank 0, before any rank writes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def write_share(folder: Path, engine: Engine) -> None:
    """Write this rank's file, if it holds anything that no other rank does."""
    if engine.rank >= engine.writers:
        return
    held = engine.fragments()
    tensors = [(f"{key}/{one.name}", one.tensors[key]) for key in NAMES for one in held]
    starts = {one.name: one.start for one in held}
    path = folder / f"rank-{engine.rank}-of-{engine.world}.safetensors"
    write_tensors(path, tensors, {"starts": json.dumps(starts)})


def commit(
    folder: Path, engine: Engine, order: str, keep: int, best: dict[str, Any] | None = None, keep_best: bool = False
) -> None:
    """Make the folder a checkpoint, and remove all but the newest `keep` and, if `keep_best`, that of the `best`
    evaluation so far. On rank 0, after every rank has written."""
    steps = engine.updates()
    if len(steps) > 1:
        raise LavaBeamError(f"{folder}: step counts of parameters differ ({sorted(steps)}); a checkpoint holds one.")
    written = len(list(folder.glob("rank-*.safetensors")))
    if written != engine.writers:
        raise LavaBeamError(
            f"{folder}: found files of {written} of {engine.writers} ranks. Several machines need a shared `output` "
            f"folder."
        )
    content = {
        "engine": engine.name,
        "ranks": engine.world,
        "updates": steps.pop() if steps else 0.0,
        "order": order,
        "best": best,
        "loss_scale": engine.scale.state() if engine.scale else None,
        "parameters": engine.sizes(),
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()},
    }
    write_json(folder / CHECKPOINT, content)
    whole = checkpoints(folder.parent)[-keep:]
    for old in folder.parent.glob("checkpoint-*"):
        kept = old in whole or (keep_best and best is not None and checkpoint_step(old) == best["step"])
        if not kept and checkpoint_step(old) < checkpoint_step(folder):
            shutil.rmtree(old)


def load(folder: Path, engine: Engine) -> None:
    """Load this rank's part of the engine, and the model's weights; every rank has to call this.

    Settings of the groups (learning rates, weight decay) are not in a checkpoint but come from the recipe. Raises
    InputError when the checkpoint's parameters are not the trainable ones.
    """
    content = json.loads((folder / CHECKPOINT).read_text(encoding="utf-8"))
    _compare(folder, content["parameters"], engine.sizes())
    with ExitStack() as stack:
        pieces = _pieces(folder, content["files"], stack)

        def fill(held: list[Fragment]) -> None:
            for one in held:
                for key in NAMES:
                    _fill(one.tensors[key], one, pieces[key, one.name], folder)

        engine.restore(content["updates"], fill)
    if engine.scale and content.get("loss_scale"):
        engine.scale.load(content["loss_scale"])


def best_evaluation(folder: Path) -> dict[str, Any] | None:
    """`step` and `eval_loss` of the best evaluation before a checkpoint; None where there was none."""
    found: dict[str, Any] | None = json.loads((folder / CHECKPOINT).read_text(encoding="utf-8")).get("best")
    return found


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The trained parameters of a checkpoint by name, float32, flattened; raises InputError when one has a gap."""
    content = json.loads((folder / CHECKPOINT).read_text(encoding="utf-8"))
    found = {}
    with ExitStack() as stack:
        pieces = _pieces(folder, content["files"], stack)
        for name, size in content["parameters"].items():
            flat = torch.empty(size)
            whole = Fragment(name, 0, {WEIGHTS: flat})
            _fill(flat, whole, pieces.get((WEIGHTS, name), []), folder)
            found[name] = flat
    return found


def order_digest(plan: Any) -> str:
    """A hash of which rows make each step of an epoch plan, however they are divided among ranks."""
    digest = hashlib.sha256()
    for step in range(plan.steps):
        digest.update(plan.samples(step).tobytes())
    return digest.hexdigest()


def check_order(folder: Path, schedule: Any) -> None:
    """Raise InputError unless every step after the checkpoint has the same rows as in an uninterrupted run.

    True of our strategies for any number of ranks. The original's groupings depend on ranks and accumulation.
    """
    content = json.loads((folder / CHECKPOINT).read_text(encoding="utf-8"))
    epoch = checkpoint_step(folder) // schedule.steps_per_epoch
    if content["order"] != order_digest(schedule.plan(epoch)):
        raise InputError(
            f"{folder}: with {schedule.world_size} ranks, strategy {schedule.recipe.plan.strategy!r} would give the "
            f"following steps different rows. Resume with {content['ranks']} ranks and the same `plan.accumulation` "
            f"as before."
        )


def write_tensors(path: Path, tensors: Iterable[tuple[str, torch.Tensor]], metadata: dict[str, str]) -> None:
    """Write a safetensors file (github.com/huggingface/safetensors, "Format") of float32 tensors, one in memory at a
    time."""
    listed = list(tensors)
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in listed:
        begin, end = end, end + tensor.numel() * 4
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, tensor in listed:
                file.write(tensor.detach().to("cpu", torch.float32).contiguous().numpy().data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)  # on a full disk, half a file leaves no room for the error message
        raise


def _compare(folder: Path, saved: dict[str, int], wanted: dict[str, int]) -> None:
    differing = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
    if differing:
        name = differing[0]
        raise InputError(
            f"{folder}: {len(differing)} parameters differ from the trainable ones; the first is {name}: "
            f"{saved.get(name, 'no')} elements in the checkpoint, {wanted.get(name, 'none')} in the model. It belongs "
            "to another model or stage: choose another `output`."
        )


def _pieces(folder: Path, files: Iterable[str], stack: ExitStack) -> dict[tuple[str, str], list[Piece]]:
    """(weights or moment, parameter) -> its pieces in all files, as (start, end, what to read it from)."""
    found: dict[tuple[str, str], list[Piece]] = {}
    for name in files:
        if not name.endswith(".safetensors"):
            continue
        try:
            file = stack.enter_context(safe_open(folder / name, "pt"))
            starts = json.loads(file.metadata()["starts"])
            for parameter, start in starts.items():
                for key in NAMES:
                    piece = file.get_slice(f"{key}/{parameter}")
                    found.setdefault((key, parameter), []).append((start, start + piece.get_shape()[0], piece))
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder / name}: cannot be read: {error}. Delete {folder}; the run then resumes from "
                             "the checkpoint before it.") from error  # fmt: skip
    return found


def _fill(target: torch.Tensor, one: Fragment, pieces: list[Piece], folder: Path) -> None:
    filled = 0
    for begin, end, source in _overlaps(one, pieces):
        target[begin - one.start : end - one.start].copy_(source)
        filled += end - begin
    if filled != one.count:
        raise InputError(f"{folder}: has {filled} of {one.count} elements of {one.name}. Delete this checkpoint.")


def _overlaps(one: Fragment, pieces: list[Piece]) -> Iterator[tuple[int, int, torch.Tensor]]:
    """(begin, end, elements) of each piece's overlap with a fragment, counted in elements of the parameter."""
    for start, stop, piece in pieces:
        begin, end = max(start, one.start), min(stop, one.start + one.count)
        if begin < end:
            yield begin, end, piece[begin - start : end - start]
