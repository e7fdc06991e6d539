"""Asking a checkpoint: prompts and pictures in, greedy answers out, many at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas.chat import encode, get_template
from schemas.errors import InputError
from trainer.inputs.pictures import Picture, prepare
from trainer.models.folder import ModelFolder
from trainer.preflight import model_path

KEPT_PICTURES = 4096


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with a user turn, and the encoded pictures that its image parts stand for."""

    messages: Sequence[dict[str, Any]]
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class _Row:
    place: int
    ids: np.ndarray
    pictures: list[Picture]


def question(text: str, images: tuple[bytes, ...] = ()) -> Prompt:
    """One user turn: the pictures, then the text."""
    parts: list[dict[str, Any]] = [{"type": "image", "text": None} for _ in images]
    return Prompt([{"role": "user", "content": [*parts, {"type": "text", "text": text}]}], images)


class Answerer:
    """A loaded checkpoint. Raises InputError when `checkpoint` is no LLaVA folder or does not tell its template."""

    def __init__(self, checkpoint: str | Path, template: str | None = None, device: str | None = None):
        import transformers

        self.folder = ModelFolder.open(model_path(str(checkpoint)))
        name = template or self.folder.template
        if name is None:
            raise InputError(f"{self.folder.path}: does not say which template it was trained with. Give one, e.g. v1.")
        self.template, self.tokenizer = get_template(name), self.folder.tokenizer
        transformers.utils.logging.disable_progress_bar()
        kind = getattr(transformers, self.folder.model_class)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        precision = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.model = kind.from_pretrained(self.folder.path, dtype=precision).to(self.device).eval()
        self._seen: OrderedDict[bytes, Picture] = OrderedDict()

    def answer(self, prompts: Sequence[Prompt], max_tokens: int = 256, batch: int = 64) -> list[str]:
        """The greedy answer to each prompt, without control tokens or surrounding blanks."""
        known: dict[str, np.ndarray] = {}
        rows = [self._row(place, prompt, known) for place, prompt in enumerate(prompts)]
        rows.sort(key=lambda row: len(row.ids))
        answers = [""] * len(rows)
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            for row, text in zip(part, self._generate(part, max_tokens), strict=True):
                answers[row.place] = text
        return answers

    def check_picture(self, content: bytes) -> None:
        """Raise InputError when `content` is no picture that can be decoded."""
        self._picture(content)

    @property
    def stops(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's own and the template's."""
        known = {self.tokenizer.eos_id, *(self.tokenizer.token_id(text) for text in self.template.stop)}
        return sorted(token for token in known if token is not None)

    def _row(self, place: int, prompt: Prompt, known: dict[str, np.ndarray]) -> _Row:
        """`known` keeps the ids of prompts: an evaluation asks the same question about many pictures."""
        pictures = [self._picture(content) for content in prompt.images]
        sizes = [picture.size for picture in pictures]
        rule = self.folder.rule
        key = repr((prompt.messages, sizes))
        if key not in known:
            encoded = encode(prompt.messages, sizes, self.template, self.tokenizer, rule, generate=True)
            if encoded.tokens >= self.folder.positions:
                limit = self.folder.positions
                raise InputError(f"prompt of {encoded.tokens} tokens: the model holds {limit}. Shorten it.")
            known[key] = encoded.ids
        return _Row(place, known[key], pictures)

    def _picture(self, content: bytes) -> Picture:
        if content not in self._seen:
            self._seen[content] = prepare(content, self.folder.rule, self.folder.mean, self.folder.std)
            if len(self._seen) > KEPT_PICTURES:
                self._seen.popitem(last=False)
        return self._seen[content]

    @torch.inference_mode()
    def _generate(self, rows: list[_Row], max_tokens: int) -> list[str]:
        """Rows padded on the left, so that all answers begin at the same place."""
        width = max(len(row.ids) for row in rows)
        ids = np.full((len(rows), width), self.tokenizer.pad_id, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for number, row in enumerate(rows):
            ids[number, width - len(row.ids) :] = row.ids
            mask[number, width - len(row.ids) :] = 1
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), **self._pixels(rows)}
        made = self.model.generate(
            **{name: tensor.to(self.device) for name, tensor in inputs.items()},
            max_new_tokens=min(max_tokens, self.folder.positions - width),
            do_sample=False,
            eos_token_id=self.stops,
            pad_token_id=self.tokenizer.pad_id,
        )
        return [self._text(answer) for answer in made[:, width:].tolist()]

    def _pixels(self, rows: list[_Row]) -> dict[str, torch.Tensor]:
        from trainer.inputs.collate import stack_pictures

        pictures = [picture for row in rows for picture in row.pictures]
        if not pictures:
            return {}
        anyres = self.folder.rule.mode == "anyres"
        tensors = stack_pictures(
            [picture.pixels for picture in pictures], [picture.size for picture in pictures], anyres
        )
        return {**tensors, "pixel_values": tensors["pixel_values"].to(self.model.dtype)}

    def _text(self, ids: list[int]) -> str:
        stops = set(self.stops)
        end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
        text = self.tokenizer.decode(ids[:end], skip_special=True)
        for stop in self.template.stop:
            text = text.partition(stop)[0] if stop.strip() else text.lstrip(stop).partition(stop)[0]
        return text.strip()
