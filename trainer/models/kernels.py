"""Optional speed-ups that change results only by rounding: compiled layers and Liger's Triton kernels."""

from __future__ import annotations

import os
from typing import Any

import torch

from schemas.errors import InputError
from trainer.models.towers import tower_of


def compile_layers(model: Any, backend: str = "inductor") -> None:
    """Apply torch.compile to each transformer layer of decoder and tower, in place; parameter names stay.

    Layer by layer, because all layers share one compiled function, and what DeepSpeed does between them stays outside.
    The first step, and the second of another length, take a minute or more; after that lengths are dynamic.
    """
    # Ranks without a GPU start with compilation off (launch.py), because importing DeepSpeed would load the compiler.
    os.environ.pop("TORCHDYNAMO_DISABLE", None)
    for layer in transformer_layers(model):
        layer.compile(backend=backend)


def transformer_layers(model: Any) -> list[torch.nn.Module]:
    """The layers of the language model and of the tower."""
    tower = model.model.vision_tower
    path = tower_of(model.config.vision_config.model_type, "config.json").layers
    return [*model.model.language_model.layers, *tower.get_submodule(path)]


def use_liger(model: Any) -> None:
    """Use Liger's RMS norm, SwiGLU, rotary embedding, and a loss that never holds the logits of all tokens at once
    (Hsu et al. 2024, arXiv 2410.10989). Raises InputError where they cannot run."""
    if not torch.cuda.is_available():
        raise InputError("liger: its Triton kernels need a GPU, and torch sees none. Set `liger: false`.")
    try:
        from liger_kernel.transformers import apply_liger_kernel_to_llava
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(
            f"liger: liger-kernel cannot be loaded ({error}). pip install 'lavabeam[liger]', or set `liger: false`."
        ) from error
    # LLaVA-NeXT's forward does not differ from LLaVA's in anything that Liger replaces.
    apply_liger_kernel_to_llava(model=model)
