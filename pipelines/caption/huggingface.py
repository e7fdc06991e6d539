"""The `transformers` engine: any image-captioning or chat model that the library loads from a folder.

BLIP and similar models describe a picture, optionally going on from the words of `prompt`; a model with a chat
template (LLaVA, Qwen-VL...) answers `prompt`. No code out of a model folder is run, unless `trust_remote_code` says so.
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
from pipelines.caption.local import Opened, captions_in_batches
from pipelines.caption.matching import Matcher
from pipelines.engine.step import Config, Needs, Runtime
from pipelines.llm.answer import AnswerStatus
from pipelines.models.loading import load_local, load_processor, model_version
from pipelines.models.needs import GPU
from schemas.chat.checked import check_chat_template

DESCRIBE = "Describe this picture in one sentence."
"""What a chat model is asked unless `prompt` says otherwise."""


class TransformersConfig(Config):
    """Which model, how it chooses words, and which of several captions is kept."""

    name: Literal["transformers"] = "transformers"
    """The captioning engine."""
    model: str = Field(description="a model folder, or a name on the hub together with `revision`")
    revision: str | None = Field(None, description="the commit of a hub model; a folder's files are hashed instead")
    prompt: str | None = Field(None, description="a chat model's question, or the first words of every caption")
    max_new_tokens: int = Field(40, ge=1)
    """Maximum tokens of one caption."""
    decoding: Literal["greedy", "nucleus"] = Field(
        "greedy", description="nucleus sampling draws from the likeliest tokens, up to top_p of the probability"
    )
    top_p: float = Field(0.9, gt=0, le=1)
    """For nucleus: sample from the likeliest tokens with this total probability."""
    temperature: float = Field(1.0, gt=0)
    """For nucleus: values above 1 flatten the distribution."""
    seed: int = Field(0, description="for nucleus sampling: draws depend only on it and the row's key")
    candidates: int = Field(
        1, ge=1, description="captions sampled per image; the one with the best score_model score is kept"
    )
    score_model: str | None = Field(
        None, description="a BLIP with a matching head, a CLIP or a SigLIP that scores candidates"
    )
    score_revision: str | None = Field(None, description="the commit, when score_model is a name on the hub")
    score_alt_text: bool = Field(False, description="the picture's own alt text is a candidate too")
    min_score: float | None = Field(None, description="captions with a lower score are dropped; on score_model's scale")
    batch_pictures: int = Field(8, ge=1, description="pictures per forward pass")
    trust_remote_code: Annotated[bool, Runtime()] = Field(
        False, description="run code shipped with `model`: only for a folder or commit whose code you have read"
    )
    device: Annotated[str | None, Runtime()] = Field(None, description="cpu, cuda...; by default cuda if there is one")

    @property
    def needs(self) -> Needs:
        """Folders of models travel in an image. Memory: the weights twice, once in the file and once in use."""
        folders = [name for name in (self.model, self.score_model) if name and Path(name).is_dir()]
        size = sum(file.stat().st_size for folder in folders for file in Path(folder).rglob("*") if file.is_file())
        wanted = {None: "optional", "cuda": GPU}.get(self.device and self.device.partition(":")[0], "")
        return Needs(
            threads=True,
            memory_gb=round(2 + 2 * size / 2**30, 1) if folders else None,
            accelerator=wanted,
            model_files=tuple(folders),
        )

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
        code = self.config.trust_remote_code
        model = load_local(self.config.model, AutoModelForImageTextToText, code, **options)
        self._load_processors(options)
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

        code = self.config.trust_remote_code
        self._processor = load_processor(self.config.model, AutoProcessor, code, **options)
        self._pair = None
        if not hasattr(self._processor, "image_processor"):
            self._pair = load_processor(self.config.model, AutoImageProcessor, code, **options)
            self._processor = load_processor(self.config.model, AutoTokenizer, code, **options)
        else:
            self._processor.tokenizer.padding_side = "left"  # answers of different prompts begin at one place
            if getattr(self._processor, "chat_template", None) is not None:
                tokens = self._processor.tokenizer.special_tokens_map
                check_chat_template(self._processor.chat_template, self._question(), tokens, self.config.model)

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
        text = self._processor.apply_chat_template(self._question(), add_generation_prompt=True)
        inputs = self._processor(images=images, text=[text] * len(images), padding=True, return_tensors="pt")
        return inputs, True

    def _question(self) -> list[dict[str, Any]]:
        """The messages that a chat model is asked."""
        asked = [{"type": "image"}, {"type": "text", "text": self.config.prompt or DESCRIBE}]
        return [{"role": "user", "content": asked}]

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
