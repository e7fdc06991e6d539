"""NSFW, or any other label of an image classifier."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from pipelines.models.folder import model_config
from pipelines.models.loading import load_local, load_processor, weights_version
from pipelines.score.scorer import Encoders, Sample, Scorer, Settings, Value
from schemas.config import nearest
from schemas.errors import InputError


class ClassifierSettings(Settings):
    """Which classifier, and which of its labels."""

    model: str = Field(description="the folder of a transformers image classifier")
    label: str = Field(
        "nsfw", description="the label whose probability is the score, as the model's config.json has it"
    )


class Nsfw(Scorer[ClassifierSettings]):
    """The probability of `label`, 0 to 1: softmax over all labels, or a sigmoid of its own where the model says that
    labels do not exclude each other (`problem_type: multi_label_classification`)."""

    name, version, Settings, sees = "nsfw", 1, ClassifierSettings, "pixels"

    @property
    def models(self) -> tuple[str, ...]:
        return (self.settings.model,)

    def check(self) -> dict[str, Any]:
        from transformers import AutoModelForImageClassification

        model, config = self.settings.model, model_config(self.settings.model, "nsfw: model")
        if type(config) not in AutoModelForImageClassification._model_mapping:
            raise InputError(
                f"nsfw: model {model}: a {config.model_type} model classifies no pictures. Give the folder of an image "
                "classifier (such as ViTForImageClassification)."
            )
        self._number(config)
        return {"weights": weights_version(Path(model))}

    def setup(self, encoders: Encoders) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        model = self.settings.model
        loaded, loading = load_local(model, AutoModelForImageClassification, False, output_loading_info=True)
        if loading["missing_keys"]:
            raise InputError(
                f"nsfw: model {model}: the weights lack {sorted(loading['missing_keys'])[0]}. This may be only its "
                f"backbone: give the folder of the trained classifier."
            )
        self._device = encoders.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model, self._lock = loaded.to(self._device).eval(), threading.Lock()
        self._processor = load_processor(model, AutoImageProcessor, False)
        self._label = self._number(loaded.config)

    def scores(self, samples: Sequence[Sample]) -> Sequence[Value]:
        import torch

        with self._lock, torch.inference_mode():
            pictures = [sample.pixels for sample in samples]
            inputs = self._processor(images=pictures, input_data_format="channels_last", return_tensors="pt")
            logits = self._model(pixel_values=inputs["pixel_values"].to(self._device)).logits.float()
            independent = self._model.config.problem_type == "multi_label_classification"
            shares = logits.sigmoid() if independent else logits.softmax(dim=-1)
            return shares[:, self._label].tolist()

    def _number(self, config: Any) -> int:
        """The number of the label; raises InputError naming those that there are."""
        numbers = {str(name): int(number) for number, name in config.id2label.items()}
        if self.settings.label not in numbers:
            known = ", ".join(list(numbers)[:12])
            raise InputError(
                f"nsfw: label {self.settings.label!r}: the classifier {self.settings.model} has {known}. "
                f"{nearest(self.settings.label, list(numbers))}"
            )
        return numbers[self.settings.label]
