"""Exports the model of `checkpoint-N` of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from schemas.chat import ImageRule
from schemas.errors import InputError
from trainer.config import Recipe, load_saved_recipe
from trainer.models.adapter import write_adapter
from trainer.models.folder import ModelFolder
from trainer.models.shards import read_tensors
from trainer.preflight import model_path
from trainer.runfolder import INPUTS, RECIPE, checkpoint_step, checkpoints, read_inputs
from trainer.stages import get_stage, module_of


def export_checkpoint(checkpoint: str | Path, output: str | Path) -> Path:
    """Write the model that a run was at `checkpoint`, as the run itself writes it at its end: a llava-hf folder, or for
    LoRA an adapter folder. The run folder and the model that it started from are needed, the mix is not.

    Weights are in the precision of the model that the run started from. Raises InputError for anything that is not a
    whole checkpoint, and when `output` exists.
    """
    folder, output = Path(checkpoint), Path(output)
    inputs, recipe = _run_of(folder)
    if output.exists():
        raise InputError(f"{output}: already exists. Choose another folder for the model.")
    from trainer.checkpoint import read_weights

    info = inputs["info"]
    start = ModelFolder.open(model_path(str(recipe.model.checkpoint)))
    origin = start.with_training(ImageRule.from_dict(info["image"]), info["template"])
    trained = read_weights(folder)
    if get_stage(recipe.stage, recipe.train).adapter:
        return _adapter(trained, origin, recipe, output)
    training = {"stage": recipe.stage, "steps": checkpoint_step(folder), "fingerprint": inputs["fingerprint"]}
    return _whole(trained, origin, output, training)


def _run_of(folder: Path) -> tuple[dict[str, Any], Recipe]:
    """inputs.json and the recipe of the run that a checkpoint belongs to."""
    run = folder.resolve().parent
    if not (run / INPUTS).is_file() or not (run / RECIPE).is_file():
        raise InputError(f"{folder}: not a checkpoint in a run folder ({INPUTS} is missing). Give RUN/checkpoint-N.")
    whole = {path.name for path in checkpoints(run)}
    if folder.resolve().name not in whole:
        known = ", ".join(sorted(whole, key=lambda name: checkpoint_step(run / name))) or "none"
        raise InputError(f"{folder}: not a complete checkpoint. Complete ones of this run: {known}.")
    return read_inputs(run), load_saved_recipe(run / RECIPE)


def _whole(trained: Mapping[str, torch.Tensor], origin: ModelFolder, output: Path, training: dict[str, Any]) -> Path:
    from trainer.models.export import export
    from trainer.models.opening import from_folder

    model = from_folder(origin, dtype="auto")
    weights = model.state_dict()
    for name, flat in trained.items():
        if name not in weights or weights[name].numel() != flat.numel():
            raise InputError(f"{origin.path}: has no weight {name} of {flat.numel()} elements: the run started from "
                             "another model. Put the one back that its recipe.yaml names.")  # fmt: skip
        weights[name].copy_(flat.view_as(weights[name]))
    return export(weights, model.config, origin, output, training)


def _adapter(trained: dict[str, torch.Tensor], origin: ModelFolder, recipe: Recipe, output: Path) -> Path:
    from trainer.models.loading import empty_model

    model = empty_model(origin, get_stage(recipe.stage, recipe.train), recipe)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    weights = {name: flat.view(shapes[name]) for name, flat in trained.items()}
    if not any(module_of(name) == "projector" for name in weights):  # an adapter folder always holds the projector
        kept = ((name.removeprefix("model."), tensor) for name, tensor in read_tensors(origin.path))
        weights |= {f"model.{name}": tensor for name, tensor in kept if name.startswith("multi_modal_projector.")}
    return write_adapter(model, weights, origin, output)
