"""How much ZeRO-3 gathers at a time, from the language model's sizes; a pure function of its configuration."""

from __future__ import annotations

from typing import Any

LAYERS_HELD = 3
"""The layer that computes, the one that is being gathered, and the one that is being released."""


def zero3_settings(text: dict[str, Any]) -> dict[str, int]:
    """DeepSpeed's sizes for ZeRO-3, in elements (docs/_pages/config-json.md, "ZeRO Optimizations"). `text`: the
    language model's configuration.

    - `stage3_prefetch_bucket_size`, "the size of the fixed buffer for prefetching parameters": one decoder layer (202M
      at 7B, 0.4 GB in 16 bits), so that all of the next one is on its way while one computes. What transformers fills
      in for "auto" (0.9 width^2, 15M) is a third of a single matrix (45M): nothing larger is ever fetched ahead.
    - `stage3_max_live_parameters`, "the maximum number of parameters resident per GPU before releasing": LAYERS_HELD
      layers and both vocabulary tables, which lie outside the layers (1.7 GB at 7B; DeepSpeed's default is 2 GB, and at
      70B less than what prefetching one layer needs).
    - `stage3_max_reuse_distance`, "do not release a parameter if it will be reused within this threshold": one layer.
      Held longer, the last layers would stay on the GPU while the backward pass needs the most memory.
    - `stage3_param_persistence_threshold`, "do not partition parameters smaller than this": 10 widths, which norms and
      biases are below, and no matrix of a layer is.
    - `reduce_bucket_size`, elements reduced at a time: the largest matrix of a layer, in float32 (0.18 GB at 7B).
    """
    width = int(text["hidden_size"])
    largest = width * int(text.get("intermediate_size", 4 * width))
    layer = layer_parameters(text)
    tables = 2 * width * int(text.get("vocab_size", 32000))
    return {
        "stage3_prefetch_bucket_size": layer,
        "stage3_max_live_parameters": LAYERS_HELD * layer + tables,
        "stage3_max_reuse_distance": layer,
        "stage3_param_persistence_threshold": 10 * width,
        "reduce_bucket_size": largest,
    }


def layer_parameters(text: dict[str, Any]) -> int:
    """Elements of one decoder layer's matrices: four of the attention, three of a gated feed-forward."""
    width, heads = int(text["hidden_size"]), int(text.get("num_attention_heads", 32))
    head = int(text.get("head_dim") or width // heads)
    shared = int(text.get("num_key_value_heads") or heads)
    attention = 2 * width * head * (heads + shared)
    return attention + 3 * width * int(text.get("intermediate_size", 4 * width))
