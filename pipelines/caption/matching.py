"""Image-text matching scores: BLIP's matching head, CLIP or SigLIP.

BLIP (arXiv 2201.12086, section 3.3, "CapFilt") keeps a text, written by people or by a captioner, only where the
matching head says that it belongs to the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from pipelines.models.loading import load_local, load_processor, model_version
from schemas.errors import InputError

if TYPE_CHECKING:
    import torch

Pair = tuple[int, str]
"""A picture by its number in the list of images, and words."""

DIGITS = 4
"""Scores are rounded: their last digits depend on the batch and the machine."""


class Matcher:
    """Scores pairs of pictures and words. Higher is better; the scale is the model's own.

    BlipForImageTextRetrieval: the probability (0 to 1) that they belong together. CLIP, SigLIP and similar models: the
    cosine of their embeddings (-1 to 1).
    """

    def __init__(self, model: str, revision: str | None, device: str, batch_pairs: int):
        """Load model and processor; raises InputError when the folder holds none of these models."""
        from transformers import AutoConfig, AutoModel, AutoProcessor, BlipForImageTextRetrieval

        self.name = f"{Path(model).name}@{model_version(model, revision, 'score_model')}"
        self._device, self._batch_pairs = device, batch_pairs
        options = {"revision": revision} if revision else {}
        try:
            config = load_processor(model, AutoConfig, False, **options)
            self._has_head = "BlipForImageTextRetrieval" in (config.architectures or ())
            kind: Any = BlipForImageTextRetrieval if self._has_head else AutoModel
            loaded, loading = load_local(model, kind, False, **options, output_loading_info=True)
            self._processor: Any = load_processor(model, AutoProcessor, False, **options)
        except InputError as error:
            raise _no_matcher(model, str(error).removeprefix(f"{model}: ")) from error
        # A captioner's folder loads as well, with the weights that it lacks drawn at random.
        if loading["missing_keys"] or not (self._has_head or hasattr(loaded, "get_text_features")):
            raise _no_matcher(model, f"it holds {', '.join(config.architectures or ['a model without a name'])}")
        self._model = loaded.to(device).eval()

    def scores(self, images: Sequence[Image.Image], pairs: Sequence[Pair]) -> list[float]:
        """One score per pair. Several pairs may share a picture; the model sees it once."""
        import torch

        with torch.inference_mode():
            seen = self._seen(images)
            found: list[float] = []
            for start in range(0, len(pairs), self._batch_pairs):
                part = pairs[start : start + self._batch_pairs]
                chosen = seen[torch.tensor([image for image, _ in part], device=seen.device)]
                found += self._scored(chosen, [words for _, words in part]).tolist()
        return [round(score, DIGITS) for score in found]

    def _seen(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Images -> what the tower makes of them: (images, patches, width) for the head, else (images, width)."""
        inputs = self._processor.image_processor(images=list(images), return_tensors="pt").to(self._device)
        pixels = inputs["pixel_values"]
        if self._has_head:
            return self._model.vision_model(pixel_values=pixels).last_hidden_state
        return _unit(self._model.get_image_features(pixel_values=pixels))

    def _scored(self, seen: torch.Tensor, texts: list[str]) -> torch.Tensor:
        """A picture and a text for each pair -> scores (pairs,)."""
        words = self._words(texts)
        if not self._has_head:
            return (_unit(self._model.get_text_features(**words)) * seen).sum(dim=-1)
        # What the model's own forward does, with one look per picture instead of one per pair.
        everywhere = seen.new_ones(seen.shape[:2])
        joined = self._model.text_encoder(**words, encoder_hidden_states=seen, encoder_attention_mask=everywhere)
        return self._model.itm_head(joined.last_hidden_state[:, 0]).softmax(dim=-1)[:, 1]

    def _words(self, texts: list[str]) -> dict[str, torch.Tensor]:
        tokenizer, text = self._processor.tokenizer, self._model.config.get_text_config()
        # SigLIP was trained on texts padded to its whole length, and reads no mask (model card, "Usage").
        padding: Any = "max_length" if "siglip" in self._model.config.model_type else True
        longest = text.max_position_embeddings
        words = tokenizer(texts, padding=padding, truncation=True, max_length=longest, return_tensors="pt")
        taken = ("input_ids",) if padding == "max_length" else ("input_ids", "attention_mask")
        return {name: words[name].to(self._device) for name in taken}


def _unit(features: torch.Tensor) -> torch.Tensor:
    """Embeddings (rows, width) at length 1; the library wraps them in an output object."""
    features = getattr(features, "pooler_output", features)
    return features / features.norm(dim=-1, keepdim=True)


def _no_matcher(model: str, why: str) -> InputError:
    return InputError(
        f"{model}: not a model that scores text against pictures ({why}). Give score_model a folder with a "
        "BlipForImageTextRetrieval, a CLIP or a SigLIP, and its processor."
    )
