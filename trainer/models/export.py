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
from trainer.models.towers import Tower

PREFIXES = (
    ("lm_head.", "language_model.lm_head."),
    ("model.language_model.", "language_model.model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.image_newline", "image_newline"),
)
"""transformers 5's names inside LLaVA classes -> names on disk."""


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
    tower, tied = origin.tower, bool(config.tie_word_embeddings)
    same = unchanged(weights, origin, learnt) if learnt is not None else {}
    shared = {name for names in same.values() for name in names}
    with ShardWriter(draft) as writer:
        for file, names in same.items():
            writer.share(file, names)
        for name, tensor in joined_gates(weights, tower):
            if not (tied and name.startswith("lm_head.")) and disk_name(name, tower) not in shared:
                writer.put(disk_name(name, tower), tensor)
    config.architectures = [origin.model_class]
    config.save_pretrained(draft)
    tokenizer = write_tokenizer(origin.path, draft)
    write_processor(draft, tokenizer, origin.family, origin.rule, origin.mean, origin.std, origin.template)
    write_sidecar(draft, origin.rule, origin.template, {"training": training})
    shutil.rmtree(output, ignore_errors=True)
    draft.rename(output)
    return output


def unchanged(
    weights: Mapping[str, torch.Tensor], origin: ModelFolder, learnt: Collection[str]
) -> dict[Path, list[str]]:
    """The weight files of `origin` that hold nothing of `learnt`, with their tensors' names."""
    tower = origin.tower
    there = {disk_name(name, tower): tuple(tensor.shape) for name, tensor in joined_gates(weights, tower)}
    trained = joined_gates({name: weights[name] for name in learnt}, tower)
    changed = {disk_name(name, tower) for name, _ in trained}
    found = {}
    for file in shard_files(origin.path):
        held = {name: tensor.shape for name, tensor in read_header(file).items()}
        if not changed & held.keys() and all(there.get(name) == shape for name, shape in held.items()):
            found[file] = list(held)
    return found


def disk_name(name: str, tower: Tower) -> str:
    """`model.language_model.layers.0...` -> `language_model.model.layers.0...`, and the tower's as `tower` says."""
    for inside, outside in PREFIXES:
        if name.startswith(inside):
            return outside + name.removeprefix(inside)
    inside = "model.vision_tower."
    return tower.disk_name(name.removeprefix(inside)) if name.startswith(inside) else name


def joined_gates(weights: Mapping[str, torch.Tensor], tower: Tower) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights, with the tower's two gated tensors of a layer in one where they are on disk (a large DINOv2)."""
    gate, up, one = tower.gates or ("", "", "")
    for name, tensor in weights.items():
        if not tower.gates or "vision_tower" not in name or not (gate in name or up in name):
            yield name, tensor
        elif gate in name:
            yield name.replace(gate, one), torch.cat([tensor.cpu(), weights[name.replace(gate, up)].cpu()])
