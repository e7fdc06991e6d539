"""Opens a model folder: files are checked first, nothing is unpickled, and its version is their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.chat.tokenizerfile import is_panic, read_tokenizer
from schemas.errors import InputError, LavaBeamError
from schemas.modelfolder import check_folder, check_parameters


def model_version(model: str, revision: str | None, field: str = "model") -> str:
    """A hash of the model folder, or the hub commit; raises InputError for what has neither."""
    folder = Path(model)
    if folder.is_dir():
        return weights_version(folder)
    if revision is None:
        raise InputError(
            f"{field} {model}: no such folder. Give a model folder, or set "
            f"`{field.replace('model', 'revision')}` to a hub model's commit."
        )
    return revision


def load_local(model: str, kind: Any, code: bool, **options: Any) -> Any:
    """`kind.from_pretrained(model)`, which unpickles nothing, and runs no code of a folder or hub model unless `code`.

    The weights of a folder are compared with its configuration before anything is allocated. Raises InputError.
    """
    folder = Path(model)
    with model_errors(model):
        if folder.is_dir():
            _check_size(folder, kind, code)
        return kind.from_pretrained(model, trust_remote_code=code, use_safetensors=True, **options)


def load_processor(model: str, kind: Any, code: bool, **options: Any) -> Any:
    """`kind.from_pretrained(model)` of a processor or tokenizer, as `load_local`."""
    file = Path(model) / "tokenizer.json"
    if file.is_file():
        read_tokenizer(file)
    with model_errors(model):
        return kind.from_pretrained(model, trust_remote_code=code, **options)


@contextmanager
def model_errors(model: str) -> Iterator[None]:
    """Whatever a model library raises while it loads, a panic of its Rust code included, as an InputError."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, LavaBeamError) or not (isinstance(error, Exception) or is_panic(error)):
            raise
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError(
            f"{model}: no model that transformers can load ({words}). Give a folder into which `save_pretrained` wrote "
            "model and processor."
        ) from error


def _check_size(folder: Path, kind: Any, code: bool) -> None:
    import torch
    from transformers import AutoConfig

    tensors = check_folder(folder, code)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=code)
    make = kind.from_config if hasattr(kind, "from_config") else kind._from_config
    with torch.device("meta"):
        shell = make(config, trust_remote_code=code) if hasattr(kind, "from_config") else make(config)
    parameters = sum(parameter.numel() for parameter in shell.parameters())
    check_parameters(folder / "config.json", parameters, tensors)


def weights_version(path: Path) -> str:
    """12 hexadecimal digits of the sha256 over a file, or over a model folder's files with their names."""
    content = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and not file.name.startswith(".") and file.suffix != ".md":
            content.update(f"{file.relative_to(path.parent if path.is_file() else path)}\0".encode())
            with file.open("rb") as opened:
                content.update(hashlib.file_digest(opened, "sha256").digest())
    return content.hexdigest()[:12]
