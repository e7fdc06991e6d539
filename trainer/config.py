"""The recipe of a training stage: every key that `recipes/training/*.yaml` may have, read and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from schemas.config import StrictModel, parse, read_yaml
from schemas.errors import InputError
from trainer.sections import (
    RENAMED,
    CheckpointConfig,
    DataConfig,
    DeepSpeedConfig,
    EvaluateConfig,
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    PlanConfig,
    WandbConfig,
)
from trainer.unused import refuse_unused, without_unused


class Recipe(StrictModel):
    """One stage of training. `original_projector` also writes the original code's mm_projector.bin. `compile`:
    torch.compile on every layer; `liger`: Liger's kernels (GPU). Both change rounding only. `trackers: []` turns
    TensorBoard off; `peak_tflops` is the peak of one device that MFU is relative to (see trainer/metrics/flops.py)."""

    stage: str
    """What is trained: pretrain, finetune, finetune_tower, finetune_lora or finetune_qlora."""
    train: tuple[str, ...] | None = None
    """Other modules than the stage's: tower, projector, llm."""
    model: ModelConfig
    data: DataConfig
    plan: PlanConfig
    optimizer: OptimizerConfig
    epochs: float | None = Field(default=None, gt=0)
    """How often each row is seen; a fraction ends early. Without it and `steps`: once."""
    steps: int | None = Field(default=None, gt=0)
    """Optimizer steps, instead of `epochs`."""
    engine: Literal["deepspeed", "fsdp2"] = "deepspeed"
    """What divides the model among ranks: DeepSpeed, or torch's FSDP2 (like ZeRO-3; no offload, no 4-bit weights)."""
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    lora: LoraConfig = LoraConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    evaluate: EvaluateConfig | None = None
    """Evaluate while training; by default nothing is held out."""
    gradient_checkpointing: bool | Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = False
    """Compute activations again in the backward pass: less memory, more time. A number is the share of layers; `auto`
    is the smallest that the GPU's memory asks for."""
    attention: Literal[
        "auto", "flash_attention_4", "flash_attention_3", "flash_attention_2", "torch_varlen", "sdpa", "eager"
    ] = "auto"
    """The language model's attention. auto is the first of these four that is installed and can run here, else sdpa."""
    sequence_parallel: int = Field(default=1, gt=0)
    """Ranks that share each packed row, for rows of 32k tokens and more; a divisor of the model's heads."""
    compile: bool = False
    """torch.compile on every layer; changes rounding only."""
    liger: bool = False
    """Liger's kernels (GPU); changes rounding only."""
    original_projector: bool = False
    """Also write the original code's mm_projector.bin."""
    trackers: tuple[Literal["tensorboard"], ...] = ("tensorboard",)
    """Where figures go beside metrics.jsonl; [] turns TensorBoard off."""
    wandb: WandbConfig | None = None
    """Log to Weights & Biases too."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """The peak of one device that MFU is relative to; by default the known one of the device."""
    output: str
    """The run folder."""

    @property
    def again(self) -> float | None:
        """The share of layers whose activations are computed again; None for `auto`."""
        return None if self.gradient_checkpointing == "auto" else float(self.gradient_checkpointing)

    def data_ranks(self, ranks: int) -> int:
        """How many of `ranks` have rows of their own. Raises InputError where they do not come in whole groups."""
        if ranks % self.sequence_parallel:
            raise InputError(
                f"sequence_parallel: {self.sequence_parallel} ranks share a row, and {ranks} ranks do not make whole "
                "groups of them. Start a multiple of them, or set `sequence_parallel: 1`."
            )
        return ranks // self.sequence_parallel

    @model_validator(mode="after")
    def _whole_rows(self) -> Recipe:
        if self.sequence_parallel > 1:
            if self.plan.rows == "padded" or self.attention in ("sdpa", "eager"):
                raise ValueError("sequence_parallel divides packed rows: leave `plan.rows` and `attention` at auto")
            if self.compile:
                raise ValueError("sequence_parallel and compile have not been tried together: leave one of them out")
        return self

    @model_validator(mode="after")
    def _has_folder(self) -> Recipe:
        if not self.output.strip():
            raise ValueError("`output` is empty: give the run folder")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give `epochs` or `steps`, not both")
        return self

    @property
    def held_out(self) -> float | None:
        """The share of the mix that is not trained on."""
        return self.evaluate.split if self.evaluate else None


def load_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe from a YAML file, with dotted keys overridden (`{"data.mix": "work/mix"}`). Raises InputError, also
    for a key that the recipe's stage does not read."""
    values = read_yaml(path)
    for dotted, value in (overrides or {}).items():
        _put(values, dotted.split("."), value)
    recipe = parse(values, Recipe, where=str(path))
    refuse_unused(recipe, str(path))
    return recipe


def load_saved_recipe(path: Path) -> Recipe:
    """Read the recipe of a run folder. It may have the key names of an earlier release (`RENAMED`)."""
    values = read_yaml(path)
    if isinstance(values.get("optimizer"), dict):
        values["optimizer"] = {RENAMED.get(key, key): value for key, value in values["optimizer"].items()}
    return parse(values, Recipe, where=str(path))


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe, defaults included; `load_recipe` reads it too."""
    path.write_text(yaml.safe_dump(without_unused(recipe), sort_keys=False), encoding="utf-8")


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise InputError(f"override {'.'.join(keys)}: {key!r} holds a value, not a section.")
    values[keys[-1]] = value
