"""Prompts to token ids and pixels, token ids to the text of an answer: a checkpoint without its weights."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas.chat import encode, get_template
from schemas.chat.images import Size
from schemas.errors import InputError
from trainer.inference.prompts import Answer, AnswerStatus, Prompt, Source
from trainer.inputs.pictures import Picture, prepare
from trainer.models.folder import ModelFolder

KEPT_BYTES = 256 << 20
"""Memory for prepared pictures: questions about the same one follow each other, or are a few batches apart."""


@dataclass(frozen=True)
class Row:
    """A prompt that can be asked. ids: (tokens,). pictures: empty until they are prepared."""

    position: int
    ids: np.ndarray
    prompt: Prompt
    pictures: tuple[Picture, ...] = ()


class Prompting:
    """The tokenizer, the template and the image rule of a checkpoint. Threads may share one."""

    def __init__(self, folder: ModelFolder, template: str | None = None):
        """Raises InputError for a folder whose tokenizer does not fit it, or that does not name its template."""
        folder.check_image_token()
        name = template or folder.template
        if name is None:
            raise InputError(f"{folder.path}: does not name the template it was trained with. Give one, e.g. v1.")
        self.folder, self.template, self.tokenizer = folder, get_template(name), folder.tokenizer
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[Source, bool], Picture] = OrderedDict()
        self._seen_bytes = 0

    @property
    def stops(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's own and the template's."""
        known = {self.tokenizer.eos_id, *(self.tokenizer.token_id(text) for text in self.template.stop)}
        return sorted(token for token in known if token is not None)

    def row(self, position: int, prompt: Prompt, known: dict[str, np.ndarray]) -> Row | Answer:
        """`known` caches the ids of prompts: an evaluation asks the same question about many pictures."""
        if prompt.refused is not None:
            return prompt.refused
        rule = self.folder.rule
        # Where tokens do not depend on a picture's size, pictures are opened with their batch.
        try:
            sizes = [picture.size for picture in self.pictures(prompt)] if rule.depends_on_size else None
        except InputError as error:
            return Answer("", AnswerStatus.bad_picture, str(error))
        key = repr((prompt.messages, sizes))
        if key not in known:
            ids = self._ids(prompt, sizes)
            if isinstance(ids, Answer):
                return ids
            known[key] = ids
        return Row(position, known[key], prompt)

    def _ids(self, prompt: Prompt, sizes: list[Size] | None) -> np.ndarray | Answer:
        """The token ids of a prompt, (tokens,), or why it cannot be asked."""
        rule, limit = self.folder.rule, self.folder.positions
        text = "".join(part["text"] or "" for message in prompt.messages for part in message["content"])
        if self.tokenizer.exceeds(text, limit):
            detail = (
                f"{prompt.name}: {len(text)} characters are more than {limit} tokens, the model's limit. Shorten it."
            )
            return Answer("", AnswerStatus.too_long, detail)
        shown = sizes or [(rule.image_size, rule.image_size)] * len(prompt.images)
        try:
            encoded = encode(prompt.messages, shown, self.template, self.tokenizer, rule, generate=True)
        except InputError as error:
            return Answer("", AnswerStatus.bad_question, f"{prompt.name}: {error}")
        if not encoded.tokens:
            words = f"template {self.template.name!r} leaves nothing of it. It needs a picture, or other text."
            return Answer("", AnswerStatus.bad_question, f"{prompt.name}: {words}")
        if encoded.tokens >= limit:
            detail = f"{prompt.name}: {encoded.tokens} tokens, the model's limit is {limit}. Shorten it."
            return Answer("", AnswerStatus.too_long, detail)
        return encoded.ids

    def pictures(self, prompt: Prompt) -> list[Picture]:
        """The prompt's pictures, prepared; raises InputError with the prompt's name."""
        try:
            return [self.picture(image, len(prompt.images)) for image in prompt.images]
        except (InputError, OSError) as error:
            raise InputError(f"{prompt.name}: {error}") from error

    def picture(self, image: Source, pictures: int) -> Picture:
        """`image`, one of `pictures` of its prompt, prepared."""
        known = image, self.folder.rule.cuts(pictures)
        with self._lock:
            if known in self._seen:
                self._seen.move_to_end(known)
                return self._seen[known]
        content = image.read_bytes() if isinstance(image, Path) else image
        made = prepare(content, self.folder.rule, self.folder.mean, self.folder.std, pictures=pictures)
        with self._lock:
            if known not in self._seen:
                self._seen[known] = made
                self._seen_bytes += held(known, made)
            while self._seen_bytes > KEPT_BYTES:
                self._seen_bytes -= held(*self._seen.popitem(last=False))
        return made

    def padded(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """input_ids and attention_mask, both (rows, longest), padded on the left: all answers begin at one position."""
        width = max(len(row.ids) for row in rows)
        ids = np.full((len(rows), width), self.tokenizer.pad_id, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for number, row in enumerate(rows):
            ids[number, width - len(row.ids) :] = row.ids
            mask[number, width - len(row.ids) :] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def pixels(self, rows: Sequence[Row], dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The model's inputs for the rows' pictures, in order; nothing where there are none."""
        from trainer.inputs.collate import stack_pictures

        pictures = [picture for row in rows for picture in row.pictures]
        if not pictures:
            return {}
        pixels, sizes = [picture.pixels for picture in pictures], [picture.size for picture in pictures]
        tensors = stack_pictures(pixels, sizes, [len(row.pictures) for row in rows], self.folder.rule)
        return {**tensors, "pixel_values": tensors["pixel_values"].to(dtype)}

    def text(self, ids: list[int]) -> str:
        """The answer that `ids` spell: up to a stop, without control tokens or surrounding blanks."""
        stops = set(self.stops)
        end = next((position for position, token in enumerate(ids) if token in stops), len(ids))
        return self.cut(self.tokenizer.decode(ids[:end], skip_special=True)).strip()

    def cut(self, text: str, stops: Sequence[str] = ()) -> str:
        """`text` up to the first of the template's stops that are written out, and of `stops`."""
        for stop in self.template.stop:
            text = text.partition(stop)[0] if stop.strip() else text.lstrip(stop).partition(stop)[0]
        for stop in stops:  # a blank in front is no part of the answer
            text = text.lstrip().partition(stop)[0]
        return text


def held(known: tuple[Source, bool], made: Picture) -> int:
    """Bytes that a cached picture takes: encoded (0 for a file) plus prepared."""
    image, _ = known
    return made.pixels.nbytes + (len(image) if isinstance(image, bytes) else 0)


def added(values: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The tensors of a batch on the model's device."""
    return {name: tensor.to(device) for name, tensor in values.items()}
