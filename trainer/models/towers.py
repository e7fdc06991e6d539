"""The supported vision towers: a table of all their differences.

A row here and a folder in the tests are all that a new tower of transformers needs (docs/training.md, "Add a tower").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from schemas.config import nearest
from schemas.errors import InputError

Triple = tuple[float, float, float]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel means and standard deviations of CLIP's pictures (Radford et al. 2021, github.com/openai/CLIP, clip.py)."""

HALF = (0.5, 0.5, 0.5)
"""SigLIP's (Zhai et al. 2023, google-research/big_vision)."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""DINOv2's (Oquab et al. 2023)."""


@dataclass(frozen=True)
class Tower:
    """A kind of vision tower, by its configuration's `model_type` in transformers.

    Where it is:
    whole: model_type of the two-sided model that holds it as `vision_config`, and `beside`: what else is in its file.
    layers: where its transformer layers are within the tower. on_disk: where its weights are within a LLaVA's
        `vision_tower.` on disk. renamed: parts of names in transformers -> on disk, where these differ. gates: parts of
        the names of two tensors that are one on disk, and its name there.

    What it takes:
    class_tokens: tokens in front of the patches. A configuration's `num_register_tokens` come on top.
    any_size: positions are interpolated, so that it takes any whole number of patches.
    mean, std: per channel, of pixels in 0..1, where a folder does not say.

    What it consists of beside layers of attention and two matrices, for counting (models/sizes.py):
    patch_bias, outer_norms, layer_scale, mask_token, head: a bias of the patches' projection, the norms outside the
        layers, a factor per channel after both halves of a layer, an embedding for masked patches, a pooling head.
    after: parts of names of the parameters after the last layer, and of those that only its own training uses.
    cut: layers at the end, and the head, that LLaVA-NeXT's code deletes; it then takes the output of what is left,
        whatever `mm_vision_select_layer` says (llava/model/multimodal_encoder).
    """

    model_type: str
    name: str
    whole: str | None = None
    beside: tuple[str, ...] = ()
    layers: str = "encoder.layers"
    on_disk: str = ""
    renamed: tuple[tuple[str, str], ...] = ()
    gates: tuple[str, str, str] | None = None
    class_tokens: int = 0
    any_size: bool = False
    mean: Triple = HALF
    std: Triple = HALF
    patch_bias: bool = True
    outer_norms: int = 1
    layer_scale: bool = False
    mask_token: bool = False
    head: bool = False
    after: tuple[str, ...] = ("post_layernorm",)
    cut: int = 0

    def tokens(self, config: Mapping[str, Any]) -> int:
        """Tokens beside the patches of a tower with this configuration."""
        return self.class_tokens + int(config.get("num_register_tokens") or 0)

    def fits(self, sizes: tuple[int, int], image_size: int, patch_size: int) -> bool:
        """Whether a tower of (image_size, patch_size) `sizes` reads pictures of `image_size` in such patches."""
        if sizes[1] != patch_size:
            return False
        return sizes[0] == image_size or (self.any_size and image_size % patch_size == 0)

    def layer_of(self, parameter: str) -> int | None:
        """The number of the layer that a parameter belongs to, from its name."""
        found = re.search(rf"\.{re.escape(self.layers)}\.(\d+)\.", parameter)
        return int(found[1]) if found else None

    def reaches(self, parameter: str, read: int) -> bool:
        """Whether a parameter of the tower has a part in the output of its layer number `read` (0: the embeddings)."""
        layer = self.layer_of(parameter)
        return not any(part in parameter for part in self.after) and (layer is None or layer < read)

    def disk_name(self, name: str) -> str:
        """The name in a LLaVA folder of the tower's parameter `name`, as transformers calls it within the tower."""
        name = name.removeprefix("vision_model.")
        for inside, outside in self.renamed:
            name = name.replace(inside, outside)
        return f"vision_tower.{self.on_disk}{name}"

    def holds(self, name: str) -> bool:
        """Whether a tensor in a folder of the tower, or of the two-sided model around it, is the tower's."""
        return not name.startswith(self.beside) and "position_ids" not in name


_TWO_SIDED = ("text_model", "text_projection", "visual_projection", "logit_scale", "logit_bias")
_DINOV2 = Tower(
    "dinov2",
    "DINOv2",
    layers="encoder.layer",
    renamed=(
        (".attention.q_proj.", ".attention.attention.query."),
        (".attention.k_proj.", ".attention.attention.key."),
        (".attention.v_proj.", ".attention.attention.value."),
        (".attention.o_proj.", ".attention.output.dense."),
        (".mlp.down_proj.", ".mlp.weights_out."),
    ),
    gates=(".mlp.gate_proj.", ".mlp.up_proj.", ".mlp.weights_in."),
    class_tokens=1,
    any_size=True,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    layer_scale=True,
    mask_token=True,
    after=("vision_tower.layernorm.", "mask_token"),
)

_ROWS = (
    Tower(
        "clip_vision_model",
        "CLIP",
        whole="clip",
        beside=_TWO_SIDED,
        on_disk="vision_model.",
        class_tokens=1,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        patch_bias=False,
        outer_norms=2,
    ),
    # SigLIP2's checkpoints of a fixed resolution are of this type too: only their weights differ.
    Tower(
        "siglip_vision_model",
        "SigLIP or SigLIP2",
        whole="siglip",
        beside=_TWO_SIDED,
        on_disk="vision_model.",
        head=True,
        after=("post_layernorm", ".head."),
        cut=1,
    ),
    _DINOV2,
    replace(_DINOV2, model_type="dinov2_with_registers", name="DINOv2 with registers"),
)
TOWERS: dict[str, Tower] = {row.model_type: row for row in _ROWS}
NAMES = "CLIP, SigLIP, SigLIP2 or DINOv2"
REFUSED = {
    "siglip2": "a SigLIP2 of the NaFlex kind, whose pictures have any shape, which transformers' LLaVA classes cannot "
    "give it",
}
REFUSED["siglip2_vision_model"] = REFUSED["siglip2"]
"""Towers that are known and cannot be used, and why."""


def tower_of(model_type: Any, where: str) -> Tower:
    """The row of a configuration's `model_type`; raises InputError, which begins with `where`, for an unknown one."""
    if model_type in TOWERS:
        return TOWERS[model_type]
    if model_type in REFUSED:
        raise InputError(
            f"{where}: {REFUSED[model_type]}. Give a SigLIP2 of a fixed resolution, such as siglip2-so400m-patch14-384."
        )
    raise InputError(
        f"{where}: a {model_type!r} tower is not in trainer/models/towers.py. {nearest(str(model_type), list(TOWERS))} "
        f"Give a {NAMES} folder, or add a row for it (docs/training.md)."
    )


def vision_part(config: dict[str, Any], where: str) -> tuple[Tower, dict[str, Any]]:
    """(row, configuration) of the tower that a folder's config.json describes by itself, or as one side of a model.

    Raises InputError for anything that is not a tower of the table.
    """
    for tower in TOWERS.values():
        if config.get("model_type") == tower.whole:
            return tower, {"model_type": tower.model_type, **config.get("vision_config", {})}
    if config.get("model_type") not in REFUSED and ("text_config" in config or "vocab_size" in config):
        raise InputError(f"{where}: a {config.get('model_type')!r} model is not a vision tower. Give a {NAMES} folder.")
    return tower_of(config.get("model_type"), where), config
