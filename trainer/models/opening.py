"""A checkpoint folder as a model of transformers: without storage, or loaded once its weights are known to fit."""

from __future__ import annotations

from typing import Any

import torch

from schemas.errors import InputError, LavaBeamError
from schemas.modelfolder import check_counts, check_parameters, read_tensors_of
from trainer.models.folder import ModelFolder


def from_folder(folder: ModelFolder, **options: Any) -> Any:
    """`from_pretrained` of the folder's class. No code of the folder is run, and nothing is unpickled.

    Raises InputError for a folder that cannot be loaded, and before anything is allocated for one whose configuration
    describes a larger model than its weights hold.
    """
    import transformers
    from transformers.integrations import is_deepspeed_zero3_enabled

    tensors = read_tensors_of(folder.path)
    check_counts(folder.path / "config.json", folder.config, tensors)
    kind = getattr(transformers, folder.model_class)
    try:
        if not is_deepspeed_zero3_enabled():  # where a model without storage would be divided among ranks
            parameters = sum(parameter.numel() for parameter in empty_shell(folder).parameters())
            check_parameters(folder.path / "config.json", parameters, tensors)
        return kind.from_pretrained(folder.path, trust_remote_code=False, use_safetensors=True, **options)
    except (LavaBeamError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the code of a model meets in a configuration that is not its own
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError(
            f"{folder.path}: transformers cannot load it ({words}). Fetch the checkpoint again, or assemble it from "
            "its tower and llm."
        ) from error


def empty_shell(folder: ModelFolder) -> Any:
    """The model of a folder's configuration without storage: names and shapes only."""
    import transformers

    kind = getattr(transformers, folder.model_class)
    config = kind.config_class.from_dict(folder.config)
    with torch.device("meta"):
        return kind._from_config(config)
