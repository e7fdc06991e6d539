"""Aesthetic score: a head of linear layers on CLIP embeddings, in the format published by LAION.

LAION-Aesthetics (laion.ai/blog/laion-aesthetics): an MLP without activations on ViT-L/14's embedding at length 1
(improved-aesthetic-predictor), or one linear layer (aesthetic-predictor); both give 1 to 10.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pipelines.models.folder import embedding_model
from pipelines.models.loading import weights_version
from pipelines.score.scorer import Encoders, Sample, Scorer, Settings, Value
from pipelines.score.similarity import picture_vectors
from schemas.errors import InputError

MOST_BYTES = 256 << 20
"""Of a head's file; LAION's has 3.7 MB."""


class AestheticSettings(Settings):
    """A CLIP and a head that was trained on its embeddings."""

    model: str = Field(description="the folder of the CLIP whose embeddings the head was trained on")
    head: str = Field(description="a state dict of linear layers, safetensors or .pth (read without running a pickle)")
    activation: Literal["none", "relu"] = Field("none", description="between the layers; LAION's heads have none")


@dataclass(frozen=True)
class Head:
    """Linear layers in order: weights (out, in) and biases (out,)."""

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    relu: bool = False

    @property
    def width(self) -> int:
        return self.layers[0][0].shape[1]

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(rows, width) -> (rows,)."""
        for number, (weight, bias) in enumerate(self.layers):
            vectors = vectors @ weight.T + bias
            if self.relu and number < len(self.layers) - 1:
                vectors = np.maximum(vectors, 0)
        return vectors[:, 0]


class Aesthetic(Scorer[AestheticSettings]):
    """What the head says: about 1 (least liked) to 10 for LAION's, which called 5 and more aesthetic."""

    name, version, Settings, sees = "aesthetic", 1, AestheticSettings, "pixels"

    @property
    def models(self) -> tuple[str, ...]:
        return (self.settings.model, self.settings.head)

    def check(self) -> dict[str, Any]:
        model = embedding_model(self.settings.model, "pictures", field="aesthetic: model")
        head = read_head(Path(self.settings.head))
        if head.width != model.width:
            raise InputError(
                f"aesthetic: head {self.settings.head}: takes vectors of {head.width} numbers, and the model "
                f"{self.settings.model} makes {model.width}. Give the CLIP that the head was trained on."
            )
        return {"weights": weights_version(model.folder), "head": weights_version(Path(self.settings.head))}

    def setup(self, encoders: Encoders) -> None:
        self._encoder = encoders.of(embedding_model(self.settings.model, "pictures"))
        self._head = read_head(Path(self.settings.head), self.settings.activation == "relu")

    def scores(self, samples: Sequence[Sample]) -> Sequence[Value]:
        return [float(value) for value in self._head(picture_vectors(samples, self._encoder))]


def read_head(path: Path, relu: bool = False) -> Head:
    """The layers of a state dict, in the order of the numbers in their names; the last has one output.

    Raises InputError for a file that holds anything else. A .pth is read with `weights_only`: tensors, and no code.
    """
    tensors = _tensors(path)
    names = sorted((_numbers(name), name) for name in tensors if name.endswith("weight"))
    layers: list[tuple[np.ndarray, np.ndarray]] = []
    for _, name in names:
        weight = tensors[name]
        bias = tensors.get(name.removesuffix("weight") + "bias", np.zeros(weight.shape[:1], np.float32))
        before = layers[-1][0].shape[0] if layers else weight.shape[-1]
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or weight.shape[1] != before:
            raise InputError(f"{path}: {name} has shape {weight.shape}, expected consecutive linear layers.")
        layers.append((weight, bias))
    if not layers or layers[-1][0].shape[0] != 1:
        found = ", ".join(sorted(tensors)[:8]) or "no tensors"
        raise InputError(f"{path}: holds {found}; expected linear layers, the last with one output.")
    return Head(tuple(layers), relu)


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _tensors(path: Path) -> dict[str, np.ndarray]:
    import torch
    from safetensors.torch import load_file

    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: no such file, or more than {MOST_BYTES} bytes. Give the state dict of a head.")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each library raises what its parsing runs into
        words = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: no state dict ({type(error).__name__}: {words}). Save it with safetensors, or as "
            "`torch.save(head.state_dict(), path)`."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(one, torch.Tensor) for one in state.values()):
        raise InputError(f"{path}: holds a {type(state).__name__}, expected a state dict: names and tensors.")
    return {str(name): tensor.float().numpy() for name, tensor in state.items()}
