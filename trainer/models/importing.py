"""A checkpoint of the original LLaVA code (liuhaotian/llava-v1.5-7b and its kind) as a llava-hf folder.

The original keeps the language model's configuration at the top level of config.json, its own settings as `mm_*`, and
the weights under its own names, with or without the tower's.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from schemas.chat import ImageRule, get_template, load_tokenizer
from schemas.chat.images import parse_pinpoints
from schemas.errors import InputError
from schemas.modelfolder import check_config, read_json
from trainer.models.assemble import PROJECTORS, fresh_projector, grown, llava_config, tower_tensors
from trainer.models.export import disk_name
from trainer.models.families import FAMILIES, family_of
from trainer.models.folder import colours, preprocessor, write_sidecar
from trainer.models.original import load_weights, name_of
from trainer.models.partcheck import check_tower, check_vocabulary
from trainer.models.processor import write_processor, write_tokenizer
from trainer.models.shards import ShardWriter
from trainer.models.towers import tower_of, vision_part

LANGUAGE_MODELS = {
    "llava": "llama",
    "llava_llama": "llama",
    "llava_mistral": "mistral",
    "llava_qwen": "qwen2",
}
"""The original's model_type -> that of the language model (llava/model/language_model, in LLaVA and LLaVA-NeXT)."""

ASPECTS = {None: "square", "square": "square", "pad": "pad", "anyres": "anyres"}
MOST_TILES = re.compile(r"anyres_max_(\d+)")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")


def is_original(config: dict[str, Any]) -> bool:
    """Whether a config.json is the original's."""
    return config.get("model_type") in LANGUAGE_MODELS and "vision_config" not in config


