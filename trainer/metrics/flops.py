"""Model FLOPs utilisation: the operations a model needs for its useful tokens, and a GPU's peak."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.inputs.schedule import language_parameters, projector_parameters, transformer_parameters
from trainer.models.folder import ModelFolder
from trainer.stages import Stage

PEAKS: tuple[tuple[str, float], ...] = (
    ("B200", 2250.0),
    ("GH200", 989.4),
    ("H200 NVL", 835.5),
    ("H200", 989.4),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.5),
    ("H100", 989.4),
    ("H800", 989.4),
    ("H20", 148.0),
    ("A100", 312.0),
    ("A800", 312.0),
    ("A10G", 70.0),
    ("A10", 125.0),
    ("A40", 149.7),
    ("RTX A6000", 154.8),
    ("L40S", 362.05),
    ("L40", 181.05),
    ("L4", 121.0),
    ("RTX 6000 Ada", 364.2),
    ("RTX 5090", 209.5),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71.0),
    ("MI250X", 191.5),  # one of its two dies, each of which is a device
    ("MI300X", 1307.4),
    ("MI325X", 1307.4),
)
"""Dense bf16 TFLOP/s by words of the device's name; the first match counts. From vendors' data sheets and architecture
papers (Nvidia: half of the figure "with sparsity"; GeForce: with float32 accumulation); `peak_tflops` overrides it."""


@dataclass(frozen=True)
class ModelFlops:
    """Operations of training on a row: per token, per token squared (attention), and per tile (vision tower)."""

    token: float
    token_squared: float
    tile: float

    def of(self, lengths: np.ndarray, tiles: np.ndarray) -> float:
        """Operations for rows of `lengths` tokens and `tiles` tiles, without padding; both (N,)."""
        lengths = lengths.astype(np.float64)
        return float(self.token * lengths.sum() + self.token_squared * (lengths**2).sum() + self.tile * tiles.sum())


def model_flops(folder: ModelFolder, stage: Stage, adapter_rank: int = 0) -> ModelFlops:
    """The operations that a folder's model needs in a stage, without recomputation and padding.

    For what trains: 6N per token and 12 * layers * width * length per token for attention (Chowdhery et al. 2022, arXiv
    2204.02311, appendix B; as there, the masked half of the scores counts). Of the three thirds, forward always counts,
    the gradient of the activations where the module or one before it trains, and the gradient of the weights where the
    module itself trains. The output table counts at every token, as there; logits are computed only where something is
    learnt, so MFU is at most 2% too high for a 7B model.
    """
    text, vision, rule = folder.text, folder.config["vision_config"], folder.rule
    width, layers = int(text.get("hidden_size", 4096)), int(text.get("num_hidden_layers", 32))
    inside = int(text.get("head_dim") or width // int(text.get("num_attention_heads", 32)))
    inside *= int(text.get("num_attention_heads", 32))
    tower, projector, llm = (module in stage.trains for module in ("tower", "projector", "llm"))
    through = tower or projector or llm or stage.adapter
    decoder = (2 + 2 * through + 2 * llm) * language_parameters(text)
    decoder += 6 * adapter_parameters(text, adapter_rank) if stage.adapter else 0.0
    attention = (4 + 8 * through) * layers * inside
    side = int(vision.get("hidden_size", 768))
    patches = rule.side**2 + rule.class_token
    encoder = transformer_parameters(side, vision.get("intermediate_size"), vision) * 2
    encoder += 4 * int(vision.get("num_hidden_layers", 12)) * side * patches
    bridge = projector_parameters(folder)
    backward = bridge if tower else projector * (bridge - side * width)  # a frozen tower's output needs no gradient
    bridge = (2 + 2 * projector) * bridge + 2 * backward
    return ModelFlops(decoder, attention, patches * (encoder * (3 if tower else 1) + bridge))


def adapter_parameters(text: dict[str, Any], rank: int) -> float:
    """Weights of LoRA pairs on the seven matrices of each decoder layer: rank * (inputs + outputs) each."""
    width, inner = int(text.get("hidden_size", 4096)), int(text.get("intermediate_size", 11008))
    heads = int(text.get("num_attention_heads", 32))
    head = int(text.get("head_dim") or width // heads)
    shared = int(text.get("num_key_value_heads") or heads)
    attention = 2 * (width + heads * head) + 2 * (width + shared * head)
    return float(rank * (attention + 3 * (width + inner)) * int(text.get("num_hidden_layers", 32)))


def peak_flops(recipe_peak: float | None, precision: str, device: str | None) -> float | None:
    """Operations per second of one device that MFU is relative to; None if unknown.

    recipe_peak: `peak_tflops` of the recipe, which takes precedence. device: the GPU's name, None on a CPU. The table
    is for bf16.
    """
    if recipe_peak is not None:
        return recipe_peak * 1e12
    if device is None or precision != "bf16":
        return None
    return next((peak * 1e12 for name, peak in PEAKS if re.search(rf"\b{name}\b", device)), None)
