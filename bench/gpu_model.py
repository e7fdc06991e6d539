"""Random models for bench.gpu: published sizes, in the trainer's engine, with the trainer's choice of attention."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from bench.gpu_rows import IMAGE, PACKED, Run
from schemas.chat import ImageRule
from trainer.models.folder import ModelFolder
from trainer.models.towers import CLIP_MEAN, CLIP_STD

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
LANGUAGE = {
    # TinyLlama-1.1B, Llama-3.2-3B, Llama-2-7B: SIZES, key-value heads and vocabulary of their published config.json.
    "1b": (2048, 5632, 22, 32, 4, 32000),
    "3b": (3072, 8192, 28, 24, 8, 128256),
    "7b": (4096, 11008, 32, 32, 32, 32000),
    "7b8": (4096, 11008, 8, 32, 32, 32000),  # 8 of its layers: a full finetune of all 32 needs more than one GPU
    "tiny": (32, 64, 2, 2, 2, 300),
}
CLIP_L, TINY_CLIP = (1024, 4096, 24, 16), (16, 32, 2, 2)
"""SIZES of openai/clip-vit-large-patch14-336, and of a tower for a CPU."""


def build(run: Run, cuda: bool) -> tuple[ModelFolder, Any, str]:
    """A model with random weights in the trainer's engine, and its attention kernel."""
    import torch
    from transformers import AutoConfig, LlavaConfig

    from trainer.engines import start_engine
    from trainer.engines.base import join_ranks

    tiny = run.model == "tiny"
    rule = ImageRule(image_size=32, patch_size=8) if tiny else ImageRule()
    names = (*SIZES, "num_key_value_heads", "vocab_size")
    text = dict(zip(names, LANGUAGE[run.model], strict=True)) | {"max_position_embeddings": 4096}
    vision = dict(zip(SIZES, TINY_CLIP if tiny else CLIP_L, strict=True))
    vision |= {"image_size": rule.image_size, "patch_size": rule.patch_size}
    parts = AutoConfig.for_model("clip_vision_model", **vision), AutoConfig.for_model("llama", **text)
    config = LlavaConfig(vision_config=parts[0], text_config=parts[1], image_token_index=IMAGE)
    folder = ModelFolder(Path("random"), config.to_dict(), rule, CLIP_MEAN, CLIP_STD)
    ours = run.way == PACKED
    kernel, _ = kernel_of(run.attention if ours else "auto", "packed" if ours else "padded", cuda, run.model)
    torch.manual_seed(0)
    precision, device = "bf16" if cuda else "fp32", join_ranks(cuda)
    load = partial(random_model, run, config, kernel, device)
    engine = start_engine(run.recipe, precision, device, text, load)
    engine.model.train()
    return folder, engine, kernel or "sdpa"


def kernel_of(wanted: str, rows: str, cuda: bool, model: str) -> tuple[str | None, bool]:
    """The trainer's choice of attention, and whether it packs rows."""
    from trainer.models.kernels import Machine, attention

    text = dict(zip(SIZES, LANGUAGE[model], strict=False))
    return attention(wanted, rows, Machine.here("bf16" if cuda else "fp32"), text)


def random_model(run: Run, config: Any, kernel: str | None, device: Any, dtype: Any) -> Any:
    """A LLaVA of this configuration as the stage trains it, with random weights, on the device."""
    import torch
    from transformers import LlavaForConditionalGeneration

    from trainer.models.adapter import add_lora
    from trainer.models.kernels import compile_layers, for_text, use_liger
    from trainer.models.loading import compute_again
    from trainer.stages import freeze, get_stage

    with torch.device(device):
        model: Any = LlavaForConditionalGeneration._from_config(
            config, dtype=dtype, attn_implementation=for_text(kernel)
        )
    compute_again(model.model.language_model, run.recipe.again or 0.0)
    if run.recipe.liger:
        use_liger(model)
    llava, stage = model, get_stage(run.stage)
    if stage.adapter:
        model = add_lora(model, run.recipe.lora)
    freeze(model, stage)
    if run.recipe.compile:
        compile_layers(llava)
    return model
