"""A LoRA adapter folder, read without torch: which checkpoint it belongs to, and what has to agree before loading."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.chat import ImageRule
from schemas.errors import InputError
from schemas.modelfolder import check_code, read_header, read_json
from trainer.models.folder import ModelFolder
from trainer.runfolder import WEIGHTS, weights_digest

ADAPTER, ORIGIN = "adapter", "origin.json"
IN_FULL = {"projector": "projector.safetensors", "tower": "tower.safetensors"}
"""Files of an adapter folder for the modules that were trained in full beside the adapter."""


@dataclass(frozen=True)
class AdapterFolder:
    """`path`: the folder with adapter_config.json. `base`: the checkpoint that it was trained on. `model`: the same,
    with the template and image rule of the adapter's own training."""

    path: Path
    base: ModelFolder
    model: ModelFolder

    @classmethod
    def open(cls, path: str | Path, model: str | Path | None = None) -> AdapterFolder:
        """`adapter` of a LoRA run, or the run folder. model: the base checkpoint's new path, if it moved.

        Raises InputError for another folder, for what peft would run code or unpickle for, and for a base whose weights
        are not those that the adapter was trained on.
        """
        folder = find_adapter(path)
        if folder is None:
            raise InputError(
                f"{path}: not a LoRA adapter ({ORIGIN} is missing). Give the folder of a finetune_lora run."
            )
        recorded = read_json(folder / ORIGIN)
        missing = [name for name in ("model", "weights", "image", "template") if name not in recorded]
        if missing:
            raise InputError(f"{folder / ORIGIN}: {missing[0]!r} is missing. Take the adapter folder of the run again.")
        check_adapter(folder)
        base = ModelFolder.open(model or str(recorded["model"]))
        if recorded["weights"] != weights_digest(base.path, WEIGHTS):
            raise InputError(
                f"{base.path}: its weights are not those that {folder} was trained on. Put that checkpoint back, or "
                "merge the adapter into it where it is now: lavabeam merge ADAPTER OUTPUT --model BASE."
            )
        used = base.with_training(ImageRule.from_dict(recorded["image"]), recorded["template"])
        return cls(folder, base, used)

    def in_full(self) -> list[Path]:
        """The files of modules that were trained in full beside the adapter, their headers checked."""
        files = [self.path / name for name in IN_FULL.values() if (self.path / name).is_file()]
        for file in files:
            read_header(file)
        return files


def find_adapter(path: str | Path) -> Path | None:
    """The adapter folder that `path` means: itself, or `adapter` inside a run folder."""
    folders = (Path(path), Path(path) / ADAPTER)
    return next((folder for folder in folders if (folder / ORIGIN).is_file()), None)


def check_adapter(folder: Path) -> None:
    """Raise InputError for an adapter that peft would load code or a pickle for, or memory beyond its weights.

    `megatron_core` and `auto_mapping` name modules that peft imports (peft, tuners/lora/model.py and auto.py).
    """
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise InputError(
            f"{folder}: has no {weights.name}. An adapter_model.bin is a pickle, which can run code, and is not read: "
            "take the adapter of a finetune_lora run, or convert it where you trust it."
        )
    tensors, config = read_header(weights), read_json(folder / "adapter_config.json")
    check_code(folder / "adapter_config.json", config)
    wanted: dict[str, Any] = {
        "peft_type": "LORA",
        "megatron_config": None,
        "auto_mapping": None,
        "rank_pattern": {},
        "bias": "none",
    }
    for name, value in wanted.items():
        if (found := config.get(name, value)) != value and not (found is None and not value):
            raise InputError(
                f"{folder / 'adapter_config.json'}: {name} is {str(found)[:80]!r}, expected {value!r}, as "
                "finetune_lora writes it. Take the adapter folder of the run again."
            )
    ranks = {tensor.shape[0] for name, tensor in tensors.items() if "lora_A" in name and tensor.shape}
    if ranks != {config.get("r")}:
        raise InputError(
            f"{folder / 'adapter_config.json'}: the rank r is {str(config.get('r'))[:80]}, the weights have "
            f"{sorted(ranks) or 'none'}. They belong to different runs."
        )
