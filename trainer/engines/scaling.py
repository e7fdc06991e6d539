"""Loss scaling for fp16, whose smallest number is 6e-8: gradients are computed from a scaled loss."""

from __future__ import annotations

FIRST, FACTOR, CLEAN_STEPS = 2.0**16, 2.0, 2000
"""The first scale; what it is divided by after an overflow; and after how many updates in a row without one it is
multiplied by as much: torch.amp.GradScaler's defaults (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2)."""


class LossScale:
    """The scale of the next step, the same on every rank. `clean`: updates since it last changed."""

    def __init__(self) -> None:
        self.value, self.clean = FIRST, 0

    def update(self, finite: bool) -> None:
        """After a step whose gradient was finite, and updated the weights, or was not."""
        self.clean += 1
        if not finite:
            self.value, self.clean = self.value / FACTOR, 0
        elif self.clean == CLEAN_STEPS:
            self.value, self.clean = self.value * FACTOR, 0

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"value": self.value, "clean": self.clean}

    def load(self, state: dict[str, float]) -> None:
        """Continue from a checkpoint's `state`."""
        self.value, self.clean = float(state["value"]), int(state["clean"])
