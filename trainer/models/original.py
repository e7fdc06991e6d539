"""Weights of the original LLaVA code: its parameter names in transformers, and its `mm_projector.bin` files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from schemas.errors import InputError
from schemas.modelfolder import read_header

TOWER = re.compile(r"^model\.vision_tower\.vision_tower\.(?:vision_model\.)?")
PROJECTOR = re.compile(r"^(?:.*\.)?mm_projector(?:\.(?P<layer>[02]))?\.(?P<kind>weight|bias)$")
"""`mm_projector.weight` is a linear one; layers 0 and 2 of a sequence (1 is the GELU) are mlp2x_gelu."""

BROKEN = (SafetensorError, UnpicklingError, BadZipFile)
"""What the libraries call a file that is not one of theirs."""

NUMBERS = {"0": "linear_1", "2": "linear_2", None: "linear_1"}


def name_of(original: str) -> str:
    """The original's parameter name inside transformers' LLaVA classes.

    `model.mm_projector.0.weight` -> `model.multi_modal_projector.linear_1.weight`, `model.layers.0...` ->
    `model.language_model.layers.0...` (as the tower's and the rest's names; llava/model/llava_arch.py).
    """
    found = PROJECTOR.match(original)
    if found:
        return f"model.multi_modal_projector.{NUMBERS[found['layer']]}.{found['kind']}"
    if TOWER.match(original):
        return TOWER.sub("model.vision_tower.", original)
    if original in ("lm_head.weight", "model.image_newline"):
        return original
    return original.replace("model.", "model.language_model.", 1)


def read_projector(path: str | Path, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, torch.Tensor]]:
    """The projector in an original `mm_projector.bin` (or safetensors), by llava-hf name on disk.

    shapes: what the model expects, by that name. Raises InputError when the file has no projector, or one of another
    type or size.
    """
    path = Path(path)
    found = {name: tensor for name, tensor in load_weights(path).items() if "mm_projector" in name}
    unknown = next((name for name in found if not PROJECTOR.match(name)), None)
    if unknown is not None:
        raise InputError(f"{path}: {unknown} is not part of a projector of one or two layers (linear, mlp2x_gelu).")
    tensors = {name_of(name).removeprefix("model."): tensor for name, tensor in found.items()}
    if not tensors:
        raise InputError(
            f"{path}: contains no mm_projector weights. Give the mm_projector.bin of a LLaVA pretraining run."
        )
    missing = sorted(set(shapes) - set(tensors) - _identity(tensors))
    if missing:
        raise InputError(f"{path}: lacks {missing[0]}. It holds {', '.join(sorted(tensors))}: another projector_type?")
    for name, tensor in sorted(tensors.items()):
        if name not in shapes or tensor.shape != shapes[name]:
            expected = tuple(shapes[name]) if name in shapes else "nothing"
            raise InputError(
                f"{path}: {name} is {tuple(tensor.shape)}, but tower and llm need {expected}: another model's file."
            )
        yield name, tensor


def write_projector(weights: Mapping[str, torch.Tensor], path: Path, linear: bool = False) -> None:
    """Write the projector among transformers-named weights as the original's mm_projector.bin."""
    layers = {"linear_1": "", "linear_2": None} if linear else {"linear_1": ".0", "linear_2": ".2"}
    found = {}
    for name, tensor in weights.items():
        if "multi_modal_projector." not in name:
            continue
        layer, kind = name.rpartition("multi_modal_projector.")[2].split(".")
        if layers[layer] is not None:
            found[f"model.mm_projector{layers[layer]}.{kind}"] = tensor.detach().cpu()
    torch.save(found, path)


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such file. Fetch the checkpoint, or the mm_projector.bin of a pretraining run.")
    try:
        if path.suffix == ".safetensors":
            read_header(path)
            content = load_file(path)
        else:
            _check_archive(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (
        SafetensorError,
        UnpicklingError,
        BadZipFile,
        RuntimeError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
    ) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read as weights: {reason} Fetch the file again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; expected weights by name.")
    return content


def _check_archive(path: Path) -> None:
    """Raise InputError unless the file is torch's zip archive with everything stored as it is: an older format, or a
    compressed entry, says itself how much memory it takes."""
    if not is_zipfile(path):
        raise InputError(
            f"{path}: cannot be read as weights: not a file that torch.save of 1.6 or newer wrote. Fetch "
            "the file again, or save it anew."
        )
    with ZipFile(path) as archive:
        inside = sum(entry.file_size for entry in archive.infolist())
    if inside > path.stat().st_size:
        raise InputError(f"{path}: {path.stat().st_size} bytes that announce {inside}. Fetch the file again.")


def _identity(tensors: Mapping[str, torch.Tensor]) -> set[str]:
    """What a linear projector's file may lack: the second layer, which stays the identity."""
    linear = not any("linear_2" in name for name in tensors)
    return {f"multi_modal_projector.linear_2.{kind}" for kind in ("weight", "bias")} if linear else set()
