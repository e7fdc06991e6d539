"""Validates a model folder before any library opens it, from its JSON files and safetensors headers.

Model folders come from elsewhere. Nothing in one is run, nothing is unpickled, and no number in one is believed before
the size of its files was compared with it: libraries allocate what a configuration asks for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from schemas.errors import InputError

INDEX = "model.safetensors.index.json"
HEADER_BYTES = 8
"""A safetensors file starts with the length of its JSON header: 8 bytes, little endian (its README, "Format")."""
MOST_HEADER = 100_000_000
"""The largest header that safetensors itself accepts."""
MOST_JSON = 64 << 20
"""Bytes of a JSON file in a model folder. The largest tokenizer.json of a known model (Gemma 3) has 33 MB."""
MOST_COUNT = 1024
"""Layers or experts that a configuration may ask for, whatever the weights hold."""
MOST_SIZE = 2**31 - 1
"""The largest number of a configuration that is a size."""

BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32}
BITS |= {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4}
BITS |= {"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6}
"""Bits of an element, by safetensors' name of its type."""

KERNELS = frozenset(
    {"eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4", "auto"}
)
"""Implementations of attention and experts that are part of transformers; any other name is a repository on the hub."""
KERNEL_KEYS = ("attn_implementation", "experts_implementation")
COUNTS = frozenset(
    {"num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth", "encoder_layers", "decoder_layers"}
    | {"num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts"}
)
"""What a configuration calls its numbers of layers and experts: each is a module, made one after the other."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file, as its header describes it."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * BITS[self.dtype] // 8


def read_json(path: Path, remedy: str = "Fetch the file again.") -> dict[str, Any]:
    """A JSON object; raises InputError for anything else, and for a file that is larger than any such file is."""
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give the folder of a complete checkpoint.")
    if (size := path.stat().st_size) > MOST_JSON:
        raise InputError(f"{path}: {size} bytes, expected at most {MOST_JSON}: this is not such a file. {remedy}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # surrogates alone are no text
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {str(error)[:200]}. {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a JSON {type(content).__name__}, expected an object. {remedy}")
    return content


def check_config(path: Path, config: dict[str, Any]) -> None:
    """Raise InputError for a config.json that would load code, or that asks for more than a model can have."""
    check_code(path, config)
    for where, key, value in _entries(config):
        if key in ("text_config", "vision_config") and not isinstance(value, dict):
            raise InputError(f"{path}: {where} is {_short(value)}, expected an object. Fetch the file again.")
        for number in value if isinstance(value, list) else (value,):
            if isinstance(number, int) and not -MOST_SIZE <= number <= MOST_SIZE:
                raise InputError(f"{path}: {where} is {_short(number)}, expected a size. Fetch the file again.")


def check_folder(folder: Path, code: bool = False) -> dict[str, Stored]:
    """Check all that a library would read in a model folder but its tokenizer; returns the tensors of its weights.

    `code`: the folder's code may run, so that names of code are fine. Raises InputError as the checks here do.
    """
    config = read_json(folder / "config.json")
    if not code:
        check_config(folder / "config.json", config)
        for name in ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json"):
            if (folder / name).is_file():
                check_code(folder / name, read_json(folder / name))
    tensors = read_tensors_of(folder)
    check_counts(folder / "config.json", config, tensors)
    return tensors


def check_code(path: Path, content: dict[str, Any]) -> None:
    """Raise InputError for a JSON file that names code for a library to load: the folder's, or a kernel of the hub."""
    for where, key, value in _entries(content):
        if key == "auto_map" and value:
            raise InputError(
                f"{path}: {where} names code in the folder ({_short(value)}), which is not run. Remove the entry if "
                "transformers knows the model without it, or use a checkpoint that needs no code of its own."
            )
        if key.strip("_").removesuffix("_internal") in KERNEL_KEYS:
            _check_kernel(path, where, value)


def check_counts(path: Path, config: dict[str, Any], tensors: dict[str, Stored]) -> None:
    """Raise InputError when a configuration asks for more layers or experts than the weights have tensors."""
    most = max(MOST_COUNT, len(tensors))
    for where, key, value in _entries(config):
        if key in COUNTS and isinstance(value, int) and value > most:
            raise InputError(
                f"{path}: {where} is {value}, but the weights have {len(tensors)} tensors. These are another model's "
                "weights, or another model's config.json."
            )


