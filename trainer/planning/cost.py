"""The cost of a set of samples on one rank, in floating point operations, from the model's sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.errors import InputError


@dataclass(frozen=True)
class CostModel:
    """Operations of one forward and backward pass, as a polynomial of a sample's length.

    cost = linear * tokens + attention * tokens^2 + vision * images (tiles with anyres), each coefficient in floating
    point operations (attention in operations of equal duration: see `from_sizes`). Only ratios matter to a plan.
    """

    linear: float
    attention: float
    vision: float

    def __post_init__(self) -> None:
        if not (self.linear > 0 and self.attention >= 0 and self.vision >= 0):
            raise InputError(f"the cost of a token must be positive and no cost may be negative, found {self}")

    @classmethod
    def from_sizes(
        cls,
        *,
        language_parameters: float = 6.74e9,
        hidden_size: int = 4096,
        layers: int = 32,
        vision_parameters: float = 0.304e9,
        projector_parameters: float = 21e6,
        tokens_per_image: int = 577,
        train_language: bool = True,
        train_vision: bool = False,
        checkpointing: float = 1.0,
        attention_efficiency: float = 0.6,
    ) -> CostModel:
        """The cost model of a decoder with projector and tower; the defaults: Llama-2-7B, mlp2x_gelu, CLIP-L/336.

        - linear, per token: 2N forward (Kaplan et al. 2020, arXiv 2001.08361, section 2.1: two operations per
          parameter), 2N backward to the activations, 2N more to the weights where they train, and 2N to recompute the
          forward pass in the `checkpointing` share of layers (Narayanan et al. 2021, arXiv 2104.04473, appendix, counts
          the same four passes).
        - attention, per token squared: a layer's two products of the score matrix cost 4 * hidden_size, half of it
          causally masked; backward is 2.5 times forward (Dao 2023, arXiv 2307.08691, section 4.1), plus the
          recomputation. `attention_efficiency` is the rate of a fused attention kernel relative to that of the matrix
          products around it; 0.6 is an assumption between the 50 % and 73 % of peak reported there.
        - vision, per image (per tile for anyres, before unpadding): 2 operations per tower parameter and token, three
          times that where the tower trains; 6 per projector parameter and token, which always trains.
        """
        passes = 2 + (2 if train_language else 0) + 2 + 2 * checkpointing
        attention_passes = 1 + 2.5 + checkpointing
        return cls(
            linear=passes * language_parameters,
            attention=4 * hidden_size / 2 * layers * attention_passes / attention_efficiency,
            vision=tokens_per_image * (2 * vision_parameters * (3 if train_vision else 1) + 6 * projector_parameters),
        )

    def cost(self, lengths: np.ndarray, image_counts: np.ndarray) -> np.ndarray:
        """Cost of each sample on its own, without padding: float64, the shape of `lengths`."""
        tokens = np.asarray(lengths, np.float64)
        return self.linear * tokens + self.attention * tokens**2 + self.vision * np.asarray(image_counts, np.float64)

    def padded_cost(self, samples: np.ndarray, longest: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Cost of micro-batches of `samples` rows, each padded to `longest` tokens, holding `images` images in all."""
        return samples * self.cost(longest, np.zeros(1)) + self.vision * np.asarray(images, np.float64)
