"""Opens a checkpoint folder as a transformers model: on the meta device, or loaded once its weights fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from schemas.errors import InputError, LavaBeamError
from schemas.modelfolder import check_counts, check_parameters, read_tensors_of
from trainer.models.folder import ModelFolder
from trainer.models.kernels import check_kernel
from trainer.stages import unreached_parameters


def from_folder(folder: ModelFolder, **options: Any) -> Any:
    """`from_pretrained` of the folder's class. No code of the folder is run, and nothing is unpickled.

    Raises InputError for a folder that cannot be loaded, or whose weights are not exactly the model's; and before
    anything is allocated for one whose configuration describes a larger model than its weights hold.
    """
    import transformers
    from transformers.integrations import is_deepspeed_zero3_enabled

    if options.get("attn_implementation") is None:
        check_kernel(_asked(folder.config), str(folder.path))
    tensors = read_tensors_of(folder.path)
    check_counts(folder.path / "config.json", folder.config, tensors)
    kind = getattr(transformers, folder.model_class)
    options |= {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    try:
        if not is_deepspeed_zero3_enabled():  # where a model without storage would be divided among ranks
            parameters = sum(parameter.numel() for parameter in empty_shell(folder).parameters())
            check_parameters(folder.path / "config.json", parameters, tensors)
        with _quiet():
            model, loading = kind.from_pretrained(folder.path, **options)
    except (LavaBeamError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the code of a model meets in a configuration that is not its own
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError(
            f"{folder.path}: transformers cannot load it ({words}). Fetch the checkpoint again, or assemble it from "
            "its tower and llm."
        ) from error
    check_complete(model, loading["missing_keys"], loading["unexpected_keys"], folder)
    return model


def _asked(config: dict[str, Any]) -> str | None:
    """The attention that a config.json asks for itself; None if it does not."""
    found = config.get("attn_implementation", config.get("_attn_implementation"))
    return found if isinstance(found, str) else None


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers prints a table of every weight that is missing, which `check_complete` says in one line."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def check_complete(model: Any, missing: Iterable[str], foreign: Iterable[str], folder: ModelFolder) -> None:
    """Raise InputError when the checkpoint lacks weights that the model reads, which would be initialised at random, or
    holds weights that it has no place for: they are another model's, or go by other names."""
    needed, extra = sorted(set(missing) - set(unreached_parameters(model))), sorted(foreign)
    if not needed and not extra:
        return
    found = []
    if needed:
        found.append(f"{len(needed)} weights are missing, among them {needed[0]}")
    if extra:
        found.append(f"{len(extra)} have no place in a {type(model).__name__}, among them {extra[0]}")
    raise InputError(
        f"{folder.path}: {'; '.join(found)}. Fetch the checkpoint again, assemble it from its tower and llm, or "
        "convert one of the original LLaVA code with `lavabeam import-checkpoint`."
    )


def empty_shell(folder: ModelFolder) -> Any:
    """The model of a folder's configuration without storage: names and shapes only."""
    import transformers

    kind = getattr(transformers, folder.model_class)
    config = kind.config_class.from_dict(folder.config)
    with torch.device("meta"):
        return kind._from_config(config)