def check_parameters(path: Path, parameters: int, tensors: dict[str, Stored]) -> None:
    """Raise InputError when a model of `parameters` numbers is far more than the weights hold: it would be allocated.

    Tied tables may be stored once, and some buffers not at all.
    """
    stored = sum(prod(tensor.shape) for tensor in tensors.values())
    # Four-bit weights are stored two to a byte.
    if parameters > 4 * stored + 1_000_000:
        raise InputError(
            f"{path}: config.json describes a model of {parameters} parameters, the weights hold {stored}. These are "
            "another model's weights, or another model's config.json."
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: those of its index, or all. Raises InputError when there are none."""
    if (folder / INDEX).is_file():
        listed = read_json(folder / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise InputError(f"{folder / INDEX}: has no weight_map of names. Fetch the checkpoint again.")
        names = sorted(set(listed.values()))
        wrong = next((name for name in names if not _is_name(name)), None)
        if wrong is not None:
            raise InputError(
                f"{folder / INDEX}: names the file {wrong!r}, expected one of the same folder that ends in "
                ".safetensors. Do not use this checkpoint, or restore its index."
            )
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found
    pickled = next((file.name for suffix in ("*.bin", "*.pt", "*.pth") for file in sorted(folder.glob(suffix))), None)
    if pickled is not None:
        raise InputError(
            f"{folder}: has weights as {pickled} only. Such a file is a pickle, which can run code, and is not read. "
            "Fetch the safetensors files, or convert it where you trust it: `model.save_pretrained(folder)`."
        )
    raise InputError(f"{folder}: no weights (*.safetensors) here. The download or training did not finish.")


def read_tensors_of(folder: Path) -> dict[str, Stored]:
    """Name -> type and shape of all tensors in a folder; raises InputError for files that do not add up."""
    tensors: dict[str, Stored] = {}
    for file in weight_files(folder):
        tensors.update(read_header(file))
    return tensors


def read_header(file: Path) -> dict[str, Stored]:
    """Name -> type and shape of the tensors in a safetensors file. No tensor is read.

    Raises InputError unless header, sizes and the file's length agree.
    """
    if not file.is_file():
        raise InputError(f"{file}: this part of the weights is missing. Fetch the checkpoint again.")
    size = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(HEADER_BYTES), "little")
        header = content.read(length) if length <= min(size, MOST_HEADER) else b""
    try:
        described = json.loads(header)
        described.pop("__metadata__", None)
        places = sorted((*map(int, one["data_offsets"]), name) for name, one in described.items())
        tensors = {name: Stored(one["dtype"], tuple(map(int, one["shape"]))) for name, one in described.items()}
        end = max((place[1] for place in places), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, IndexError) as error:
        raise InputError(f"{file}: not a safetensors file ({str(error)[:100]}). Fetch the checkpoint again.") from error
    if size != HEADER_BYTES + length + end:
        raise InputError(
            f"{file}: {size} bytes, but its header announces {HEADER_BYTES + length + end}. The download or training "
            "did not finish: fetch it again."
        )
    _check_places(file, places, tensors)
    return tensors


def _check_places(file: Path, places: list[tuple[int, int, str]], tensors: dict[str, Stored]) -> None:
    """Raise InputError unless tensors have plain names and follow each other without a gap, each as long as its shape
    says."""
    before = 0
    for start, end, name in places:
        tensor = tensors[name]
        if not name.isprintable():  # libraries print names in their reports
            raise InputError(f"{file}: the name {_short(name)} is not plain text. Fetch the checkpoint again.")
        if tensor.dtype not in BITS:
            raise InputError(f"{file}: {name} has the unknown type {_short(tensor.dtype)}. Fetch the checkpoint again.")
        expected = tensor.bytes
        if min(tensor.shape, default=0) < 0 or start != before or end - start != expected:
            raise InputError(
                f"{file}: {name} of shape {_short(list(tensor.shape))} takes {expected} bytes from byte {before} on, "
                f"its header says {start} to {end}. Fetch the checkpoint again."
            )
        before = end


def _check_kernel(path: Path, where: str, value: Any) -> None:
    for name in value.values() if isinstance(value, dict) else (value,):
        if name is not None and name not in KERNELS:
            raise InputError(
                f"{path}: {where} is {_short(name)}, expected one of {', '.join(sorted(KERNELS))}: any other name is "
                "code on the hub, which is not run. Remove the entry."
            )


def _entries(config: Any, where: str = "") -> Iterator[tuple[str, str, Any]]:
    """(dotted name, key, value) of everything in nested objects."""
    for key, value in config.items() if isinstance(config, dict) else ():
        yield f"{where}{key}", key, value
        yield from _entries(value, f"{where}{key}.")


def _is_name(name: str) -> bool:
    return name.endswith(".safetensors") and not set("/\\\0").intersection(name)


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) < 80 else f"{text[:77]}..."
