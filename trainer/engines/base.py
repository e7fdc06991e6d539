"""The engine interface used by the loop and the checkpoints: sharded weights and their updates."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

from trainer.engines.scaling import LossScale

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""What each `precision` computes with."""

WEIGHTS = "weights"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's running means of the gradient and of its square (torch.optim.AdamW's names)."""

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for another one: loading a large model and writing a checkpoint take minutes."""


@dataclass(frozen=True)
class Fragment:
    """Elements `start` to `start + count` of a flattened parameter that this rank updates.

    tensors: by WEIGHTS and MOMENTS, float32, (count,): views of what the engine's AdamW updates.
    """

    name: str
    start: int
    tensors: Mapping[str, torch.Tensor]

    @property
    def count(self) -> int:
        return self.tensors[WEIGHTS].numel()


class Engine(Protocol):
    """A model whose gradients, optimizer state and perhaps weights are divided among ranks. Every rank calls every
    method in the same order, but for `sizes` and `updates`.

    model: names and configuration; weights may be this rank's share of them. dtype: what it computes with.
    optimizer: its `param_groups` have names, and the rates that the next step uses. writers: how many ranks hold pieces
    of the state that no other rank holds. scale: what `backward` multiplies the loss by in fp16; None otherwise.
    """

    name: str
    model: Any
    dtype: torch.dtype
    device: torch.device
    rank: int
    world: int
    optimizer: torch.optim.Optimizer
    writers: int
    scale: LossScale | None

    def __call__(self, **inputs: Any) -> Any:
        """The model's output; `inputs` are on `device`."""
        ...

    def training(self, on: bool) -> None:
        """Whether the model is trained from now on, or evaluated: without dropout, and without gradients."""
        ...

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of `loss`, divided by `world`, to that of all ranks. last: the step has no other one."""
        ...

    def step(self) -> float:
        """Clip the gradient, update the weights, forget the gradient. Returns its norm before clipping, over all ranks;
        where that is not finite, nothing is updated, and `scale` is now smaller."""
        ...

    def watch(self, parameter: torch.nn.Parameter, call: Callable[[torch.Tensor], None]) -> None:
        """Call `call` in every step with a gradient of `parameter`: this rank's own, or its share of all ranks'."""
        ...

    def sizes(self) -> dict[str, int]:
        """Number of elements of every trainable parameter, by name."""
        ...

    def updates(self) -> set[float]:
        """The step counters of AdamW: one number, or something is wrong."""
        ...

    def fragments(self) -> list[Fragment]:
        """What this rank updates of all trainable parameters."""
        ...

    def restore(self, updates: float, fill: Callable[[list[Fragment]], None]) -> None:
        """Make AdamW's state as after `updates` steps, let `fill` write weights and moments into the fragments, and
        copy the weights to where the model reads them."""
        ...

    def gather(self) -> Mapping[str, torch.Tensor] | None:
        """All weights of the model in `dtype` on rank 0, None elsewhere."""
        ...


def join_ranks(cuda: bool) -> torch.device:
    """Connect this process with the other ranks, as its environment says, and return its device. Without RANK in the
    environment it is the only one."""
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
            os.environ.update(alone, MASTER_PORT=str(probe.getsockname()[1]))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    return device
