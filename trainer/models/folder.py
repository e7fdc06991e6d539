"""A LLaVA checkpoint folder, read without torch: what has to agree with a mix before any process is started."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from schemas.chat import ImageRule, Tokenizer, load_tokenizer
from schemas.errors import InputError
from schemas.modelfolder import check_config, read_json, weight_files
from trainer.models.families import FAMILIES, Family
from trainer.models.towers import Tower, Triple, tower_of

SIDECAR = "lavabeam.json"
"""Our own file in a checkpoint: the template and the image rule that it was trained with."""

USUAL_TOWER, USUAL_LLM = "clip_vision_model", "llama"
"""What a vision_config and a text_config without a model_type are (transformers, configuration_llava.py)."""

_OF_BOTH = ("hidden_size", "num_attention_heads", "num_hidden_layers")
_OF_TEXT = (*_OF_BOTH, "intermediate_size", "num_key_value_heads", "vocab_size", "max_position_embeddings")
SIZES = {"text_config": (USUAL_LLM, _OF_TEXT), "vision_config": (USUAL_TOWER, (*_OF_BOTH, "image_size", "patch_size"))}
"""What has to be known of each part of a configuration."""


@dataclass(frozen=True)
class ModelFolder:
    """`config`: config.json. `rule`: how pictures become tokens. `mean`, `std`: per channel, of pixels in 0..1."""

    path: Path
    config: dict[str, Any] = field(repr=False)
    rule: ImageRule
    mean: Triple
    std: Triple
    template: str | None = None

    @classmethod
    def open(cls, path: str | Path) -> ModelFolder:
        """Read a llava-hf folder; raises InputError for anything else, or when its tokenizer or weights are missing."""
        path = Path(path)
        if not path.is_dir():
            raise InputError(f"{path}: no such folder. Give the folder of a LLaVA checkpoint (it holds config.json).")
        if any((folder / "adapter_config.json").is_file() for folder in (path, path / "adapter")):
            raise InputError(f"{path}: holds only a LoRA adapter. Merge it first: lavabeam merge {path} OUTPUT.")
        config = read_json(path / "config.json")
        check_config(path / "config.json", config)
        if "mm_vision_tower" in config and "vision_config" not in config:
            raise InputError(
                f"{path}: a checkpoint of the original LLaVA code, with {config['mm_vision_tower']!r} as its tower. "
                f"Convert it first: lavabeam import-checkpoint {path} OUTPUT --tower TOWER --template TEMPLATE."
            )
        if config.get("model_type") not in FAMILIES:
            raise InputError(
                f"{path}: config.json says model_type {config.get('model_type')!r}; expected one of "
                f"{', '.join(FAMILIES)}. To join a tower and a language model, give `tower` and `llm` instead."
            )
        weight_files(path)
        config = completed(config, path)
        sidecar = read_json(path / SIDECAR) if (path / SIDECAR).is_file() else {}
        pictures = preprocessor(path)
        try:
            if not all(isinstance(config[part], dict) for part in ("text_config", "vision_config")):
                raise TypeError("text_config and vision_config have to be objects")
            tower = tower_of(config["vision_config"].get("model_type", USUAL_TOWER), str(path))
            rule = ImageRule.from_dict(sidecar["image"]) if sidecar.get("image") else derived_rule(config, tower)
            mean, std = colours(pictures, tower)
            made = cls(path, config, rule, mean, std, sidecar.get("template"))
            _ = made.positions, made.image_id
            _check_layer(path, config)
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{path}: its configuration is not that of a LLaVA ({type(error).__name__}: {str(error)[:200]}). Fetch "
                "config.json, preprocessor_config.json and lavabeam.json again."
            ) from error
        if (found := made.family.mismatch(rule)) is not None:
            raise InputError(f"{path}: its image rule is not one of its config.json's model: image {found}.")
        return made

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.path)

    @property
    def family(self) -> Family:
        return FAMILIES[self.config["model_type"]]

    @property
    def tower(self) -> Tower:
        return tower_of(self.vision.get("model_type", USUAL_TOWER), str(self.path))

    @property
    def model_class(self) -> str:
        return self.family.model_class

    @property
    def image_id(self) -> int:
        """The id of the image token."""
        found = self.config.get("image_token_id", self.config.get("image_token_index"))
        if found is None:
            raise InputError(f"{self.path}: config.json has no image_token_index, the id of the <image> token.")
        return int(found)

    def check_image_token(self) -> None:
        """Raises InputError unless config.json and the tokenizer mean the same token by <image>."""
        known = self.tokenizer.token_id("<image>")
        if known is None or known != self.image_id:
            raise InputError(
                f"{self.path}: config.json has image token {self.image_id}, and the tokenizer's <image> is "
                f"{'missing' if known is None else known}. Assemble the checkpoint again from its tower and llm."
            )

    @property
    def positions(self) -> int:
        """The longest sequence that the language model has positions for."""
        return known_positions(self.text)

    def longest(self, max_length: int | None) -> int:
        """The most tokens that a row may have: `max_length`, but never more than the model has positions for."""
        return min(max_length or self.positions, self.positions)

    @property
    def text(self) -> dict[str, Any]:
        return self.config["text_config"]

    @property
    def vision(self) -> dict[str, Any]:
        return self.config["vision_config"]

    def with_training(self, rule: ImageRule, template: str) -> ModelFolder:
        """The same folder, used with the rule and template of a mix."""
        return replace(self, rule=rule, template=template)


def completed(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """A llava-hf config.json with the sizes that it leaves out because they are their classes' defaults, which differ:
    a Qwen2 without max_position_embeddings has 32,768, a Llama 2,048."""
    filled = dict(config)
    for part, (usual, sizes) in SIZES.items():
        inner = config.get(part)
        if not isinstance(inner, dict) or all(name in inner for name in sizes):
            continue
        from transformers import CONFIG_MAPPING

        kind = str(inner.get("model_type", usual))
        if kind not in CONFIG_MAPPING:
            continue
        # Nothing that a class would make a list of as long as it says.
        known = {name: inner[name] for name in ("hidden_size", "num_attention_heads", "head_dim") if name in inner}
        try:
            whole = CONFIG_MAPPING[kind](**known).to_dict()
        except Exception as error:  # whatever a configuration's class meets in values that are not its own
            words = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path}: {part} of config.json is not that of a {kind} ({words}). Fetch it again."
            ) from error
        missing = {name: whole[name] for name in (*sizes, "head_dim") if name not in inner and whole.get(name)}
        filled[part] = {**inner, **missing}
    return filled


def _check_layer(path: Path, config: dict[str, Any]) -> None:
    """Raise InputError for a layer of the tower that it does not have: 0 is its embeddings, -1 its last layer."""
    usual = FAMILIES[config["model_type"]].select_layer
    chosen, most = config.get("vision_feature_layer", usual), config["vision_config"].get("num_hidden_layers")
    for layer in chosen if isinstance(chosen, list) else [chosen]:
        if most is not None and not -int(most) - 1 <= int(layer) <= int(most):
            raise InputError(
                f"{path}: config.json takes vision_feature_layer {layer} of a tower with {most} layers; expected "
                f"{-int(most) - 1} to {most}. Fetch config.json again."
            )


def known_positions(text: dict[str, Any]) -> int:
    """The longest sequence that a language model's configuration has positions for.

    Linear and dynamic scaling, and YaRN with its original length given, extend rotary positions beyond
    max_position_embeddings (transformers, modeling_rope_utils.py).
    """
    most = int(text.get("max_position_embeddings", 2048))
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    kind, first = rope.get("rope_type", rope.get("type")), rope.get("original_max_position_embeddings")
    if kind not in ("linear", "dynamic", "yarn") or (kind == "yarn" and first is None):
        return most
    return max(most, int((first or most) * float(rope.get("factor") or 1)))


def derived_rule(config: dict[str, Any], tower: Tower) -> ImageRule:
    """The image rule that a llava-hf config.json implies."""
    vision, family = config["vision_config"], FAMILIES[config["model_type"]]
    select = config.get("vision_feature_select_strategy", family.select)
    # transformers' own defaults for what a config.json leaves out (CLIP: ViT-B/32 at 224).
    whole = ImageRule(
        mode="square",
        image_size=int(vision.get("image_size", 224)),
        patch_size=int(vision.get("patch_size", 32)),
        select="patch" if select == "default" else "full",
        class_token=tower.tokens(vision),
    )
    return family.rule(config, whole)


def write_sidecar(folder: Path, rule: ImageRule, template: str | None, origin: dict[str, Any]) -> None:
    """Record beside the weights how to prompt this checkpoint and where it came from."""
    content = {"template": template, "image": rule.to_dict(), **origin}
    (folder / SIDECAR).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def colours(pictures: dict[str, Any], tower: Tower) -> tuple[Triple, Triple]:
    """(mean, std) of an image processor's settings, or those that the tower was trained with where they do not say."""
    return _triple(pictures.get("image_mean", tower.mean)), _triple(pictures.get("image_std", tower.std))


def _triple(values: Any) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def preprocessor(path: Path) -> dict[str, Any]:
    """The image processor's settings: their own file, or a part of transformers 5's processor_config.json."""
    if (path / "preprocessor_config.json").is_file():
        return read_json(path / "preprocessor_config.json")
    if (path / "processor_config.json").is_file():
        return read_json(path / "processor_config.json").get("image_processor", {})
    return {}
