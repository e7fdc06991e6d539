"""Writing a trained model as a llava-hf folder: the names that transformers, vLLM, SGLang and lmms-eval load."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from schemas.modelfolder import read_header
from trainer.models.folder import ModelFolder, write_sidecar
from trainer.models.processor import write_processor, write_tokenizer
from trainer.models.shards import ShardWriter, shard_files

PREFIXES = (
    ("lm_head.", "language_model.lm_head."),
    ("model.language_model.", "language_model.model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.image_newline", "image_newline"),
)
"""transformers 5's names inside LLaVA classes -> names on disk."""

DINOV2 = (
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".mlp.down_proj.", ".mlp.weights_out."),
)
"""The same for a DINOv2 tower, whose layers are `layer.N` where CLIP's and SigLIP's are `layers.N`."""

GATE = ".mlp.gate_proj."


def export(
    weights: Mapping[str, torch.Tensor],
    config: Any,
    origin: ModelFolder,
    output: Path,
    training: dict[str, Any],
    learnt: Collection[str] | None = None,
) -> Path:
    """Write weights, config.json, tokenizer, processor and our sidecar to `output`.

    `origin` is the folder that training started from; `training` is recorded in the sidecar. learnt: the weights that
    differ from `origin`'s. Its files without one of them are shared, not written again (no more than a hard link): so
    a pretrained projector takes the disk that the projector takes. None writes everything.
    """
    draft = output.with_name(output.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    inner = tower_prefix(config.vision_config.model_type)
    tied = bool(config.tie_word_embeddings)
    same = unchanged(weights, origin.path, inner, learnt) if learnt is not None else {}
    shared = {name for names in same.values() for name in names}
    with ShardWriter(draft) as writer:
        for file, names in same.items():
            writer.share(file, names)
        for name, tensor in joined_gates(weights):
            if not (tied and name.startswith("lm_head.")) and disk_name(name, inner) not in shared:
                writer.put(disk_name(name, inner), tensor)
    config.architectures = [origin.model_class]
    config.save_pretrained(draft)
    tokenizer = write_tokenizer(origin.path, draft)
    write_processor(draft, tokenizer, config.model_type, origin.rule, origin.mean, origin.std, origin.template)
    write_sidecar(draft, origin.rule, origin.template, {"training": training})
    shutil.rmtree(output, ignore_errors=True)
    draft.rename(output)
    return output


def unchanged(
    weights: Mapping[str, torch.Tensor], origin: Path, tower: str, learnt: Collection[str]
) -> dict[Path, list[str]]:
    """The weight files of `origin` that hold nothing of `learnt`, with their tensors' names; `tower`: its prefix."""
    there = {disk_name(name, tower): tuple(tensor.shape) for name, tensor in joined_gates(weights)}
    changed = {disk_name(name, tower) for name, _ in joined_gates({name: weights[name] for name in learnt})}
    found = {}
    for file in shard_files(origin):
        held = {name: tensor.shape for name, tensor in read_header(file).items()}
        if not changed & held.keys() and all(there.get(name) == shape for name, shape in held.items()):
            found[file] = list(held)
    return found


def disk_name(name: str, tower: str) -> str:
    """`model.language_model.layers.0...` -> `language_model.model.layers.0...`; `tower` from `tower_prefix`."""
    for inside, outside in PREFIXES:
        if name.startswith(inside):
            return outside + name.removeprefix(inside)
    if not name.startswith("model.vision_tower."):
        return name
    name = name.removeprefix("model.vision_tower.").removeprefix("vision_model.")
    if ".layer." in name:
        for inside, outside in DINOV2:
            name = name.replace(inside, outside)
    return tower + name


def joined_gates(weights: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights, with the two halves of a large DINOv2's gated layers in one, as they are on disk."""
    for name, tensor in weights.items():
        if GATE in name and "vision_tower" in name:
            other = weights[name.replace(GATE, ".mlp.up_proj.")]
            yield name.replace(GATE, ".mlp.weights_in."), torch.cat([tensor.cpu(), other.cpu()])
        elif ".mlp.up_proj." not in name or "vision_tower" not in name:
            yield name, tensor


def tower_prefix(model_type: str) -> str:
    """CLIP's and SigLIP's towers are under `vision_model` on disk; others (DINOv2) are not."""
    return "vision_tower.vision_model." if model_type.startswith(("clip", "siglip")) else "vision_tower."
