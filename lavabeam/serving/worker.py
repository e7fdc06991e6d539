"""The interface of a worker, and the requests and answers that it exchanges with the gateway.

A worker is a process with a checkpoint (`embedded.py`), or another server. The registry starts, checks, restarts and
stops it; the gateway asks it. Nothing here imports torch or FastAPI.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lavabeam.serving.errors import RequestError
from schemas.errors import LavaBeamError

if TYPE_CHECKING:
    from lavabeam.serving.settings import ModelSpec

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Question:
    """One request, checked: what it may say is known, its pictures are here.

    messages: as in a `samples` row: role and content parts of type `image` (text None) and `text`; `developer` is
    `system`. images: encoded pictures, one for each image part, in order; their headers were checked, their pixels not.
    max_tokens: None leaves it to the worker. seed: None draws one.
    """

    messages: Sequence[dict[str, Any]]
    images: tuple[bytes, ...] = ()
    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    """Whether its pieces are wanted as they come; otherwise the whole answer may be one."""
    model: str = ""
    """The name that was asked; a worker that serves several tells them apart by it."""


@dataclass(frozen=True)
class Piece:
    """A piece of an answer. The texts of all pieces, joined, are the answer; only the last one has a `finish`.

    prompt_tokens, answer_tokens: of the whole request, with the last piece. Tokens of pictures count as the model's.
    """

    text: str
    finish: FinishReason | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0


@dataclass(frozen=True)
class Description:
    """What a started worker knows about its checkpoint; `/v1/models` shows it."""

    family: str
    """As `llava/llama`: config.json's model_type, and the language model's."""
    precision: str
    """`float32`, `bfloat16`, `4bit`, `8bit`, or what another server says."""
    positions: int | None = None
    """The most tokens of a prompt with its answer, where known."""
    details: dict[str, Any] = field(default_factory=dict)
    """More of it for people: device, template, base."""


class WorkerLost(LavaBeamError):
    """The worker ended while it was asked, or cannot be reached."""

    exit_code = 1


class Worker(Protocol):
    """One running checkpoint. A worker that was stopped or lost is not started again: the registry makes another."""

    async def start(self) -> Description:
        """Start it and wait until it can be asked.

        Raises InputError with one line that says why it cannot serve this checkpoint. May be cancelled: then nothing of
        it is left running.
        """

    def ask(self, question: Question) -> AsyncGenerator[Piece, None]:
        """The answer, piece by piece. An async generator: closing it (`aclose`) takes the request back and frees its
        place, also in the middle.

        Raises RequestError for what is wrong with the question (a status below 500), WorkerLost when the worker ends.
        """

    async def lost(self) -> str:
        """Return when the worker has ended without `stop`, with the reason. Never returns otherwise."""

    async def stop(self, grace: float) -> None:
        """End it: waits `grace` seconds for running answers, and until its memory and ports are free again."""


class SharedWorker(Worker, Protocol):
    """A worker that serves more names than the one it was made for: adapters on one base."""

    async def attach(self, spec: ModelSpec) -> Description:
        """Load what `spec` adds to the running worker, whose questions say `model=spec.name`. Raises InputError."""

    async def detach(self, name: str) -> None:
        """Unload it."""


async def answer(worker: Worker, question: Question, timeout: float | None = None) -> tuple[str, Piece]:
    """The whole answer to one question, and its last piece. Raises as `Worker.ask`, and TimeoutError."""
    texts, last = [], Piece("")
    async with asyncio.timeout(timeout), aclosing(worker.ask(question)) as pieces:
        async for piece in pieces:
            texts.append(piece.text)
            last = piece
    if last.finish is None:
        raise RequestError(502, "the worker ended its answer without a reason.", code="bad_answer")
    return "".join(texts), last
