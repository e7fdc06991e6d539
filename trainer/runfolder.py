"""The run folder: everything needed to repeat a run, and to tell whether it is finished."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from trainer.config import save_recipe
from trainer.preflight import Job, model_path
from trainer.sections import RENAMED

RECIPE, INPUTS, RESULT, METRICS, MODEL = "recipe.yaml", "inputs.json", "result.json", "metrics.jsonl", "model"
CHECKPOINT, LOCK = "checkpoint.json", ".lock"
OWN = re.compile(
    r"(recipe\.yaml|inputs\.json|result\.json|error\.json|metrics\.jsonl|job\.slurm|mm_projector\.bin)(\.\d+\.part)?"
    r"|(model|adapter)(\.part)?|base|logs|tensorboard|wandb|checkpoint-\d+|bad-rows-\d+\.jsonl"
)
"""The names of what runs write into their folder."""
BEFORE = re.compile(r"base|logs|error\.json")
"""What a run writes there before it has recorded its inputs."""
LIBRARIES = ("torch", "transformers", "deepspeed", "accelerate", "peft", "pyarrow", "numpy", "pillow", "tokenizers")

NOT_CONTENT: dict[str, Any] = {
    **dict.fromkeys(("output", "engine", "attention", "sequence_parallel", "checkpoints", "original_projector"), True),
    **dict.fromkeys(("trackers", "wandb", "peak_tflops", "evaluate"), True),
    "plan": {"accumulation", "max_tokens"},
    "deepspeed": {"zero", "offload"},
}
"""Settings that do not change the result, like the number of processes: a run may resume with other values."""

WEIGHTS = (".safetensors", ".bin")
BLOCKS, BLOCK_BYTES = 64, 1 << 16


def run_fingerprint(job: Job) -> str:
    """A hash of what the result depends on: the recipe, the mix's manifest, and the weights that training starts from.

    Renamed keys count by their first name, so a run of an earlier release can be resumed.
    """
    settings = job.recipe.model_dump(mode="json", exclude=NOT_CONTENT)
    first_names = {new: old for old, new in RENAMED.items()}
    settings["optimizer"] = {first_names.get(key, key): value for key, value in settings["optimizer"].items()}
    if job.recipe.held_out is not None:
        settings["held_out"] = job.recipe.held_out
    settings["data"] = {key: settings["data"][key] for key in ("max_length", "too_long")}
    names = ("checkpoint", "tower", "llm", "tokenizer", "projector")
    sources = {name: getattr(job.recipe.model, name) for name in names if getattr(job.recipe.model, name)}
    settings["model"] = {key: value for key, value in settings["model"].items() if key not in names}
    weights = {name: weights_digest(model_path(path)) for name, path in sources.items()}
    return fingerprint(settings, job.mix.as_parent().sha256, weights)


def weights_digest(path: Path, suffixes: tuple[str, ...] = (*WEIGHTS, ".json")) -> str:
    """sha256 over names, sizes and evenly spaced blocks of the weight and JSON files: fast even for a 100 GB model."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in suffixes)
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        with file.open("rb") as content:
            for block in range(BLOCKS):
                content.seek(max(size - BLOCK_BYTES, 0) * block // (BLOCKS - 1))
                digest.update(content.read(BLOCK_BYTES))
    return digest.hexdigest()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a run folder against other `lavabeam train`s on this machine; raises InputError where one is running.

    The lock ends with the process, however that ends. File systems without locks are not protected.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{folder}: another `lavabeam train` is running here. Wait for it, or choose another `output`."
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
                raise
        yield


def make_room(folder: Path, job: Job, same: bool, replace: bool) -> None:
    """Refuse to mix two runs in one folder, or a run with anything else. `same`: the folder belongs to `job`;
    `replace`: delete another run's files.

    The model that `job` starts from is kept, even inside the folder. Raises InputError.
    """
    checkpoint = job.recipe.model.checkpoint
    start = model_path(checkpoint).resolve() if checkpoint else None
    if start in (folder.resolve(), (folder / MODEL).resolve()):
        raise InputError(f"{folder}: the run would overwrite the model that it starts from. Choose another `output`.")
    if same:
        return
    found = [path for path in sorted(folder.iterdir()) if start is None or not start.is_relative_to(path.resolve())]
    own = OWN if (folder / INPUTS).is_file() else BEFORE
    foreign = [path.name for path in found if not (path.name.startswith(".") or own.fullmatch(path.name))]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise InputError(
            f"{folder}: holds {foreign[0]}{more}, which no run wrote. A run needs a separate folder: choose another "
            "`output`, or move what is there."
        )
    if not ((folder / RESULT).is_file() or any(folder.glob("checkpoint-*"))):
        return
    if not replace:
        raise InputError(
            f"{folder}: holds a run of another recipe, mix or starting model. Choose another `output`, or delete that "
            "run with --replace."
        )
    for path in found:
        if not OWN.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def write_inputs(folder: Path, job: Job, mark: str, processes: int, schedule: dict[str, Any]) -> None:
    """Record the resolved recipe and what it was run on."""
    folder.mkdir(parents=True, exist_ok=True)
    save_recipe(job.recipe, folder / RECIPE)
    parent = job.mix.as_parent()
    inputs = {
        "fingerprint": mark,
        "mix": {"path": parent.path, "manifest": parent.manifest, "sha256": parent.sha256, "rows": job.mix.rows},
        "info": job.mix.manifest.info,
        "plan": {**job.recipe.plan.model_dump(), **schedule},
        "processes": processes,
        "versions": versions(),
    }
    write_json(folder / INPUTS, inputs)


def versions() -> dict[str, str]:
    """Python's and the key libraries' versions."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def finished(folder: Path, mark: str) -> dict[str, Any] | None:
    """The result of a finished run with this fingerprint, or None."""
    if not (folder / RESULT).is_file():
        return None
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return result if result.get("fingerprint") == mark and (folder / result["model"]).is_dir() else None


def newest_checkpoint(folder: Path, mark: str) -> Path | None:
    """The newest complete checkpoint of the run with this fingerprint, to resume from; None without one."""
    if read_mark(folder) != mark:
        return None
    return max(checkpoints(folder), key=checkpoint_step, default=None)


def read_mark(folder: Path) -> str | None:
    """The fingerprint of the run that a folder was prepared for, or None."""
    if not (folder / INPUTS).is_file():
        return None
    return str(read_inputs(folder)["fingerprint"])


def read_inputs(folder: Path) -> dict[str, Any]:
    """inputs.json of a run folder; raises InputError for one that is damaged."""
    try:
        found = json.loads((folder / INPUTS).read_text(encoding="utf-8"))
        _ = found["fingerprint"], found["info"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / INPUTS}: cannot be read ({type(error).__name__}: {error}). Start the run again with --replace."
        ) from error
    return dict(found)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run folder, oldest first: with checkpoint.json and every file that it lists."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{CHECKPOINT}")]
    return sorted((path for path in found if _whole(path)), key=checkpoint_step)


def checkpoint_step(checkpoint: Path) -> int:
    """The number of optimizer steps done when `checkpoint-N` was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _whole(checkpoint: Path) -> bool:
    try:
        files = json.loads((checkpoint / CHECKPOINT).read_text(encoding="utf-8"))["files"]
        paths = {checkpoint / name: size for name, size in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):  # damaged: not one to resume from
        return False
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def write_json(path: Path, content: Any) -> None:
    """Write atomically, even when several ranks write: readers see one complete file."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    draft.write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8")
    draft.replace(path)
