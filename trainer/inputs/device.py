"""Moves micro-batches to the model's device a step ahead and normalises images there.

Host tensors flow in, pictures as uint8; the model's inputs flow out. A picture crosses in a quarter of float32's bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from trainer.inputs.steps import Step

HOST = ("image_sizes", "batch_num_images")
"""What the model reads on the host: on a GPU it would wait forevery picture's size."""


class Device:
    """Where the model's inputs are needed, and how: `dtype` is the model's; mean, std: per channel, of values in 0..1.

    Copies of pinned memory run beside the work on a separate stream; on a CPU nothing is copied.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, mean: Sequence[float], std: Sequence[float]):
        self.device, self.dtype = device, dtype
        means, spans = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std))
        self._scale = (1 / (255 * spans)).float().to(device)
        self._shift = (-means / spans).float().to(device)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def ahead(self, steps: Iterable[Step]) -> Iterator[Step]:
        """The same steps with their tensors on the device; there, the next step is being copied while one is worked on.

        Pictures are still uint8: `inputs` normalises a micro-batch when its turn comes.
        """
        if self._stream is None:
            yield from steps
            return
        waiting: Step | None = None
        for step in steps:
            sent = replace(step, batches=[self._sent(batch) for batch in step.batches])
            if waiting is not None:
                yield self._arrived(waiting)
            waiting = sent
        if waiting is not None:
            yield self._arrived(waiting)

    def inputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A micro-batch as the model takes it: on the device, pictures normalised, in the model's type."""
        placed = self._placed(batch)
        return {**placed, "pixel_values": self.normalised(placed["pixel_values"])}

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """(value / 255 - mean) / std of uint8 (..., 3, S, S), computed in float32, in the model's type."""
        return pixels.float().mul_(self._scale).add_(self._shift).to(self.dtype)

    def _placed(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value.to(self.device, non_blocking=True)
            if isinstance(value, torch.Tensor) and name not in HOST
            else value
            for name, value in batch.items()
        }

    def _sent(self, batch: dict[str, Any]) -> dict[str, Any]:
        with torch.cuda.stream(self._stream):
            return self._placed(batch)

    def _arrived(self, step: Step) -> Step:
        """Let the work wait for the copies; their memory may be used again only after the work."""
        work = torch.cuda.current_stream(self.device)
        assert self._stream is not None
        work.wait_stream(self._stream)
        for batch in step.batches:
            for value in batch.values():
                if isinstance(value, torch.Tensor) and value.is_cuda:
                    value.record_stream(work)
        return step
