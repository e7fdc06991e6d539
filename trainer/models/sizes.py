"""Parameter counts of language model, tower and projector, from configurations. Needs no torch.

The one place where parameters are counted for the cost model, the MFU and the memory estimate. Language models are
counted exactly for the types in DECODERS, and as a Llama of the same sizes otherwise; towers of the table exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.models.folder import ModelFolder
from trainer.models.towers import Tower

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Count:
    """total: all parameters. products: those of the matrices that every token (of a tower: every patch) is multiplied
    with, two operations each; tables of embeddings are only looked up, and norms and biases cost next to nothing."""

    total: int
    products: int


@dataclass(frozen=True)
class Decoder:
    """What a type of language model has beside Llama's matrices.

    gated: three matrices in a feed-forward, otherwise two. norms: per layer. norm_size: numbers per norm, 2 where it
    has a bias. qkv_bias, out_bias, mlp_bias: True, or the key of the configuration that says so. head_norms: of queries
    and keys, per layer.
    """

    gated: bool = True
    norms: int = 2
    norm_size: int = 1
    qkv_bias: bool | str = False
    out_bias: bool | str = False
    mlp_bias: bool | str = False
    head_norms: bool = False


_LLAMA = Decoder(qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias")
DECODERS: dict[str, Decoder] = {
    "llama": _LLAMA,
    "mistral": Decoder(),
    "phi3": Decoder(),
    "qwen2": Decoder(qkv_bias=True),
    "qwen3": Decoder(qkv_bias="attention_bias", out_bias="attention_bias", head_norms=True),
    "gemma": Decoder(qkv_bias="attention_bias", out_bias="attention_bias"),
    "gemma2": Decoder(norms=4, qkv_bias="attention_bias", out_bias="attention_bias"),
    "starcoder2": Decoder(gated=False, norm_size=2, qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias"),
}
"""By model_type (transformers, modeling_*.py of each)."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a language model; transformers' defaults (Llama-2-7B) for what a configuration leaves out.

    width: of the hidden state. inner: of the feed-forward. queries, keys: of all heads together. head: of one.
    """

    width: int
    inner: int
    queries: int
    keys: int
    head: int
    layers: int
    vocabulary: int

    @classmethod
    def of(cls, text: Config) -> Shape:
        width, heads = int(text.get("hidden_size", 4096)), int(text.get("num_attention_heads", 32))
        head = int(text.get("head_dim") or width // heads)
        return cls(
            width=width,
            inner=int(text.get("intermediate_size", 11008)),
            queries=heads * head,
            keys=int(text.get("num_key_value_heads") or heads) * head,
            head=head,
            layers=int(text.get("num_hidden_layers", 32)),
            vocabulary=int(text.get("vocab_size", 32000)),
        )


def language_count(text: Config, tied: bool | None = None) -> Count:
    """A language model's, from its configuration; tied: whether its output table is that of its embeddings, by default
    what the configuration says."""
    kind, shape = DECODERS.get(str(text.get("model_type", "llama")), _LLAMA), Shape.of(text)
    tied = bool(text.get("tie_word_embeddings")) if tied is None else tied
    matrices = 2 * shape.width * (shape.queries + shape.keys) + (3 if kind.gated else 2) * shape.width * shape.inner
    norm = kind.norm_size * shape.width
    beside = kind.norms * norm + (2 * shape.head if kind.head_norms else 0)
    beside += _says(text, kind.qkv_bias) * (shape.queries + 2 * shape.keys) + _says(text, kind.out_bias) * shape.width
    beside += _says(text, kind.mlp_bias) * (shape.width + (2 if kind.gated else 1) * shape.inner)
    table = shape.width * shape.vocabulary
    total = shape.layers * (matrices + beside) + norm + table * (1 if tied else 2)
    return Count(total, shape.layers * matrices + table)


def adapter_count(text: Config, rank: int) -> int:
    """Weights of LoRA pairs on the matrices of each decoder layer: rank * (inputs + outputs) each."""
    kind, shape = DECODERS.get(str(text.get("model_type", "llama")), _LLAMA), Shape.of(text)
    attention = 2 * (shape.width + shape.queries) + 2 * (shape.width + shape.keys)
    return rank * shape.layers * (attention + (3 if kind.gated else 2) * (shape.width + shape.inner))


def tower_count(tower: Tower, vision: Config) -> Count:
    """A vision tower's; defaults for what a configuration leaves out are those of CLIP's base size."""
    width, layers = int(vision.get("hidden_size", 768)), int(vision.get("num_hidden_layers", 12))
    patch, image = int(vision.get("patch_size", 32)), int(vision.get("image_size", 224))
    inner, gated = _inner(vision, width)
    matrices = 4 * width**2 + (3 if gated else 2) * width * inner
    beside = (4 if vision.get("qkv_bias", True) else 1) * width + (2 if gated else 1) * inner + width  # biases
    beside += 4 * width + (2 * width if tower.layer_scale else 0)
    projection = int(vision.get("num_channels", 3)) * patch**2 * width
    positions = ((image // patch) ** 2 + tower.class_tokens) * width
    total = layers * (matrices + beside) + projection + tower.patch_bias * width + positions
    total += tower.tokens(vision) * width + 2 * tower.outer_norms * width
    total += width if tower.mask_token and vision.get("use_mask_token", True) else 0
    if tower.head and vision.get("vision_use_head", True):
        total += width + matrices + 4 * width + (inner + width) + 2 * width  # probe, attention, feed-forward, norm
    return Count(total, layers * matrices)


def projector_count(folder: ModelFolder) -> Count:
    """The projector's: two matrices, or one where it is linear, whose second layer stays the identity."""
    tower, width = int(folder.vision.get("hidden_size", 768)), Shape.of(folder.text).width
    first, second = tower * width, width * width
    linear = folder.config.get("projector_hidden_act") == "linear"
    return Count(first + second + 2 * width, first + (0 if linear else second))


def is_tied(folder: ModelFolder) -> bool:
    """Whether the output table is that of the embeddings."""
    return bool(folder.text.get("tie_word_embeddings") or folder.config.get("tie_word_embeddings"))


def model_count(folder: ModelFolder) -> Count:
    """All of a LLaVA's; products of language model, tower and projector together."""
    parts = (
        language_count(folder.text, is_tied(folder)),
        tower_count(folder.tower, folder.vision),
        projector_count(folder),
    )
    newline = Shape.of(folder.text).width if folder.family.newline else 0
    return Count(sum(part.total for part in parts) + newline, sum(part.products for part in parts))


def _inner(vision: Config, width: int) -> tuple[int, bool]:
    """(width of a tower's feed-forward, whether it is gated). DINOv2 has a ratio, and its giant is gated with two
    thirds of it, rounded up to eights (transformers, modeling_dinov2.py)."""
    if vision.get("intermediate_size"):
        return int(vision["intermediate_size"]), False
    inner, gated = int(width * vision.get("mlp_ratio", 4)), bool(vision.get("use_swiglu_ffn"))
    return (((int(inner * 2 / 3) + 7) // 8 * 8) if gated else inner), gated


def _says(config: Config, what: bool | str) -> bool:
    return what if isinstance(what, bool) else bool(config.get(what, what == "use_bias"))
