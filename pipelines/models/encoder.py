"""Images or texts to unit vectors, with a model folder."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.models.folder import EmbeddingModel
from pipelines.models.loading import load_local, load_processor
from schemas.errors import InputError

UNLIMITED = 1_000_000
"""A tokenizer without a limit says a number beyond any text."""


class Encoder:
    """One model, loaded once per process. Calls from several threads take turns: it uses all cores by itself."""

    def __init__(self, model: EmbeddingModel, device: str | None = None):
        """Load weights and processor; raises InputError when they are not those that the configuration describes."""
        import torch
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        self.model, name = model, str(model.folder)
        loaded, loading = load_local(name, AutoModel, False, output_loading_info=True)
        absent = sorted(key for key in loading["missing_keys"] if _is_used(key, model))
        if absent:
            raise InputError(
                f"{name}: the weights lack {absent[0]}{' and others' if len(absent) > 1 else ''}, which the pooling "
                f"{model.pooling} needs. Give another folder, or another --pooling."
            )
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model, self._lock = loaded.to(self._device).eval(), threading.Lock()
        kind = AutoImageProcessor if model.side == "pictures" else AutoTokenizer
        self._processor = load_processor(name, kind, False)

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        """float32 (items, width), each row of length 1. Pictures are uint8 (height, width, 3); texts are str.

        A row that the model gives no direction (zeros, NaN) is NaN. Raises whatever the model library raises.
        """
        import torch

        with self._lock, torch.inference_mode():
            inputs = self._pictures(items) if self.model.side == "pictures" else self._texts(items)
            vectors = self._pooled(inputs).float().cpu().numpy()
        if vectors.shape != (len(items), self.model.width):
            raise InputError(
                f"{self.model.folder}: {vectors.shape[-1]} numbers in a vector, its config.json says "
                f"{self.model.width}. These are another model's weights, or another model's config.json."
            )
        return unit(vectors)

    def _pictures(self, pictures: Sequence[np.ndarray]) -> dict[str, Any]:
        made = self._processor(images=list(pictures), input_data_format="channels_last", return_tensors="pt")
        return {"pixel_values": made["pixel_values"].to(self._device)}

    def _texts(self, texts: Sequence[str]) -> dict[str, Any]:
        config = self._model.config.get_text_config()
        limits = [self.model.longest, self._processor.model_max_length, _positions(config)]
        longest = min(limit for limit in limits if limit is not None and limit < UNLIMITED)
        # SigLIP was trained on texts padded to its whole length, and reads no mask (model card, "Usage").
        whole = "siglip" in self._model.config.model_type
        padding: Any = "max_length" if whole else True
        made = self._processor(list(texts), padding=padding, truncation=True, max_length=longest, return_tensors="pt")
        taken = ("input_ids",) if whole else ("input_ids", "attention_mask")
        return {name: made[name].to(self._device) for name in taken}

    def _pooled(self, inputs: dict[str, Any]) -> Any:
        """(items, width) by the model's pooling."""
        if self.model.pooling == "projected":
            two = self._model
            features = (two.get_image_features if self.model.side == "pictures" else two.get_text_features)(**inputs)
            return getattr(features, "pooler_output", features)
        output = self._model(**inputs)
        if self.model.pooling == "pooler":
            found = getattr(output, "pooler_output", None)
            if found is None:
                raise InputError(f"{self.model.folder}: the model has no pooler. Give --pooling cls or mean.")
            return found.flatten(1)
        last = output.last_hidden_state
        if last.ndim == 4:  # a convolutional network: (items, width, rows, columns)
            last = last.flatten(2).transpose(1, 2)
        if self.model.pooling == "cls":
            return last[:, 0]
        mask = inputs.get("attention_mask", last.new_ones(last.shape[:2])).unsqueeze(-1).to(last.dtype)
        return (last * mask).sum(1) / mask.sum(1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """(rows, width) at length 1 as float32; rows without a direction are NaN."""
    vectors = vectors.astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        made = (vectors / lengths).astype(np.float32)
    made[~np.isfinite(made).all(axis=1)] = np.nan
    return made


def _positions(config: Any) -> int | None:
    """Tokens that the model has places for; RoBERTa-like models count theirs from behind the padding index."""
    found = getattr(config, "max_position_embeddings", None)
    if found is None:
        return 512
    kin = "roberta" in config.model_type or config.model_type in ("camembert", "mpnet")
    return found - 2 if kin else found


def _is_used(key: str, model: EmbeddingModel) -> bool:
    """Whether a weight that a folder lacks decides the vectors: poolers that are not asked for do not."""
    if ".pooler." in f".{key}" and model.pooling in ("cls", "mean"):
        return False
    other = "text_model." if model.side == "pictures" else "vision_model."
    return not (model.pooling == "projected" and key.startswith(other))
