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
"""The dtype of each `precision`."""

WEIGHTS = "weights"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's running means of the gradient and of its square (torch.optim.AdamW's names)."""

PATIENCE = timedelta(minutes=30)
"""Timeout for waiting on other ranks: loading a large model and writing a checkpoint take minutes."""


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
    """A model whose gradients, optimizer state and possibly weights are sharded over ranks. Every rank calls every
    method in the same order, except `sizes` and `updates`.

    model: names and configuration; weights may be this rank's shards. dtype: the compute precision. optimizer: its
    `param_groups` have names, and the learning rates of the next step. writers: number of ranks that hold unique state.
    scale: the loss scale that `backward` applies in fp16; None otherwise.
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
        """Switch between training and evaluation (no dropout, no gradients)."""
        ...

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Accumulate the gradient of `loss`, divided by `world`, over all ranks. last: the final micro-batch of the
        step."""
        ...

    def step(self) -> float:
        """Clip the gradient, update the weights, zero the gradient. Returns the norm before clipping, over all ranks;
        if it is not finite, nothing is updated, and `scale` is reduced."""
        ...

    def watch(self, parameter: torch.nn.Parameter, call: Callable[[torch.Tensor], None]) -> None:
        """Call `call` in every step with a gradient of `parameter`: this rank's own, or its share of all ranks'."""
        ...

    def sizes(self) -> dict[str, int]:
        """Number of elements of every trainable parameter, by name."""
        ...

    def updates(self) -> set[float]:
        """The step counters of AdamW: a single number unless the state is inconsistent."""
        ...

    def fragments(self) -> list[Fragment]:
        """This rank's shards of all trainable parameters."""
        ...

    def restore(self, updates: float, fill: Callable[[list[Fragment]], None]) -> None:
        """Create AdamW's state as after `updates` steps, let `fill` write weights and moments into the fragments, and
        copy the weights into the model."""
        ...

    def gather(self) -> Mapping[str, torch.Tensor] | None:
        """All weights of the model in `dtype` on rank 0, None elsewhere."""
        ...


def join_ranks(cuda: bool) -> torch.device:
    """Join the process group described by the environment, and return this rank's device. Without RANK in the
    environment there is only one rank."""
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
