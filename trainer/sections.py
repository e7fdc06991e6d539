"""The sections of a training recipe: model, data, plan, optimizer, deepspeed, lora, checkpoints, evaluate, wandb.

Numbers that have a source cite it in the recipe.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from schemas.config import StrictModel
from schemas.errors import InputError
from trainer.planning.strategies import STRATEGIES, strategy_of

Positive = Field(gt=0)

RENAMED = {"rate": "learning_rate", "rates": "learning_rates"}
"""Keys of `optimizer` that were renamed: old name -> name. Run folders with the old names can still be read."""


class ModelConfig(StrictModel):
    """Either `checkpoint`, a llava-hf folder, or the parts of a new model: `tower`, `llm` and how they are joined."""

    checkpoint: str | None = None
    """A complete LLaVA: a llava-hf folder, or the run folder of an earlier stage."""
    tower: str | None = None
    """The folder of the vision tower."""
    llm: str | None = None
    """The folder of the language model."""
    tokenizer: str | None = None
    """The folder of the tokenizer; by default the language model's."""
    projector: str | None = None
    """An original mm_projector.bin to start from; by default the projector starts from random weights."""
    projector_type: Literal["linear", "mlp2x_gelu"] = "mlp2x_gelu"
    """How features of the tower become those of the language model: one layer, or two with GELU between."""
    select_layer: int = -2
    """The layer of the tower whose output is used, counted from the end where negative."""
    select_feature: Literal["patch", "full"] = "patch"
    """patch leaves the tower's class token out."""

    @model_validator(mode="after")
    def _one_origin(self) -> ModelConfig:
        if (self.checkpoint is None) == (self.tower is None or self.llm is None):
            raise ValueError("give either `checkpoint` (a LLaVA folder) or both `tower` and `llm`")
        fields = type(self).model_fields
        parts = [name for name in fields if name != "checkpoint" and getattr(self, name) != fields[name].default]
        if self.checkpoint is not None and parts:
            raise ValueError(f"`checkpoint` is a complete model, so `{parts[0]}` would do nothing: leave it out")
        return self


class DataConfig(StrictModel):
    """The mix. `max_bad`: how many rows may turn out bad at run time before the run stops; each is recorded."""

    mix: str
    """The samples dataset of a mix."""
    at: int | None = None
    """Its manifest number; by default the newest."""
    max_length: int | None = Field(default=None, gt=0)
    """Tokens of a row at most; by default what the model can read."""
    too_long: Literal["refuse", "cut"] = "refuse"
    """What happens to longer rows: they stop the run before it starts, or are cut at the end."""
    max_bad: int = Field(default=0, ge=0)
    """Rows, on all ranks together, that may turn out bad at run time before the run stops."""
    workers: int = Field(default=0, ge=0)
    """Processes of each rank that prepare rows; 0 prepares them in the rank itself."""


def _known_strategy(name: str) -> str:
    try:
        strategy_of(name)
    except InputError as error:
        raise ValueError(str(error)) from error
    return name


class PlanConfig(StrictModel):
    """The order of data; see trainer/plan.py."""

    strategy: Annotated[str, AfterValidator(_known_strategy)] = Field(
        "balanced", description="; ".join(f"{name}: {one.help}" for name, one in STRATEGIES.items())
    )
    global_batch: int = Positive
    """Rows of one optimizer step, on all ranks together."""
    accumulation: int = Field(default=1, gt=0)
    """Micro-batches of one step on each rank."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Tokens that a rank may hold in one micro-batch; a step that does not fit gets more of them."""
    rows: Literal["auto", "padded", "packed"] = "auto"
    """How rows of a micro-batch lie in memory: padded to the longest, or packed behind each other."""
    seed: int = Field(default=0, ge=0)
    """Decides the order of rows."""


