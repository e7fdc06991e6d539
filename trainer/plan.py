"""The epoch plan: which rows make each step, and which rank trains on which of them in which micro-step.

The public face of `trainer.planning`. A plan is a pure function of the token and image counts of all rows (columns of
the dataset; no image is read), a seed, an epoch and a global batch. It yields row numbers. numpy only, no torch.
"""

from trainer.planning.command import plan_command
from trainer.planning.cost import CostModel
from trainer.planning.epoch import Plan
from trainer.planning.figures import figures
from trainer.planning.make import make_plan
from trainer.planning.memory import NF4_BYTES, MemoryEstimate, ModelSizes, estimate_memory
from trainer.planning.report import compare, render
from trainer.planning.strategies import STRATEGIES, strategy_of

__all__ = [
    "NF4_BYTES",
    "STRATEGIES",
    "CostModel",
    "MemoryEstimate",
    "ModelSizes",
    "Plan",
    "compare",
    "estimate_memory",
    "figures",
    "make_plan",
    "plan_command",
    "render",
    "strategy_of",
]
