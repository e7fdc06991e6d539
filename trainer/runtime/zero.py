"""DeepSpeed's configuration for a recipe, and what has to be set before it initialises."""

from __future__ import annotations

import warnings
from typing import Any

from trainer.config import Recipe

NEVER = 10**9


def deepspeed_config(recipe: Recipe, precision: str) -> dict[str, Any]:
    """The dictionary that TrainingArguments takes as `deepspeed`.

    There is no optimizer block: it would silently replace the learning rates per module. To DeepSpeed, one optimizer
    step is one batch; our loop accumulates inside it.
    """
    settings = recipe.deepspeed
    zero: dict[str, Any] = {"stage": settings.zero, "overlap_comm": precision == "bf16"}
    if settings.zero == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
        zero["stage3_param_persistence_threshold"] = "auto"
        zero["stage3_prefetch_bucket_size"] = "auto"
        zero["reduce_bucket_size"] = "auto"
    if settings.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": precision == "bf16"}
    if settings.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": precision == "bf16"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": recipe.optimizer.clip,
        "bf16": {"enabled": precision == "bf16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": NEVER,
    }


def prepare_deepspeed(cuda: bool) -> None:
    """Without a GPU, keep DeepSpeed from compiling its shared-memory collectives, which takes over half a minute and
    needs a compiler (gloo does the same work), and from trying compiler and linker on every operator it knows.

    Its deprecation warnings from torch are silenced: a user cannot do anything about them.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    if not cuda:
        import deepspeed

        deepspeed.ops.__compatible_ops__ = {}
