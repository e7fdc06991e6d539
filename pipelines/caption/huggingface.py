"""The `transformers` engine: any image-captioning or chat model that the library loads from a folder.

BLIP and its kin describe a picture, optionally going on from the words of `prompt`; a model with a chat
template (LLaVA, Qwen-VL...) answers `prompt`. No code out of a model folder is run.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import Field, model_validator

from pipelines.caption.candidates import best_captions
from pipelines.caption.engine import Caption, CaptionStatus, Identity, Picture
from pipelines.caption.local import Opened, captions_in_batches, model_version
from pipelines.caption.matching import Matcher
from pipelines.engine.step import Config, Runtime
from pipelines.llm.answer import AnswerStatus
from schemas.errors import InputError

DESCRIBE = "Describe this picture in one sentence."
"""What a chat model is asked unless `prompt` says otherwise."""


class TransformersConfig(Config):
    """Which model, how it chooses words, and which of several captions is kept."""

    name: Literal["transformers"] = "transformers"
    model: str = Field(description="a model folder, or a name on the hub together with `revision`")
    revision: str | None = Field(None, description="the commit of a hub model; a folder's files are hashed instead")
    prompt: str | None = Field(None, description="a chat model's question, or the first words of every caption")
    max_new_tokens: int = Field(40, ge=1)
    decoding: Literal["greedy", "nucleus"] = Field(
        "greedy", description="nucleus sampling draws from the likeliest tokens, up to top_p of the probability"
    )
    top_p: float = Field(0.9, gt=0, le=1)
    temperature: float = Field(1.0, gt=0)
    seed: int = Field(0, description="of nucleus sampling: draws depend only on it and the row's key")
    candidates: int = Field(1, ge=1, description="captions drawn per picture, of which score_model's best is kept")
    score_model: str | None = Field(None, description="a BLIP with matching head, a CLIP or a SigLIP that scores them")
    score_revision: str | None = Field(None, description="the commit, when score_model is a name on the hub")
    score_alt_text: bool = Field(False, description="the picture's own alt text is a candidate too")
    min_score: float | None = Field(
        None, description="captions that score lower are dropped; on score_model's own scale"
    )
    batch_pictures: int = Field(8, ge=1, description="pictures per forward pass")
    device: Annotated[str | None, Runtime()] = Field(None, description="cpu, cuda...; by default cuda if there is one")

    @model_validator(mode="after")
    def _choice_has_a_judge(self) -> TransformersConfig:
        scored = {
            "candidates": self.candidates > 1,
            "score_alt_text": self.score_alt_text,
            "min_score": self.min_score is not None,
        }
        for name, wanted in scored.items():
            if wanted and self.score_model is None:
                raise ValueError(f"{name} needs score_model: the model that says how well words match the picture")
        if self.candidates > 1 and self.decoding == "greedy":
            raise ValueError("several candidates need `decoding: nucleus`: greedy decoding says the same each time")
        return self


class Transformers:
    """One model per worker process. Its calls take turns: a second batch would only take the first one's cores."""

    def __init__(self, config: TransformersConfig):
        self.config = config

    def setup(self, context: Any) -> None:
        """Load model and processors once; raises InputError when the folder holds none."""
        import torch
        from transformers import AutoModelForImageTextToText

        options = {"revision": self.config.revision} if self.config.revision else {}
        self._version = model_version(self.config.model, self.config.revision)
        try:
            self._load_processors(options)
            model: Any = AutoModelForImageTextToText.from_pretrained(self.config.model, **options)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.config.model}: not an image-to-text model of transformers "
                f"({' '.join(str(error).split())[:300]}). "
                "Give a folder into which `save_pretrained` wrote model and processor."
            ) from error
        self._device = self.config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device).eval()
        self._matcher = self._load_matcher()
        self._lock = threading.Lock()

    @property
    def identity(self) -> Identity:
        return Identity("transformers", Path(self.config.model).name, self._version)

    @property
    def source_version(self) -> str:
        """The versions of both models: part of the step's fingerprint. Raises InputError for what has none."""
        version = model_version(self.config.model, self.config.revision)
        if self.config.score_model is None:
            return version
        return f"{version} {model_version(self.config.score_model, self.config.score_revision, 'score_model')}"

    def captions(self, pictures: Iterator[Picture]) -> Iterator[Caption]:
        return captions_in_batches(pictures, self.config.batch_pictures, self._describe)

    def close(self) -> None:
        del self._model, self._processor, self._matcher

    def _load_processors(self, options: dict[str, str]) -> None:
        """Most models have one processor for pictures and words; an encoder with a decoder has two."""
        from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

        self._processor = AutoProcessor.from_pretrained(self.config.model, **options)
        self._pair = None
        if not hasattr(self._processor, "image_processor"):
            self._pair = AutoImageProcessor.from_pretrained(self.config.model, **options)
            self._processor = AutoTokenizer.from_pretrained(self.config.model, **options)
        else:
            self._processor.tokenizer.padding_side = "left"  # answers of different prompts begin at one place

    def _load_matcher(self) -> Matcher | None:
        if self.config.score_model is None:
            return None
        return Matcher(self.config.score_model, self.config.score_revision, self._device, self.config.batch_pictures)

    def _describe(self, pictures: list[Opened]) -> list[Caption]:
        import torch

        config = self.config
        with self._lock, torch.inference_mode():
            inputs, answers_only = self._inputs([opened.image for opened in pictures])
            drawn = [self._drawn(inputs.to(self._device), answers_only, pictures, n) for n in range(config.candidates)]
            written = list(zip(*drawn, strict=True))
            if self._matcher is None:
                return [_caption(texts[0]) for texts in written]
            return best_captions(pictures, written, self._matcher, config.score_alt_text, config.min_score)

    def _drawn(self, inputs: Any, answers_only: bool, pictures: list[Opened], number: int) -> list[str]:
        """The `number`-th candidate of each picture."""
        tokens = self._model.generate(**inputs, **self._generation(pictures, number))
        if answers_only:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        return [" ".join(text.split()) for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]

    def _inputs(self, images: list[Image.Image]) -> tuple[Any, bool]:
        """What `generate` takes, and whether its output repeats a question that is no part of the caption."""
        if self._pair is not None:
            return self._pair(images=images, return_tensors="pt"), False
        if getattr(self._processor, "chat_template", None) is None:
            texts = [self.config.prompt] * len(images) if self.config.prompt else None
            return self._processor(images=images, text=texts, padding=bool(texts), return_tensors="pt"), False
        asked = [{"type": "image"}, {"type": "text", "text": self.config.prompt or DESCRIBE}]
        text = self._processor.apply_chat_template([{"role": "user", "content": asked}], add_generation_prompt=True)
        inputs = self._processor(images=images, text=[text] * len(images), padding=True, return_tensors="pt")
        return inputs, True

    def _generation(self, pictures: list[Opened], number: int) -> dict[str, Any]:
        how: dict[str, Any] = {"max_new_tokens": self.config.max_new_tokens, "do_sample": False, "num_beams": 1}
        if self.config.decoding == "nucleus":
            from pipelines.caption.nucleus import NucleusSampling

            keys = [f"{opened.picture.key}/{number}" for opened in pictures]
            sampling = NucleusSampling(keys, self.config.seed, self.config.top_p, self.config.temperature)
            how["logits_processor"] = [sampling]
        return how


def _caption(words: str) -> Caption:
    return (
        Caption(AnswerStatus.ok, words) if words else Caption(CaptionStatus.empty, detail="the model returned no text")
    )
