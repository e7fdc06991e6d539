"""Which attention a machine can run, and optional speed-ups that change results only by rounding: compiled layers and
Liger's Triton kernels."""

from __future__ import annotations

import os
from typing import Any

import torch

from schemas.config import nearest
from schemas.errors import InputError
from trainer.models.towers import tower_of

FLASH_ATTN = {4: (9, 10), 3: (9,), 2: (8, 9, 10, 12)}
"""Releases of flash-attn, newest first, and the GPU generations (first number of the compute capability) that each
supports: Ampere and Ada 8, Hopper 9, Blackwell 10 and 12 (github.com/Dao-AILab/flash-attention, README)."""


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


def flash_kernel() -> str | None:
    """transformers' name of the newest flash-attn that is installed and supports this GPU; 2 and 4 share the module
    `flash_attn`."""
    generation, _ = torch.cuda.get_device_capability()
    able = (version for version, generations in FLASH_ATTN.items() if generation in generations and _installed(version))
    return next((f"flash_attention_{version}" for version in able), None)


def _installed(version: int) -> bool:
    from transformers.utils import import_utils

    available = getattr(import_utils, f"is_flash_attn_{version}_available", None)
    return available is not None and bool(available())


def check_kernel(kernel: str | None, where: str) -> None:
    """Raise InputError, which begins with `where`, for an attention that this machine cannot run, with one that it can.
    None leaves the choice to transformers."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if kernel in (None, "eager", "auto"):
        return
    known = [name for name in ALL_ATTENTION_FUNCTIONS.valid_keys() if "paged" not in name]
    if kernel not in known:
        raise InputError(f"{where}: attention {kernel!r} is unknown. {nearest(str(kernel), ['eager', *known])}")
    if not kernel.startswith("flash_attention_"):
        return
    version = int(kernel.rpartition("_")[2])
    if not torch.cuda.is_available():
        raise InputError(f"{where}: attention {kernel} needs a GPU, and torch sees none. Use sdpa.")
    generation, _ = torch.cuda.get_device_capability()
    fits = flash_kernel()
    if generation not in FLASH_ATTN.get(version, ()) or not _installed(version):
        why = "is not installed" if generation in FLASH_ATTN.get(version, ()) else "has no kernels for it"
        raise InputError(
            f"{where}: attention {kernel} cannot run on {torch.cuda.get_device_name()}: flash-attn {version} {why}. "
            f"Use {fits or 'sdpa'}."
        )
