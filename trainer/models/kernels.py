"""Which attention runs, in one table, and optional speed-ups: compiled layers and Liger's Triton kernels.

All of them change results by rounding only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch

from schemas.chat import IGNORE
from schemas.config import nearest
from schemas.errors import InputError
from trainer.config import Recipe
from trainer.models import varlen
from trainer.models.towers import tower_of

BOUNDARIES = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
"""Where packed rows begin, and the longest, as transformers names these arguments of a language model."""

LARGEST_HEAD = 256
"""Values per head that these kernels support at most (flash-attn's README); multiples of 8."""


@dataclass(frozen=True)
class Kernel:
    """An attention that packs rows. generations: first numbers of the compute capabilities that it has code for.
    softcap: whether it can cap scores, as Gemma 2 needs; dropout: whether it can drop some. package: what to install.
    """

    name: str
    generations: tuple[int, ...]
    softcap: bool
    dropout: bool
    package: str


KERNELS = (
    Kernel("flash_attention_4", (9, 10), softcap=False, dropout=False, package="'lavabeam[flash]'"),
    Kernel("flash_attention_3", (9,), softcap=True, dropout=False, package="flash-attn's hopper folder"),
    Kernel("flash_attention_2", (8, 9, 10, 12), softcap=True, dropout=True, package="'lavabeam[flash2]'"),
    Kernel(varlen.NAME, (8, 9, 10, 11, 12), softcap=False, dropout=False, package="a torch that has it (2.13)"),
)
"""Best first. Generations: Ampere and Ada 8, Hopper 9, Blackwell 10 to 12; of flash-attn those in its README
(github.com/Dao-AILab/flash-attention), of torch's kernel, which is flash-attn 2, everything from Ampere on."""

PLAIN = ("sdpa", "eager")
"""Attentions that run anywhere. They pack rows by a mask of all tokens by all tokens, so only where that is wanted."""


@dataclass(frozen=True)
class Machine:
    """generation: the first number of the GPU's compute capability, None without one. precision: bf16, fp16 or fp32."""

    generation: int | None
    precision: str

    @classmethod
    def here(cls, precision: str) -> Machine:
        """This process's GPU."""
        return cls(torch.cuda.get_device_capability()[0] if torch.cuda.is_available() else None, precision)


def precision_of(recipe: Recipe) -> str:
    """`bf16`, `fp16` or `fp32`: the recipe's choice, or what the device supports."""
    if recipe.deepspeed.precision != "auto":
        return recipe.deepspeed.precision
    if not torch.cuda.is_available():
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def attention(
    wanted: str, rows: str, machine: Machine, text: dict[str, Any], shared: bool = False
) -> tuple[str | None, bool]:
    """(attention of the language model, whether rows are packed) for a recipe's `attention` and `plan.rows`.

    text: the language model's configuration. shared: several ranks share a row (`sequence_parallel`). None leaves the
    choice to transformers: SDPA, or eager attention for the few models that support nothing else (Gemma 2). Rows are
    packed where a kernel exists that does not need a mask for it, or where the recipe says so. Raises InputError for a
    kernel that cannot run, with those that can.
    """
    fitting = [kernel.name for kernel in KERNELS if why_not(kernel, machine, text) is None]
    if wanted in PLAIN:
        return wanted, rows == "packed"
    if shared and wanted == "auto":
        # One that needs no mask: without a GPU torch's own, row by row, whose reason is named where it cannot run.
        return attention(fitting[0] if fitting else varlen.NAME, "packed", machine, text)
    if wanted == "auto":
        if rows == "padded":
            fitting = [name for name in fitting if name != varlen.NAME]
        return (fitting[0] if fitting else None), rows == "packed" or (rows == "auto" and bool(fitting))
    (kernel,) = [kernel for kernel in KERNELS if kernel.name == wanted]
    reason = _why_not_rows(kernel, rows) or why_not(kernel, machine, text)
    # Without a GPU torch's own is computed row by row: slow, and the same.
    if reason is None or (wanted == varlen.NAME and machine.generation is None and rows != "padded"):
        return wanted, rows != "padded"
    others = [name for name in fitting if name != wanted]
    raise InputError(f"attention: {wanted} {reason}. Set `attention: auto`, or one of {', '.join([*others, *PLAIN])}.")


def check_attention(wanted: str, rows: str, text: dict[str, Any]) -> None:
    """Raise InputError for an attention that no GPU runs with this language model and these rows."""
    if wanted in ("auto", *PLAIN):
        return
    reasons = {kernel.name: _why_not_rows(kernel, rows) or why_never(kernel, text) for kernel in KERNELS}
    if reasons[wanted] is not None:
        others = ", ".join([*(name for name, reason in reasons.items() if reason is None), *PLAIN])
        raise InputError(f"attention: {wanted} {reasons[wanted]}. Set `attention: auto`, or one of {others}.")


def _why_not_rows(kernel: Kernel, rows: str) -> str | None:
    if kernel.name == varlen.NAME and rows == "padded":
        return "computes packed rows only, and the recipe says `plan: {rows: padded}`"
    return None


def why_never(kernel: Kernel, text: dict[str, Any]) -> str | None:
    """Why a kernel cannot compute this language model on any GPU; None if it can."""
    size = text.get("head_dim") or int(text.get("hidden_size", 4096)) // int(text.get("num_attention_heads", 32))
    reasons = (
        (
            bool(text.get("attn_logit_softcapping")) and not kernel.softcap,
            "cannot cap scores, which this language model does",
        ),
        (
            bool(text.get("attention_dropout")) and not kernel.dropout,
            "has no dropout, which this language model's configuration asks for",
        ),
        (
            size % 8 != 0 or size > LARGEST_HEAD,
            f"takes heads of at most {LARGEST_HEAD} values, a multiple of 8, and this language model has {size}",
        ),
    )
    return next((reason for applies, reason in reasons if applies), None)


def why_not(kernel: Kernel, machine: Machine, text: dict[str, Any]) -> str | None:
    """Why a kernel cannot run this model on this machine; None if it can."""
    known = ", ".join(f"{generation}.x" for generation in kernel.generations)
    reasons = (
        (machine.generation is None, "needs a GPU, and torch sees none"),
        (
            machine.generation not in kernel.generations,
            f"has no code for a GPU of compute capability {machine.generation}.x, only for {known}",
        ),
        (machine.precision == "fp32", "computes in bf16 or fp16, and this run is in fp32"),
    )
    found = next((reason for applies, reason in reasons if applies), None) or why_never(kernel, text)
    if found is None and not installed(kernel):
        found = f"is not installed: it comes with {kernel.package}"
    return found


def installed(kernel: Kernel) -> bool:
    """Whether this environment has the kernel; flash-attn 2 and 4 share the module `flash_attn`."""
    if kernel.name == varlen.NAME:
        return varlen.available()
    from transformers.utils import import_utils

    found = getattr(import_utils, f"is_flash_attn_{kernel.name[-1]}_available", None)
    return found is not None and bool(found())


def for_text(kernel: str | None) -> dict[str, str] | None:
    """`attn_implementation` for transformers: the kernel for the language model. The tower keeps SDPA: its pictures all
    have the same length and are not packed."""
    if kernel is None:
        return None
    if kernel == varlen.NAME:
        varlen.register()
    return {"text_config": kernel}


def shield_tower(model: Any) -> None:
    """Keep the boundaries of packed rows from the tower. Some releases of transformers hand on to it all arguments that
    they do not know, and to its attention these would mean that pictures are packed."""

    def without(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return given, {name: value for name, value in named.items() if name not in BOUNDARIES}

    model.model.vision_tower.register_forward_pre_hook(without, with_kwargs=True)


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
    """Use Liger's RMS norm, SwiGLU and rotary embedding, and a loss that never holds the logits of all tokens at once
    (Hsu et al. 2024, arXiv 2410.10989), for every class of model. Raises InputError where they cannot run."""
    check_liger()
    try:
        from liger_kernel.transformers import apply_liger_kernel_to_llava
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(
            f"liger: liger-kernel cannot be loaded ({error}). pip install 'lavabeam[liger]', or set `liger: false`."
        ) from error
    # Of this function only what it does to the language model: its own forward is that of one class.
    apply_liger_kernel_to_llava(model=model, fused_linear_cross_entropy=False)
    summed = partial(liger_fused_linear_cross_entropy, ignore_index=IGNORE, reduction="sum", accum_dtype=torch.float32)
    fuse_loss(model, summed)


def check_liger() -> None:
    """Raise InputError where Liger's kernels cannot run."""
    if not torch.cuda.is_available():
        raise InputError("liger: its Triton kernels need a GPU, and torch sees none. Set `liger: false`.")


def fuse_loss(model: Any, summed: Callable[..., torch.Tensor]) -> None:
    """Replace the model's last layer and loss in training by one function, which need not hold the logits.

    summed: (hidden states (tokens, width), weights (vocabulary, width), targets (tokens,)) to the sum of losses. The
    positions are those of `trainer.inputs.collate.learnt`.
    """

    def forward(
        self: Any,
        *,
        labels: torch.Tensor,
        shift_labels: torch.Tensor,
        logits_to_keep: torch.Tensor,
        num_items_in_batch: torch.Tensor,
        **inputs: Any,
    ) -> CausalLMOutput:
        hidden = self.model(**inputs).last_hidden_state[:, logits_to_keep]
        loss = summed(hidden.flatten(0, 1), self.lm_head.weight, shift_labels.flatten())
        return CausalLMOutput(loss=loss / num_items_in_batch)

    from transformers.modeling_outputs import CausalLMOutput

    model.forward = MethodType(forward, model)


def check_kernel(kernel: str | None, where: str) -> None:
    """Raise InputError, which begins with `where`, for an attention that a checkpoint's config.json asks for and this
    machine cannot run, with one that it can. None leaves the choice to transformers."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if kernel in (None, "eager", "auto"):
        return
    known = [name for name in ALL_ATTENTION_FUNCTIONS.valid_keys() if "paged" not in name]
    if kernel not in known:
        raise InputError(f"{where}: attention {kernel!r} is unknown. {nearest(str(kernel), ['eager', *known])}")
    machine = Machine.here("bf16")
    reasons = {one.name: why_not(one, machine, {}) for one in KERNELS if one.name != varlen.NAME}
    if (reason := reasons.get(str(kernel))) is not None:
        able = next((name for name, found in reasons.items() if found is None), "sdpa")
        raise InputError(f"{where}: attention {kernel} {reason}. Use {able}.")
