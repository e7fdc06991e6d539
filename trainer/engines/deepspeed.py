"""DeepSpeed as an engine: ZeRO 0 to 3, with or without offload to the host."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from trainer.config import Recipe
from trainer.engines import zero
from trainer.engines.base import DTYPES, Fragment
from trainer.engines.optimizer import adamw
from trainer.engines.scaling import FIRST, LossScale
from trainer.engines.zero3 import zero3_settings

NEVER = 10**9


class DeepSpeed:
    """`base.Engine` by DeepSpeed. `keep` lives as long as the engine."""

    name = "deepspeed"

    def __init__(
        self, model: Any, recipe: Recipe, precision: str, config: dict[str, Any], device: torch.device, keep: Any = None
    ):
        import deepspeed

        self.model, self.device, self.keep = model, device, keep
        self.dtype, self.scale = DTYPES[precision], LossScale() if precision == "fp16" else None
        optimizer = adamw(model, recipe.optimizer, device)
        self.inner: Any = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]
        self.optimizer = self.inner.basic_optimizer
        self.rank, self.world = self.inner.global_rank, self.inner.world_size
        self.stage = self.inner.zero_optimization_stage()
        self.writers = self.world if self.stage else 1

    @classmethod
    def start(
        cls,
        recipe: Recipe,
        precision: str,
        device: torch.device,
        text: dict[str, Any],
        load: Callable[[torch.dtype], Any],
    ) -> DeepSpeed:
        """Load the model and divide it among the ranks; with ZeRO-3 it is divided while it is loaded."""
        prepare_deepspeed(device.type == "cuda")
        from transformers.integrations import HfDeepSpeedConfig

        config = deepspeed_config(recipe, precision, text)
        keep = HfDeepSpeedConfig(config)  # transformers finds it by a weak reference while it loads a model
        return cls(load(DTYPES[precision]), recipe, precision, config, device, keep)

    def __call__(self, **inputs: Any) -> Any:
        return self.inner(**inputs)

    def training(self, on: bool) -> None:
        self.inner.train(on)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        if self.scale is not None:
            self.inner.optimizer.override_loss_scale(self.scale.value)
        self.inner.set_gradient_accumulation_boundary(last)
        self.inner.backward(loss, scale_wrt_gas=False)

    def step(self) -> float:
        """DeepSpeed itself skips an update whose gradient is not finite; without ZeRO, in float32, it would not, and
        does not know the norm."""
        if self.inner.optimizer is not self.optimizer:
            self.inner.step()
            norm = float(self.inner.get_global_grad_norm())
            if self.scale is not None:
                self.scale.update(math.isfinite(norm))
                if not math.isfinite(norm):
                    self._forget_gradient()
            return norm
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if math.isfinite(norm):
            self.inner.step()
        return norm

    def _forget_gradient(self) -> None:
        """DeepSpeed 0.19.8 with offload at ZeRO 1 and 2 would add the next gradient to the one that overflowed."""
        if self.stage < 3:
            kept = self.inner.optimizer.averaged_gradients
            kept.update(dict.fromkeys(kept))

    def watch(self, parameter: torch.nn.Parameter, call: Callable[[torch.Tensor], None]) -> None:
        parameter.register_hook(call)

    def sizes(self) -> dict[str, int]:
        return {
            name: int(getattr(parameter, "ds_numel", parameter.numel()))
            for parameter, name in self.inner.param_names.items()
            if parameter.requires_grad
        }

    def updates(self) -> set[float]:
        return {float(state["step"]) for state in self.optimizer.state.values()}

    def fragments(self) -> list[Fragment]:
        return [place.fragment(self.optimizer.state) for place in zero.places(self.inner)]

    def restore(self, updates: float, fill: Callable[[list[Fragment]], None]) -> None:
        zero.prepare_state(self.inner, zero.places(self.inner), updates)
        fill(self.fragments())
        zero.publish(self.inner)

    def gather(self) -> Mapping[str, torch.Tensor] | None:
        if self.stage == 3:
            return self.inner._zero3_consolidated_16bit_state_dict()
        return self.model.state_dict() if self.rank == 0 else None

    def close(self) -> None:
        """Free what the engine holds, in a process that continues."""
        self.inner.destroy()


def deepspeed_config(recipe: Recipe, precision: str, text: dict[str, Any]) -> dict[str, Any]:
    """DeepSpeed's configuration for a language model of configuration `text`.

    There is no optimizer block: it would silently replace the learning rates per module. To DeepSpeed, one optimizer
    step is one batch; our loop accumulates inside it. In 16 bits, gradients are added up and reduced in float32: by
    default DeepSpeed does both in the model's precision, where a sum of micro-batches loses what is below 1/256 of it.
    """
    settings, half = recipe.deepspeed, precision != "fp32"
    zero: dict[str, Any] = {"stage": zero_stage(settings.zero, precision), "overlap_comm": half}
    if settings.zero == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
        zero |= zero3_settings(text)
    if settings.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": half}
    if settings.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": half}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": recipe.optimizer.clip,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16", "loss_scale": FIRST},  # `LossScale` sets it anew in every step
        **({"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"} if half else {}),
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": NEVER,
    }


def zero_stage(wanted: int, precision: str) -> int:
    """The ZeRO stage that DeepSpeed is given. In 16 bits, without ZeRO, it cannot add gradients up in float32: there
    stage 1 replaces 0. It computes the same, and needs less memory."""
    return wanted if precision == "fp32" else max(wanted, 1)


def prepare_deepspeed(cuda: bool) -> None:
    """Without a GPU, keep DeepSpeed from compiling its shared-memory collectives, which takes over half a minute and
    needs a compiler (gloo does the same work), and from trying compiler and linker on every operator it knows.

    It refuses fp16 on a CPU that does not compute it faster than float32; torch computes it on any. Its deprecation
    warnings from torch are silenced: a user cannot do anything about them.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    if not cuda:
        import deepspeed

        deepspeed.ops.__compatible_ops__ = {}
        deepspeed.get_accelerator().is_fp16_supported = lambda: True
