"""torch's own FSDP2 as an engine: weights, gradients and optimizer state divided among ranks, as at ZeRO-3."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from trainer.config import Recipe
from trainer.engines.base import DTYPES, MOMENTS, WEIGHTS, Fragment
from trainer.engines.optimizer import adamw, counter
from trainer.engines.scaling import LossScale
from trainer.models.kernels import transformer_layers


class FSDP2:
    """`base.Engine` by `torch.distributed.fsdp.fully_shard`: each transformer layer is gathered when it computes."""

    name = "fsdp2"

    def __init__(self, model: Any, recipe: Recipe, dtype: torch.dtype, device: torch.device):
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.device, self.dtype, self.writers = device, dtype, self.world
        self.scale = LossScale() if dtype == torch.float16 else None
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # what AdamW updates; layers compute with a copy in `dtype`
        self.model = self._divided(model)
        self.optimizer = adamw(self.model, recipe.optimizer, device)
        self.clip = recipe.optimizer.clip
        self.watched: list[Callable[[], None]] = []

    @classmethod
    def start(cls, recipe: Recipe, precision: str, device: torch.device, load: Callable[[torch.dtype], Any]) -> FSDP2:
        """Load the model on every rank and divide it; a rank's device holds one whole layer at a time."""
        return cls(load(DTYPES[precision]), recipe, DTYPES[precision], device)

    def _divided(self, model: Any) -> Any:
        mesh = init_device_mesh(self.device.type, (self.world,))
        # Gradients are summed over micro-batches and ranks in float32, whatever layers compute with.
        policy = MixedPrecisionPolicy(param_dtype=self.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        divide = partial(fully_shard, mesh=mesh, mp_policy=policy)
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model  # peft's wrapping
        for layer in transformer_layers(whole):
            divide(layer)
        return divide(model)

    def __call__(self, **inputs: Any) -> Any:
        return self.model(**inputs)

    def training(self, on: bool) -> None:
        """After a forward pass, what lies outside the layers stays whole for a backward pass, which an evaluation does
        not have: it would be missing among the parameters that are updated."""
        self.model.train(on)
        self.model.reshard()

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self.model.set_is_last_backward(last)
        (loss if self.scale is None else loss * self.scale.value).backward()

    def step(self) -> float:
        for look in self.watched:
            look()
        trained = [parameter for _, parameter in self._trained()]
        gradients = [one.grad for one in trained if one.grad is not None]
        if self.scale is not None:
            torch._foreach_mul_(gradients, 1 / self.scale.value)
        total = torch.nn.utils.get_total_norm(gradients)
        total = total.full_tensor() if isinstance(total, DTensor) else total
        norm = float(total)
        finite = math.isfinite(norm)
        if self.scale is not None:
            self.scale.update(finite)
        if finite:
            if self.clip:
                torch.nn.utils.clip_grads_with_norm_(trained, self.clip, total)
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def watch(self, parameter: torch.nn.Parameter, call: Callable[[torch.Tensor], None]) -> None:
        """Hooks of a divided parameter never run: its gradient is looked at before the update."""

        def look() -> None:
            if parameter.grad is not None:
                call(_own(parameter.grad))

        self.watched.append(look)

    def sizes(self) -> dict[str, int]:
        return {name: parameter.numel() for name, parameter in self._trained()}

    def updates(self) -> set[float]:
        return {float(state["step"]) for state in self.optimizer.state.values()}

    def fragments(self) -> list[Fragment]:
        """FSDP2 cuts parameters along their first dimension into one chunk per rank; the last ranks may have none."""
        found = []
        for name, parameter in self._trained():
            state = self.optimizer.state[parameter]
            tensors = {WEIGHTS: parameter.detach(), **{key: state[key] for key in MOMENTS}}
            own = {key: _own(tensor).view(-1) for key, tensor in tensors.items()}
            # torch.chunk's size; what is left for the last ranks is smaller.
            rows = -(-parameter.shape[0] // self.world)
            if own[WEIGHTS].numel():
                found.append(Fragment(name, self.rank * rows * (parameter.numel() // parameter.shape[0]), own))
        return found

    @torch.no_grad()
    def restore(self, updates: float, fill: Callable[[list[Fragment]], None]) -> None:
        for _, parameter in self._trained():
            moments = {key: torch.zeros_like(parameter) for key in MOMENTS}
            self.optimizer.state[parameter] = {"step": counter(self.optimizer, parameter, updates), **moments}
        fill(self.fragments())

    def gather(self) -> Mapping[str, torch.Tensor] | None:
        found = {}
        for name, tensor in self.model.state_dict().items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.rank == 0:
                found[name] = (whole.to(self.dtype) if whole.is_floating_point() else whole).cpu()
        return found if self.rank == 0 else None

    def close(self) -> None:
        """Nothing outlives the model."""

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a divided tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
