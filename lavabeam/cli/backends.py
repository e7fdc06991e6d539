"""Options of `lavabeam serve` and `serve add` that select the backend: the built-in worker, vLLM or SGLang."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_OPTIONS = (
    click.option(
        "--backend",
        type=click.Choice(["vllm", "sglang"]),
        help="Serve with this engine, started from its own environment.  [default: our own worker]",
    ),
    click.option(
        "--backend-python", type=Path, metavar="PATH", help="The Python of that environment, such as vllm/bin/python."
    ),
    click.option("--backend-args", metavar="TEXT", help="Additional arguments for it, such as '--max-model-len 2048'."),
    click.option(
        "--backend-key-env",
        metavar="NAME",
        help="The environment variable with the key of servers given as NAME=http://....",
    ),
)


def backend_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; `backend_of` reads them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def backend_of(given: dict[str, Any]) -> dict[str, Any]:
    """What they say of a ModelSpec, taken out of `given`. Raises InputError for words that need --backend."""
    from schemas.errors import InputError

    backend, python, words = (given.pop(name, None) for name in ("backend", "backend_python", "backend_args"))
    if backend is None:
        if python is not None or words is not None:
            raise InputError("--backend-python and --backend-args are for a server of --backend vllm or sglang.")
        return {}
    options: dict[str, Any] = {} if python is None else {"python": str(python.absolute())}
    if words:
        try:
            options["arguments"] = shlex.split(words)
        except ValueError as error:
            raise InputError(f"--backend-args {words!r}: {error}. Quote it as in a shell.") from error
    return {"backend": backend, "options": options}