class OptimizerConfig(StrictModel):
    """AdamW. `learning_rates` overrides `learning_rate` per module (tower, projector, llm); `warmup` is a share of all
    steps."""

    learning_rate: float = Positive
    """The highest one, after warm-up."""
    learning_rates: dict[Literal["tower", "projector", "llm"], Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict
    )
    """Other ones for single modules."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of all weights but biases and norms."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of AdamW's two moments."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to AdamW's denominator."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """The share of all steps in which the rate rises to its highest."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """How the rate falls afterwards."""
    clip: float = Field(default=1.0, ge=0)
    """The largest norm of a gradient; 0 does not clip."""

    def warmup_steps(self, steps: int) -> int:
        """How many of `steps` have a rate below the highest. The first has 0: at least one is not among them."""
        return min(math.ceil(self.warmup * steps), steps - 1)

    @model_validator(mode="before")
    @classmethod
    def _names_of_today(cls, values: Any) -> Any:
        renamed = [old for old in RENAMED if old in values] if isinstance(values, dict) else []
        if renamed:
            raise ValueError("; ".join(f"unknown key {old!r}, now called {RENAMED[old]!r}" for old in renamed))
        return values


class DeepSpeedConfig(StrictModel):
    """`zero`: ZeRO stage. `offload`: what is kept in host memory: nothing, the optimizer state, or the parameters too
    (ZeRO-3)."""

    zero: Literal[0, 1, 2, 3] = 2
    """The ZeRO stage: what is divided among the ranks. In 16 bits, 0 is computed as 1."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What is kept in host memory: nothing, the optimizer state, or the parameters too (ZeRO-3)."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto is bf16 on a GPU that supports it, fp16 with loss scaling on any other GPU, and fp32 without one."""

    @model_validator(mode="after")
    def _possible(self) -> DeepSpeedConfig:
        if self.offload == "all" and self.zero != 3:
            raise ValueError(
                "offload 'all' moves parameters, which only zero 3 shards: set zero: 3, or offload: optimizer"
            )
        if self.offload == "optimizer" and self.zero == 0:
            raise ValueError("offload needs zero 1, 2 or 3")
        return self


class LoraConfig(StrictModel):
    """LoRA on the llm's linear layers. Defaults: LLaVA v1.5, scripts/v1_5/finetune_lora.sh."""

    rank: int = Field(default=128, gt=0)
    """Of the added matrices."""
    alpha: int = Field(default=256, gt=0)
    """Their scale is alpha over rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """The share of inputs that is dropped in training."""


class CheckpointConfig(StrictModel):
    """Write a checkpoint every `every` steps (0: only the finished model) and keep the newest `keep`."""

    every: int = Field(default=0, ge=0)
    """Steps between two checkpoints; 0 writes only the finished model."""
    keep: int = Field(default=1, gt=0)
    """How many of the newest stay."""


class EvaluateConfig(StrictModel):
    """The loss over rows that are not trained on, `every` so many steps and at the end."""

    every: int = Positive
    """Steps between two evaluations."""
    split: float | None = Field(default=None, gt=0, lt=1)
    """The share of the mix that is held out and evaluated on, chosen by a hash of the rows' keys."""
    mix: str | None = None
    """Another mix to evaluate on, instead of a share of the trained one."""
    rows: int = Field(default=1000, gt=0)
    """Rows to evaluate on at most; the same ones every time."""
    keep_best: bool = True
    """Keep a checkpoint of the lowest loss so far, beside the newest `checkpoints.keep`."""

    @model_validator(mode="after")
    def _one_source(self) -> EvaluateConfig:
        if (self.split is None) == (self.mix is None):
            raise ValueError("give either `split` (a share of the mix to hold out) or `mix` (another mix)")
        return self


class WandbConfig(StrictModel):
    """Weights & Biases: log to `project` of `entity` (default: yours) as `name` (default: the folder's name)."""

    project: str
    """The project to log to."""
    entity: str | None = None
    """Whose project; by default yours."""
    name: str | None = None
    """The run's name; by default the folder's."""
