"""Checks that checkpoint folders match a recipe, from their JSON files and safetensors headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schemas.chat import ImageRule, Tokenizer
from schemas.errors import InputError
from schemas.modelfolder import check_config, check_counts, read_json, read_tensors_of
from trainer.models.towers import vision_part


def check_tower(path: str, rule: ImageRule) -> dict[str, Any]:
    """The configuration of a vision tower; raises InputError unless its tokens match what `rule` counts."""
    config = _part_config(path)
    tower, vision = vision_part(config, path)
    expected = {"image_size": rule.image_size, "patch_size": rule.patch_size}
    # What a config.json leaves out has its class's default, which only transformers knows: `assemble` compares it.
    found = {name: vision.get(name, wanted) for name, wanted in expected.items()}
    if not tower.fits((found["image_size"], found["patch_size"]), rule.image_size, rule.patch_size):
        raise InputError(
            f"{path}: this tower takes {found['image_size']} pixels in patches of {found['patch_size']}, but the image "
            f"rule says {rule.image_size} in patches of {rule.patch_size}. Make the mix with the tower's sizes."
        )
    tokens = tower.tokens(vision)
    if tokens != rule.class_token:
        raise InputError(
            f"{path}: this tower has {tokens} tokens beside its patches, the image rule says {rule.class_token}. "
            f"Set `image: {{class_token: {tokens}}}` in the mix's recipe and make it again."
        )
    if tokens > 1 and rule.select == "patch":
        raise InputError(
            f"{path}: this tower has {tokens} tokens beside its patches, and transformers' LLaVA drops only one. Use "
            "`select: full`, or a tower without registers."
        )
    check_weights(Path(path), config)
    return vision


def check_vocabulary(config: dict[str, Any], tokenizer: Tokenizer, path: str) -> None:
    """Raise InputError when a language model has fewer rows of embeddings than its tokenizer's own vocabulary has
    tokens. Tokens that were added to it (`<image>`, a pad token) get new rows."""
    tokens, rows = tokenizer.own_size, int(config["vocab_size"])
    if tokens > rows:
        raise InputError(
            f"{path}: {tokenizer.where} has {tokens} tokens, and the model's embeddings have {rows} rows: "
            f"{tokens - rows} would be made up. Give the tokenizer that it was trained with as `model.tokenizer`."
        )


def check_llm(path: str) -> dict[str, Any]:
    """The configuration of a language model; raises InputError when the folder is something else."""
    config = _part_config(path)
    missing = [name for name in ("vocab_size", "hidden_size", "num_hidden_layers") if name not in config]
    if missing or "vision_config" in config:
        raise InputError(
            f"{path}: a {config.get('model_type')!r} model is not a language model for `llm`. Give a Llama, Mistral, "
            "Qwen or similar folder; a complete LLaVA goes into `checkpoint`."
        )
    shapes = check_weights(Path(path), config)
    _check_embeddings(Path(path), shapes, config)
    return config


def check_checkpoint(path: Path, text: dict[str, Any]) -> None:
    """Raise InputError when the weights of a LLaVA folder are truncated, or do not match its config.json."""
    shapes = check_weights(path, {"text_config": text})
    projectors = [name for name in shapes if "multi_modal_projector" in name]
    if shapes and not projectors:
        raise InputError(f"{path}: its weights have no multi_modal_projector. It is not a LLaVA, or only part of one.")
    _check_embeddings(path, shapes, text)


def check_weights(folder: Path, config: dict[str, Any]) -> dict[str, list[int]]:
    """Name -> shape of all tensors in the folder's safetensors files; raises InputError for files that are missing or
    truncated, and for a `config` that asks for more layers than they have."""
    tensors = read_tensors_of(folder)
    check_counts(folder / "config.json", config, tensors)
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def _check_embeddings(path: Path, shapes: dict[str, list[int]], text: dict[str, Any]) -> None:
    """The shape of the token embeddings shows whether the weights are those that config.json describes."""
    expected = [text.get("vocab_size"), text.get("hidden_size")]
    for name, shape in shapes.items():
        if name.endswith("embed_tokens.weight") and None not in expected and shape != expected:
            raise InputError(
                f"{path}: {name} is {tuple(shape)}, config.json says {tuple(expected)}. These are another model's "
                "weights, or another model's config.json."
            )


def _part_config(path: str) -> dict[str, Any]:
    file = Path(path) / "config.json"
    if not file.is_file():
        raise InputError(f"{path}: no config.json here. Give the folder of a Hugging Face model.")
    config = read_json(file)
    check_config(file, config)
    return config
