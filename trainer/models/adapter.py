"""LoRA on the language model: add it, write it beside the projector, and merge it into a full checkpoint."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from schemas.errors import InputError
from trainer.models.adapterfolder import IN_FULL, ORIGIN, AdapterFolder
from trainer.models.folder import ModelFolder
from trainer.runfolder import WEIGHTS, weights_digest
from trainer.sections import LoraConfig
from trainer.stages import module_of

TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|qkv_proj|o_proj|gate_proj|up_proj|gate_up_proj|down_proj)"
"""All linear layers of the decoder, not lm_head: what LLaVA's `find_all_linear_names` finds (llava/train/train.py)."""

KEPT = ("vision_tower", "multi_modal_projector")
"""What stays in full precision beside a 4-bit language model. transformers 5 matches whole names from their start,
transformers 4 parts of names: both forms are given."""

TOLERANCE = 1e-4
"""Largest change of a logit by merging in float32, relative to the largest logit; rounding alone is below 1e-5."""


def add_lora(model: Any, settings: LoraConfig) -> Any:
    """The model with adapters, in the model's own precision (ZeRO-3 in bf16 cannot hold two)."""
    from peft import LoraConfig as Peft
    from peft import get_peft_model

    config = Peft(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=TARGETS)
    with without_peft_warnings():
        return get_peft_model(model, config, autocast_adapter_dtype=False)


def quantisation(bits: int = 4) -> Any:
    """Weights of the language model in 4 bits (QLoRA, Dettmers et al. 2023, arXiv 2305.14314, sections 3 and 4) or 8
    (LLM.int8(), Dettmers et al. 2022, arXiv 2208.07339)."""
    from transformers import BitsAndBytesConfig

    skipped = [*KEPT, *(f"model.{name}" for name in KEPT), "lm_head"]
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=skipped,
    )


def write_adapter(model: Any, weights: Mapping[str, torch.Tensor], origin: ModelFolder, output: Path) -> Path:
    """Write adapter weights and configuration as peft reads them, the projector (and the tower, if trained), and which
    model they belong to."""
    from peft import get_peft_model_state_dict

    from trainer.models.shards import save_tensors

    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    adapter = get_peft_model_state_dict(model, state_dict=dict(weights))
    save_tensors(adapter, output / "adapter_model.safetensors")
    model.peft_config["default"].save_pretrained(output)
    trained = {module_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    for module in trained & IN_FULL.keys() | {"projector"}:
        whole = {plain_name(name): tensor for name, tensor in weights.items() if module_of(name) == module}
        save_tensors(whole, output / IN_FULL[module])
    base = {"model": str(origin.path.resolve()), "template": origin.template, "image": origin.rule.to_dict()}
    base["weights"] = weights_digest(origin.path, WEIGHTS)
    (output / ORIGIN).write_text(json.dumps(base, indent=2) + "\n", encoding="utf-8")
    return output


def merge(adapter: str | Path, output: str | Path, model: str | Path | None = None) -> Path:
    """Merge the adapter and the modules trained beside it into the base model, written as a llava-hf folder.

    adapter: `adapter` of a LoRA run, or the run folder. model: the base checkpoint's new path, if it moved. The logits
    of a probe are compared before and after merging; raises InputError, and writes nothing, when they differ.
    """
    from peft import PeftModel
    from safetensors.torch import load_file

    from trainer.models.export import export

    found = AdapterFolder.open(adapter, model)
    folder, origin = found.path, found.base
    if Path(output).exists():
        raise InputError(f"{output}: already exists. Choose another folder for the merged model.")
    base = _load(origin)
    for file in found.in_full():
        mismatch = base.load_state_dict(load_file(file), strict=False)
        if mismatch.unexpected_keys:
            raise InputError(
                f"{file}: {origin.path} has no weight {mismatch.unexpected_keys[0]}: another model's file."
            )
    with without_peft_warnings():
        tuned = PeftModel.from_pretrained(base, str(folder)).eval()
    before = _probe(tuned, origin)
    merged = tuned.merge_and_unload()
    after = _probe(merged, origin)
    change = float((before - after).abs().max() / before.abs().max())
    if not change <= TOLERANCE:
        raise InputError(f"{folder}: merging changes logits by {change:.1e} of the largest; nothing was written.")
    weights = {name: tensor.to(_precision(origin)) for name, tensor in merged.state_dict().items()}
    origins = {"merged": folder.parent.name, "logit_change": change}
    return export(weights, merged.config, found.model, Path(output), origins)


def plain_name(name: str) -> str:
    """A parameter's name without peft's wrapping."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """peft 0.21 calls transformers 5 by a name that version 6 will not have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _load(origin: ModelFolder) -> Any:
    import transformers

    from trainer.models.opening import from_folder

    transformers.utils.logging.disable_progress_bar()
    return from_folder(origin, dtype=torch.float32).eval()


def _precision(origin: ModelFolder) -> torch.dtype:
    name = origin.config.get("dtype") or origin.config.get("torch_dtype") or "float32"
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise InputError(f"{origin.path}: config.json has the dtype {name!r}; expected one of torch's, as bfloat16.")
    return found


@torch.no_grad()
def _probe(model: Any, origin: ModelFolder) -> torch.Tensor:
    """Logits of fixed tokens, text only: adapters are only in the language model."""
    rows = int(origin.text.get("vocab_size", 32000))
    tokens = torch.arange(64).remainder(rows - 1)[None]
    tokens[tokens == origin.image_id] = 0
    return model(input_ids=tokens).logits.float()
