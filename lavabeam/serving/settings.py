"""Settings of a server, and the specification of every model that it serves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from schemas.config import StrictModel
from schemas.errors import InputError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ModelSpec(StrictModel):
    """One name, and what answers under it."""

    name: str = Field(pattern=rf"^{NAME.pattern}$")
    """What clients write as `model`."""
    checkpoint: str = Field(min_length=1)
    """A folder on this machine, or what the backend takes for one."""
    backend: str = "embedded"
    """The kind of worker: a name in backends.BACKENDS."""
    load: str | None = None
    """`4bit` or `8bit`; None is the device's usual precision: bfloat16 on a GPU, float32 on a CPU."""
    device: str | None = None
    """`cpu`, `mps`, `cuda`, `cuda:0`, or `cuda:0,1` to spread the layers over GPUs; None: a GPU where there is one."""
    template: str | None = None
    """The chat template, where the checkpoint does not name the one it was trained with."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """Of the backend."""


class ServeSettings(StrictModel):
    """What holds for all names. Sizes are in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    """0 picks a free one."""
    api_keys: tuple[str, ...] = ()
    """Keys that clients must send one of; none: no key is asked for."""
    most_running: int = Field(default=32, ge=1)
    """Questions that a worker answers at a time, where its memory allows as many."""
    most_waiting: int = Field(default=64, ge=0)
    """Questions of one worker that wait beside those that run; more are refused with 429."""
    most_connections: int = Field(default=1024, ge=1)
    """Open requests of all kinds; more are refused with 503."""
    max_body: int = Field(default=32 << 20, ge=1024)
    """Of a request, refused with 413 before it is read."""
    body_seconds: float = Field(default=30, gt=0)
    """Within which a request has to arrive."""
    send_seconds: float = Field(default=30, gt=0)
    """Within which a client has to take the next piece of an answer."""
    answer_seconds: float = Field(default=600, gt=0)
    """Within which a question has to be answered, its time in the queue included."""
    start_seconds: float = Field(default=1800, gt=0)
    """Within which a worker has to start and answer its first question."""
    stop_seconds: float = Field(default=30, ge=0)
    """That running answers get when a worker is stopped."""
    idle_seconds: float | None = Field(default=None, gt=0)
    """After which a worker that nobody asks is unloaded; the next question starts it again. None: never."""
    max_images: int = Field(default=16, ge=0)
    """Pictures of one request."""
    max_image_bytes: int = Field(default=20 << 20, ge=1)
    """Of one picture, as `lavabeam download` has it."""
    max_image_pixels: int = Field(default=2**25, ge=1)
    """Width times height of one picture, read from its header."""
    fetch_seconds: float = Field(default=20, gt=0)
    """For a picture's URL, redirects included."""
    allow_private_hosts: tuple[str, ...] = ()
    """Private hosts, addresses or networks from which pictures may come, as for `lavabeam download`."""


def parse_specs(words: Iterable[str], key_env: str | None = None, **shared: Any) -> list[ModelSpec]:
    """`CHECKPOINT`, `NAME=CHECKPOINT` or `NAME=http://host:port` each.

    `key_env`: the variable with the key of the addresses. `shared` is said of all folders; of addresses only where
    there is nothing else, so that it is refused. Raises InputError for a name that is none, or is given twice.
    """
    specs: list[ModelSpec] = []
    pairs = [(word, *_split(word)) for word in words]
    remote: dict[str, Any] = {} if any(not _is_address(checkpoint) for *_, checkpoint in pairs) else dict(shared)
    remote |= {"backend": "remote", "options": {} if key_env is None else {"key_env": key_env}}
    for word, name, checkpoint in pairs:
        if not NAME.fullmatch(name):
            missing = "" if checkpoint == word else "no such folder, and "
            raise InputError(
                f"{word}: {missing}{name!r} is not a name (letters, digits, '.', '_' and '-', at most 64, the first a "
                f"letter or digit). Write NAME={checkpoint}."
            )
        if any(spec.name == name for spec in specs):
            raise InputError(f"{word}: the name {name!r} is given twice. Write OTHER={checkpoint}.")
        given = remote if _is_address(checkpoint) else shared
        specs.append(ModelSpec(name=name, checkpoint=checkpoint, **given))
    return specs


def _is_address(checkpoint: str) -> bool:
    return checkpoint.startswith(("http://", "https://"))


def _split(word: str) -> tuple[str, str]:
    if _is_address(word):
        raise InputError(f"{word}: an address needs a name that clients call it by. Write NAME={word}.")
    name, equals, checkpoint = word.partition("=")
    if equals and not Path(word).exists():  # a folder may be called lr=2e-5
        return name, checkpoint
    return usual_name(word), word


def usual_name(checkpoint: str) -> str:
    """The folder's own name, or that of its run where the folder is called `model` or `adapter`."""
    path = Path(checkpoint).absolute()
    return path.parent.name if path.name in ("model", "adapter") else path.name
