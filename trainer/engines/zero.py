"""Where DeepSpeed keeps this rank's share of weights and optimizer state.

ZeRO 1 and 2 concatenate all parameters of a group and cut them into equal shares, ZeRO 3 cuts each parameter, and
ZeRO 0, in float32 only, keeps everything on every rank. Here all of them are a list of `Place`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from trainer.engines.base import MOMENTS, WEIGHTS, Fragment
from trainer.engines.optimizer import counter


@dataclass(frozen=True)
class Place:
    """Elements `start` to `start + count` of a flattened parameter, at `offset` in `flat`.

    flat: the float32 tensor that torch's AdamW updates, 1-D, and the key of its state.
    """

    name: str
    start: int
    count: int
    flat: torch.Tensor
    offset: int

    def fragment(self, state: dict[Any, dict[str, torch.Tensor]]) -> Fragment:
        """The place as views of the float32 weights and, in AdamW's `state`, of the moments."""
        found = {WEIGHTS: self.flat.detach(), **{key: state[self.flat][key] for key in MOMENTS}}
        views = {key: tensor.view(-1).narrow(0, self.offset, self.count) for key, tensor in found.items()}
        return Fragment(self.name, self.start, views)


def places(engine: Any) -> list[Place]:
    """This rank's places of all trainable parameters, of a deepspeed.DeepSpeedEngine at any ZeRO stage."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage == 3:
        return _of_stage_3(engine, optimizer)
    if stage > 0:
        return _of_stages_1_and_2(engine, optimizer)
    whole = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [Place(engine.param_names[one], 0, one.numel(), one, 0) for one in whole]


def prepare_state(engine: Any, held: list[Place], step: float) -> None:
    """Give every tensor that AdamW updates its state after `step` steps; the moments are zero until they are filled."""
    optimizer = engine.basic_optimizer
    for flat in {id(place.flat): place.flat for place in held}.values():
        # Separate step counters: AdamW advances the counter of every tensor.
        moments = {key: torch.zeros_like(flat, memory_format=torch.preserve_format) for key in MOMENTS}
        kept = {key: value.detach() for key, value in moments.items()}
        optimizer.state[flat] = {"step": counter(optimizer, flat, step), **kept}


@torch.no_grad()
def publish(engine: Any) -> None:
    """Copy the float32 weights to the weights that the model computes with; without ZeRO they are the same. Every rank
    has to call this."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage == 3:
        optimizer._partition_all_parameters()
        for number in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(number)
        # Small parameters stay gathered on every rank.
        optimizer.checkpoint_event_epilogue()
    elif stage > 0:
        optimizer.update_lp_params()


def _of_stages_1_and_2(engine: Any, optimizer: Any) -> list[Place]:
    """DeepSpeed links each parameter to its location in this rank's share; most have none on a given rank."""
    found = []
    for flat, parameters in _groups(optimizer):
        for parameter in parameters:
            mapping = parameter._hp_mapping
            if mapping is not None:
                part, location = mapping.lp_fragment_address, mapping.hp_fragment_address
                found.append(Place(engine.param_names[parameter], part.start, part.numel, flat, location.start))
    return found


def _groups(optimizer: Any) -> Iterator[tuple[torch.Tensor, list[Any]]]:
    """(this rank's share of the float32 weights, the model's parameters) of each group. DeepSpeed has a class of its
    own for stage 1 in bf16, and it has other names for them."""
    if hasattr(optimizer, "bf16_groups"):
        return zip(optimizer.fp32_groups_flat_partition, optimizer.bf16_groups, strict=True)
    return zip(optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups, strict=True)


def _of_stage_3(engine: Any, optimizer: Any) -> list[Place]:
    """Each parameter is cut into one equal part per rank, padded at the end."""
    found = []
    for parameters in optimizer.fp16_groups:
        for parameter in parameters:
            group, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = size * optimizer._get_param_partition_rank(parameter)
            count = min(size, parameter.ds_numel - start)
            if count > 0:
                flat = optimizer.fp32_partitioned_groups_flat[group]
                found.append(Place(engine.param_names[parameter], start, count, flat, offset))
    return found
