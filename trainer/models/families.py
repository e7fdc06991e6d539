"""The model families of transformers that can be trained: a table of all their differences.

A mix's image rule decides the family: the same rule never fits two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from schemas.chat import ImageRule
from schemas.errors import InputError

BICUBIC = 3
"""PIL's number of the bicubic filter."""

UNPAD_DIGITS = 7
"""Decimals that transformers rounds to before it removes padding (modeling_llava_next.py, unpad_image)."""


@dataclass(frozen=True)
class Family:
    """A kind of LLaVA, by its configuration's `model_type` in transformers.

    model_class, processor: transformers' names. pictures: its class that prepares pictures, by image mode: the modes
    that the family can do. usual: a rule's fields in words, for messages.
    merges: how it combines the features of tiles. shrinks: feature maps above a number of tiles are shrunk
    (`max_tiles`), and the pictures of a row with several are not cut.
    newline: it has `image_newline`, the embedding that ends a line of patches. tiled: its `pixel_values` have a
    dimension of tiles, and it takes `image_sizes`. counts: it takes the number of pictures of each row
    (`batch_num_images`).
    select_layer, select: what a config.json that does not say means.
    """

    model_type: str
    model_class: str
    processor: str
    pictures: dict[str, str]
    usual: str
    merges: tuple[str, ...] = ()
    shrinks: bool = False
    newline: bool = False
    tiled: bool = False
    counts: bool = False
    select_layer: int = -2
    select: str = "default"

    @property
    def modes(self) -> tuple[str, ...]:
        return tuple(self.pictures)

    def mismatch(self, rule: ImageRule) -> str | None:
        """What of a rule the family cannot do, and what would fit; None if it can do all."""
        if rule.mode not in self.modes:
            return f"mode {rule.mode!r}; a {self.model_type} model has {' or '.join(self.modes)}"
        if not self.tiled:
            return f"max_tiles {rule.max_tiles}; with mode {rule.mode!r} leave it out" if rule.max_tiles else None
        most = "needs one, such as 9" if self.shrinks else "has none (null)"
        checks = (
            (rule.merge not in self.merges, "merge", f"a {self.model_type} model has {' or '.join(self.merges)}"),
            ((rule.max_tiles is not None) != self.shrinks, "max_tiles", f"a {self.model_type} model {most}"),
            (rule.unpad_digits != UNPAD_DIGITS, "unpad_digits", f"transformers' classes have {UNPAD_DIGITS}"),
            (rule.select == "full" and rule.class_token, "select", "tiles have no class token: set it to 'patch'"),
        )
        return next((f"{name} {getattr(rule, name)!r}; {remedy}" for wrong, name, remedy in checks if wrong), None)

    def rule(self, config: dict[str, Any], whole: ImageRule) -> ImageRule:
        """The image rule that a config.json implies; `whole`: that of one tile of its tower.

        Hugging Face writes pinpoints as (height, width), LLaVA and we as (width, height).
        """
        if not self.tiled:
            return whole
        pinpoints = tuple((width, height) for height, width in config.get("image_grid_pinpoints") or ())
        most = str(config.get("vision_aspect_ratio") or "anyres_max_9").removeprefix("anyres_max_")
        most_tiles = int(most) if self.shrinks else None
        return replace(whole, mode=self.modes[0], pinpoints=pinpoints, max_tiles=most_tiles)

    def settings(self, rule: ImageRule) -> dict[str, Any]:
        """What config.json holds of a rule, beside what all families have in it."""
        found: dict[str, Any] = {}
        if self.tiled:
            found["image_grid_pinpoints"] = [[height, width] for width, height in rule.pinpoints]
        if self.shrinks:
            # No token denotes a video: rows hold none.
            return found | {"vision_aspect_ratio": f"anyres_max_{rule.max_tiles}", "video_token_index": -1}
        return found | {"image_seq_length": rule.side**2 + (rule.class_token if rule.select == "full" else 0)}

    def preparation(self, rule: ImageRule) -> dict[str, Any]:
        """preprocessor_config.json without its colours: how transformers turns a picture into the pixels of `rule`."""
        side = {"height": rule.image_size, "width": rule.image_size}
        found: dict[str, Any] = {
            "processor_class": self.processor,
            "image_processor_type": self.pictures[rule.mode],
            "do_convert_rgb": True,
            "do_resize": True,
            "resample": BICUBIC,
            "size": {"shortest_edge": rule.image_size},
            "do_center_crop": True,
            "crop_size": side,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
        }
        if self.shrinks:
            found |= {"size": side, "do_center_crop": False}
            del found["crop_size"]
        if rule.mode == "pad" or self.tiled:
            found["do_pad"] = True
        return found | {name: value for name, value in self.settings(rule).items() if "pinpoints" in name}

    def prompting(self, rule: ImageRule) -> dict[str, Any]:
        """processor_config.json: what transformers counts a picture's tokens by."""
        found: dict[str, Any] = {"processor_class": self.processor, "image_token": "<image>"}
        if self.shrinks:
            tokens = rule.side**2 + rule.class_token
            ratio = f"anyres_max_{rule.max_tiles}"
            return found | {"video_token": "<video>", "num_image_tokens": tokens, "vision_aspect_ratio": ratio}
        return found | {"patch_size": rule.patch_size, "num_additional_image_tokens": rule.class_token}


_ROWS = (
    Family(
        "llava",
        "LlavaForConditionalGeneration",
        "LlavaProcessor",
        {"square": "CLIPImageProcessor", "pad": "LlavaImageProcessor"},
        "`mode: pad` or `mode: square`",
    ),
    Family(
        "llava_next",
        "LlavaNextForConditionalGeneration",
        "LlavaNextProcessor",
        {"anyres": "LlavaNextImageProcessor"},
        "`mode: anyres`",
        merges=("spatial_unpad",),
        newline=True,
        tiled=True,
    ),
    Family(
        "llava_onevision",
        "LlavaOnevisionForConditionalGeneration",
        "LlavaOnevisionProcessor",
        {"anyres": "LlavaOnevisionImageProcessor"},
        "`mode: anyres` with `max_tiles`",
        merges=("spatial_unpad",),
        shrinks=True,
        newline=True,
        tiled=True,
        counts=True,
        select_layer=-1,
        select="full",
    ),
)
FAMILIES: dict[str, Family] = {row.model_type: row for row in _ROWS}


def family_of(rule: ImageRule, where: str = "image rule") -> Family:
    """The family whose models are made of a rule; raises InputError, which begins with `where`, if none can be."""
    able = [family for family in FAMILIES.values() if rule.mode in family.modes]
    fitting = [family for family in able if family.mismatch(rule) is None]
    if fitting:
        return fitting[0]
    # Rules that differ in max_tiles alone are for different families.
    near = next((family for family in able if family.shrinks == (rule.max_tiles is not None)), able[0])
    raise InputError(f"{where}: image {near.mismatch(rule)}. Change `image` in the mix's recipe and make it again.")
