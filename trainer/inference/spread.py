"""Data-parallel inference: one process with a full copy of the checkpoint per device."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from schemas.errors import InputError
from trainer.inference.checkpoint import Checkpoint
from trainer.inference.prompts import Answer, Prompt

CHUNK = 256
"""Prompts that a process answers before it takes more."""


class Streams(Protocol):
    """What answers prompts: an `Answerer` on one device, or a `Spread` of them."""

    def stream(
        self, prompts: Iterable[Prompt], max_tokens: int, batch: int | None, advance: Callable[[int], Any]
    ) -> Iterator[Answer]: ...


@contextmanager
def open_answerer(
    checkpoint: str | Path,
    template: str | None = None,
    processes: int | None = None,
    device: str | None = None,
    load: str | None = None,
) -> Iterator[Streams]:
    """An answerer in `processes` processes: by default one per GPU, or one where a `device` is given. One is this
    process itself. Raises InputError for several on one device."""
    found = Checkpoint.open(checkpoint)
    found.check(template, load, device)
    if device not in (None, "cpu") and processes not in (None, 1):
        raise InputError(f"processes: {processes} copies cannot share device {device!r}. Leave one of the two out.")
    from trainer.inference.answer import Answerer

    default = 1 if device else _gpus() or 1
    count = default if processes is None else processes
    if count == 1:
        yield Answerer(found, template, device, load)
        return
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(count):
        numbers.put(number)
    threads = max((os.cpu_count() or 1) // count, 1)
    with ProcessPoolExecutor(
        count, context, _open, (str(checkpoint), template, device, load, numbers, threads)
    ) as pool:
        yield Spread(pool, count)


class Spread:
    """The answerers of a pool of processes."""

    def __init__(self, pool: ProcessPoolExecutor, count: int):
        self._pool, self._count = pool, count

    def stream(
        self,
        prompts: Iterable[Prompt],
        max_tokens: int = 256,
        batch: int | None = None,
        advance: Callable[[int], Any] = lambda answered: None,
    ) -> Iterator[Answer]:
        """The answers in the order of `prompts`, as one `Answerer` gives them."""
        remaining = iter(prompts)
        running: deque[Future[list[Answer]]] = deque()
        while True:
            while len(running) < 2 * self._count and (part := list(islice(remaining, CHUNK))):
                running.append(self._pool.submit(_answer, part, max_tokens, batch))
            if not running:
                return
            answers = running.popleft().result()
            advance(len(answers))
            yield from answers


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


_ANSWERER: Any = None
"""This process's own: a pool hands its tasks nothing else that lasts."""


def _open(
    checkpoint: str, template: str | None, device: str | None, load: str | None, numbers: Any, threads: int
) -> None:
    global _ANSWERER  # noqa: PLW0603
    import torch

    from trainer.inference.answer import Answerer

    number = numbers.get()
    torch.set_num_threads(threads)
    if device is None and _gpus():
        device = f"cuda:{number % _gpus()}"
    _ANSWERER = Answerer(checkpoint, template, device, load)


def _answer(prompts: list[Prompt], max_tokens: int, batch: int | None) -> list[Answer]:
    return _ANSWERER.answer(prompts, max_tokens, batch)
