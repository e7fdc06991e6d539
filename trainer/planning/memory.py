"""Estimate the memory of a GPU, in bytes, for a model, a ZeRO stage and the largest micro-batch of a plan."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from schemas.errors import InputError

# DeepSpeed's defaults (docs/_pages/config-json.md): stage3_max_live_parameters; reduce_bucket_size of stages 1 to 3.
LIVE_PARAMETERS = 1e9
BUCKET = 5e8
# Bytes per parameter of NF4 with double quantisation: 4 bits and 0.127 bits of constants (Dettmers et al. 2023,
# arXiv 2305.14314, section 3).
NF4_BYTES = 4.127 / 8
LOGIT_BYTES = 14.0


@dataclass(frozen=True)
class ModelSizes:
    """The sizes that memory depends on; the defaults are Llama-2-7B, an mlp2x_gelu projector and CLIP-L/336."""

    language_parameters: float = 6.74e9
    vision_parameters: float = 0.304e9
    projector_parameters: float = 21e6
    hidden_size: int = 4096
    intermediate_size: int = 11008
    key_value_size: int = 4096
    layers: int = 32
    vocabulary: int = 32000
    vision_hidden_size: int = 1024
    vision_layers: int = 24
    tokens_per_image: int = 577


@dataclass(frozen=True)
class Adapter:
    """LoRA on all matrices of the decoder's layers."""

    rank: int
    dropout: float


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one GPU, by use. Not included: the CUDA context (0.5 to 1 GB) and fragmentation."""

    parameters: float
    gradients: float
    optimizer: float
    buffers: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return sum(getattr(self, part.name) for part in fields(self))


def estimate_memory(
    sizes: ModelSizes,
    *,
    gpus: int,
    zero_stage: int,
    peak_tokens: int,
    peak_images: int,
    trainable_parameters: float | None = None,
    train_vision: bool = False,
    train_language: bool = True,
    adapter: Adapter | None = None,
    learnt: float = 1.0,
    frozen_bytes: float = 2.0,
    gradient_bytes: float = 2.0,
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
    checkpointing: float = 1.0,
) -> MemoryEstimate:
    """Memory of bf16 training with Adam.

    - States (Rajbhandari et al. 2020, arXiv 1910.02054, section 3.1): 2 bytes per parameter, 2 bytes per gradient, and
      12 bytes of float32 weights, momentum and variance, the last two only for what trains. Stage 1 divides the
      optimizer among the GPUs, stage 2 the gradients, stage 3 the parameters (section 5).
    - trainable_parameters: by default language model and projector; give the adapters' for LoRA, and
      frozen_bytes=NF4_BYTES for QLoRA: that applies to the language model's layers, while its two vocabulary tables and
      the tower keep 16 bits.
    - gradient_bytes: per trained parameter; more than the paper's 2 where gradients are added up in float32.
    - peak_images: tiles with anyres. Activations: see `_activations`, with `checkpointing` the share of layers whose
      activations are computed again.
    - learnt: the share of peak_tokens that has logits: their logarithms and the gradient, in float32, and the copies
      that both are made from, LOGIT_BYTES each.

    Raises InputError for a stage that is not 0 to 3 or sizes below one.
    """
    if zero_stage not in (0, 1, 2, 3) or gpus < 1:
        raise InputError(f"ZeRO stage {zero_stage} on {gpus} GPUs; stages are 0 to 3 and the minimum is one GPU")
    total = sizes.language_parameters + sizes.vision_parameters + sizes.projector_parameters
    if trainable_parameters is None:
        trainable_parameters = sizes.language_parameters + sizes.projector_parameters
    frozen = max(total - trainable_parameters, 0.0)
    whole = 2.0 * sizes.hidden_size * sizes.vocabulary + (0.0 if train_vision else sizes.vision_parameters)
    parameters = 2 * trainable_parameters + 2 * min(whole, frozen) + frozen_bytes * max(frozen - whole, 0.0)
    buffers = 2 * min(BUCKET, trainable_parameters) if zero_stage in (1, 2) and gpus > 1 else 0.0
    if zero_stage == 3:
        buffers = 2 * (min(LIVE_PARAMETERS, total) + min(BUCKET, trainable_parameters))
        parameters = 0.0 if offload_parameters else parameters / gpus
    # Offloading the optimizer moves each GPU's share of the gradients to the host with it at stage 3.
    gradients = gradient_bytes * trainable_parameters / (gpus if zero_stage >= 2 else 1)
    return MemoryEstimate(
        parameters=parameters,
        gradients=0.0 if offload_optimizer and zero_stage == 3 else gradients,
        optimizer=0.0 if offload_optimizer else 12 * trainable_parameters / (gpus if zero_stage >= 1 else 1),
        buffers=buffers,
        activations=_language(sizes, peak_tokens, checkpointing, train_language, adapter)
        + _tower(sizes, peak_images, checkpointing, train_vision),
        logits=LOGIT_BYTES * learnt * peak_tokens * sizes.vocabulary,
    )


def _language(sizes: ModelSizes, tokens: int, share: float, trains: bool, adapter: Adapter | None) -> float:
    """Bytes of activations of the language model, counted as Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1)
    count them, for the layers of transformers' Llama with fused attention, in bf16.

    Every layer keeps per token, whatever trains: both norms' inputs in float32 (8 h), queries and the attention's
    output (4 h), keys and values (4 kv), and gate, its activation and up (6 i). Matrices that train keep their inputs:
    both norms' outputs and what those are scaled from (8 h), and the product of the feed-forward (2 i). An adapter
    keeps, for each of a layer's seven matrices, its input after dropout with the mask, and the product of rank r.

    A checkpointed layer keeps its input (2 h), and one at a time is computed again.
    """
    wide, inner = sizes.hidden_size, sizes.intermediate_size
    layer = 12.0 * wide + 4 * sizes.key_value_size + 6 * inner
    if trains:
        layer += 8 * wide + 2 * inner
    elif adapter is not None:
        inputs = 6 * wide + inner  # of seven matrices
        kept = 3 * inputs if adapter.dropout else 6 * wide + 2 * inner  # without dropout q, k, v share theirs
        layer += kept + 14 * adapter.rank
    again = math.ceil(share * sizes.layers)
    return tokens * (2.0 * wide * again + layer * max(sizes.layers - again, 1))


def _tower(sizes: ModelSizes, images: int, share: float, trains: bool) -> float:
    """Bytes of activations of tower and projector, which process every tile whole.

    The tower keeps 34 h per token and layer (Korthikanti et al. 2022), in all layers where it trains and in one where
    it does not, and the output of each. The projector keeps its input, the input and output of its activation, and its
    output.
    """
    features = images * sizes.tokens_per_image
    again = math.ceil(share * sizes.vision_layers) if trains else sizes.vision_layers
    tower = sizes.vision_hidden_size * (2.0 * sizes.vision_layers + 34.0 * max(sizes.vision_layers - again, 1))
    return features * (tower + 2.0 * (sizes.vision_hidden_size + 3 * sizes.hidden_size))
