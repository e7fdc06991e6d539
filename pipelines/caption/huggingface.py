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
from pydantic import Field

from pipelines.caption.engine import Caption, CaptionStatus, Identity, Picture
from pipelines.caption.local import captions_in_batches, weights_version
from pipelines.step import Config, Runtime
from schemas.errors import InputError

DESCRIBE = "Describe this picture in one sentence."
"""What a chat model is asked unless `prompt` says otherwise."""


class TransformersConfig(Config):
    """Which model, and how it chooses words."""

    name: Literal["transformers"] = "transformers"
    model: str = Field(description="a model folder, or a name on the hub together with `revision`")
    revision: str | None = Field(None, description="the commit of a hub model; a folder's files are hashed instead")
    prompt: str | None = Field(None, description="a chat model's question, or the first words of every caption")
    max_new_tokens: int = Field(40, ge=1)
    decoding: Literal["greedy", "nucleus"] = Field("greedy", description="nucleus draws from the likeliest top_p")
    top_p: float = Field(0.9, gt=0, le=1)
    temperature: float = Field(1.0, gt=0)
    seed: int = Field(0, description="of nucleus: the same batch of pictures gets the same words")
    batch_pictures: int = Field(8, ge=1, description="pictures of one forward pass")
    device: Annotated[str | None, Runtime()] = Field(None, description="cpu, cuda...; by default cuda if there is one")


class Transformers:
    """One model per worker process. Its calls take turns: the random state is the process's."""

    def __init__(self, config: TransformersConfig):
        self.config = config

    def setup(self, context: Any) -> None:
        """Load model and processors once; raises InputError when the folder holds none."""
        import torch
        from transformers import AutoModelForImageTextToText

        options = {"revision": self.config.revision} if self.config.revision else {}
        self._version = self.source_version
        try:
            self._load_processors(options)
            model: Any = AutoModelForImageTextToText.from_pretrained(self.config.model, **options)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.config.model}: no image-to-text model of transformers ({' '.join(str(error).split())[:300]}). "
                "Give a folder into which `save_pretrained` wrote model and processor."
            ) from error
        self._device = self.config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device).eval()
        self._lock = threading.Lock()

    @property
    def identity(self) -> Identity:
        return Identity("transformers", Path(self.config.model).name, self._version)

    @property
    def source_version(self) -> str:
        """A hash of the model folder, or the hub commit: part of the step's fingerprint.

        Raises InputError for what is neither a folder nor has a revision.
        """
        folder = Path(self.config.model)
        if folder.is_dir():
            return weights_version(folder)
        if self.config.revision is None:
            raise InputError(
                f"{self.config.model}: no such folder. Give a model folder, or set `revision` to a hub model's commit."
            )
        return self.config.revision

    def captions(self, pictures: Iterator[Picture]) -> Iterator[Caption]:
        return captions_in_batches(pictures, self.config.batch_pictures, self._describe)

    def close(self) -> None:
        del self._model, self._processor

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

    def _describe(self, images: list[Image.Image]) -> list[Caption]:
        import torch

        with self._lock, torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            inputs, answers_only = self._inputs(images)
            tokens = self._model.generate(**inputs.to(self._device), **self._generation())
        if answers_only:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        return [_caption(text) for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]

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

    def _generation(self) -> dict[str, Any]:
        if self.config.decoding == "greedy":
            return {"max_new_tokens": self.config.max_new_tokens, "do_sample": False, "num_beams": 1}
        return {
            "max_new_tokens": self.config.max_new_tokens,
            "do_sample": True,
            "top_p": self.config.top_p,
            "top_k": 0,
            "temperature": self.config.temperature,
        }


def _caption(text: str) -> Caption:
    words = " ".join(text.split())
    return Caption(CaptionStatus.ok, words) if words else Caption(CaptionStatus.empty, detail="the model said nothing")