def import_checkpoint(source: str | Path, tower: str | Path, output: str | Path, template: str) -> Path:
    """Write the original's checkpoint in `source` as a llava-hf folder to `output`; memory for about one file.

    tower: the folder of the vision tower that `mm_vision_tower` in its config.json names, for its configuration and,
    where the checkpoint does not hold them, its weights. template: what it was trained with. Raises InputError for
    what cannot be converted to the same function; nothing is left of it then.
    """
    source, tower, output = Path(source), Path(tower), Path(output)
    get_template(template)
    if output.exists():
        raise InputError(f"{output}: already exists. Choose another folder for the converted checkpoint.")
    config = read_json(source / "config.json")
    check_config(source / "config.json", config)
    if not is_original(config):
        raise InputError(
            f"{source}: config.json says model_type {config.get('model_type')!r}; expected one of "
            f"{', '.join(LANGUAGE_MODELS)} without a vision_config, as the original LLaVA code writes it."
        )
    rule, projector = _rule(source, config, tower), _projector_type(source, config)
    text = _text_config(config)
    files = _weight_files(source)
    check_vocabulary(text.to_dict(), load_tokenizer(source), str(source))
    draft = output.with_name(output.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    tokenizer = write_tokenizer(source, draft)
    layer = int(config.get("mm_vision_select_layer", -2))
    made = llava_config(tower, text, rule, layer, projector, tokenizer.image_id, tokenizer.vocab_size)
    _cut(made, tower)
    with ShardWriter(draft) as writer:
        written = {}
        for name, tensor in _tensors(files, tower, made, projector):
            writer.put(name, tensor)
            written[name] = tuple(tensor.shape)
        made.dtype = writer.dtype
    try:
        _check(source, made, written)
    except InputError:
        shutil.rmtree(draft)
        raise
    made.save_pretrained(draft)
    mean, std = colours(preprocessor(tower), tower_of(made.vision_config.model_type, str(tower)))
    write_processor(draft, tokenizer, family_of(rule), rule, mean, std, template)
    write_sidecar(draft, rule, template, {"imported": source.name, "tower": tower.name})
    draft.rename(output)
    return output


def _rule(source: Path, config: dict[str, Any], tower: Path) -> ImageRule:
    aspect, merge = config.get("image_aspect_ratio"), config.get("mm_patch_merge_type", "flat")
    most = MOST_TILES.fullmatch(str(aspect))
    mode = "anyres" if most else ASPECTS.get(aspect)
    if mode is None or (mode == "anyres" and merge != "spatial_unpad"):
        raise InputError(
            f"{source}: trained with image_aspect_ratio {aspect!r} and mm_patch_merge_type {merge!r}, which "
            "transformers' classes do not compute. Expected pad, square, or anyres or anyres_max_N with spatial_unpad."
        )
    if config.get("mm_use_im_start_end") or config.get("mm_use_im_patch_token"):
        raise InputError(
            f"{source}: trained with tokens around its pictures (mm_use_im_start_end, mm_use_im_patch_token), which no "
            "template here writes. Use a checkpoint of v1.5 or later."
        )
    row, vision = vision_part(read_json(tower / "config.json"), str(tower))
    size = int(vision.get("image_size", 224))
    grid = config.get("image_grid_pinpoints") if mode == "anyres" else ()
    if isinstance(grid, str):
        grid = json.loads(grid) if grid.lstrip().startswith("[") else parse_pinpoints(grid, size)
    rule = ImageRule(
        mode=mode,
        image_size=size,
        patch_size=int(vision.get("patch_size", 32)),
        select="full" if config.get("mm_vision_select_feature") == "cls_patch" else "patch",
        class_token=row.tokens(vision),
        pinpoints=tuple((int(width), int(height)) for width, height in grid or ()),
        max_tiles=int(most[1]) if most else None,
    )
    check_tower(str(tower), rule)
    return rule


def _cut(config: Any, tower: Path) -> None:
    """Leave out of a configuration what the original deletes of the tower: see `Tower.cut`."""
    row = tower_of(config.vision_config.model_type, str(tower))
    if row.cut:
        config.vision_config.num_hidden_layers -= row.cut
        config.vision_config.vision_use_head = False
        config.vision_feature_layer = -1


def _projector_type(source: Path, config: dict[str, Any]) -> str:
    found = str(config.get("mm_projector_type", "linear"))
    if found not in PROJECTORS:
        raise InputError(f"{source}: has a projector of type {found!r}; expected one of {', '.join(PROJECTORS)}.")
    return found


def _text_config(config: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    own = ("mm_", "tune_mm_", "freeze_mm_", "image_", "use_mm_", "unfreeze_mm_", "vision_tower")
    kept = {name: value for name, value in config.items() if not name.startswith(own)}
    for name in ("architectures", "model_type", "auto_map", "transformers_version", "_name_or_path"):
        kept.pop(name, None)
    return AutoConfig.for_model(LANGUAGE_MODELS[config["model_type"]], **kept)


def _weight_files(source: Path) -> list[Path]:
    for index in INDEXES:
        if (source / index).is_file():
            return [source / name for name in sorted(set(read_json(source / index)["weight_map"].values()))]
    for single in SINGLES:
        if (source / single).is_file():
            return [source / single]
    raise InputError(f"{source}: contains none of {', '.join((*INDEXES, *SINGLES))}. Fetch the checkpoint again.")


def _tensors(files: list[Path], tower: Path, config: Any, projector: str) -> Iterator[tuple[str, torch.Tensor]]:
    """All weights by their names in a llava-hf folder."""
    row, rows = tower_of(config.vision_config.model_type, str(tower)), config.text_config.vocab_size
    tied, has_tower = bool(config.tie_word_embeddings), False
    for file in files:
        for original, tensor in load_weights(file).items():
            if original.endswith(("rotary_emb.inv_freq", "position_ids")) or (tied and original == "lm_head.weight"):
                continue
            name = disk_name(name_of(original), row)
            has_tower |= name.startswith("vision_tower.")
            table = name.endswith(("embed_tokens.weight", "lm_head.weight"))
            if name != "image_newline" or FAMILIES[config.model_type].newline:
                yield name, grown(tensor, rows) if table else tensor
    if not has_tower:
        kept = config.vision_config.num_hidden_layers
        for name, tensor in tower_tensors(tower):
            if not row.cut or ((row.layer_of(name) or 0) < kept and ".head." not in name):
                yield name, tensor
    if projector == "linear":  # transformers' second layer, which stays the identity
        yield from list(fresh_projector(config, projector, 0))[2:]


def _check(source: Path, config: Any, written: dict[str, tuple[int, ...]]) -> None:
    """Raise InputError unless every weight of the model was written, in its shape, and nothing else."""
    import transformers

    kind = getattr(transformers, config.architectures[0])
    with torch.device("meta"):
        shell = kind._from_config(config)
    row = tower_of(config.vision_config.model_type, str(source))
    wanted = {disk_name(name, row): tuple(parameter.shape) for name, parameter in shell.named_parameters()}
    if config.tie_word_embeddings:
        wanted.pop("language_model.lm_head.weight", None)
    for name in sorted(wanted.keys() | written.keys()):
        if wanted.get(name) != written.get(name):
            raise InputError(
                f"{source}: {name} is {written.get(name, 'missing')} among its weights, and the model that config.json "
                f"describes has {wanted.get(name, 'no such weight')}. Fetch the checkpoint again, or give its tower."
            )
