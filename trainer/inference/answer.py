"""Query a checkpoint: any number of prompts with pictures in, greedy answers out, in batches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas.chat import encode, get_template
from schemas.errors import InputError
from trainer.inference.batches import MOST, Batches
from trainer.inference.prompts import Answer, AnswerStatus, Prompt, Source
from trainer.inputs.pictures import Picture, prepare
from trainer.models.folder import ModelFolder
from trainer.models.opening import from_folder
from trainer.preflight import model_path

CHUNK = 1024
"""Prompts that are held in memory and sorted by length together."""

KEPT_BYTES = 256 << 20
"""Memory for prepared pictures: questions about the same one follow each other, or are a few batches apart."""

Advance = Callable[[int], Any]


@dataclass(frozen=True)
class _Row:
    position: int
    ids: np.ndarray
    prompt: Prompt
    pictures: tuple[Picture, ...] = ()


def progress(total: int | None = None) -> Any:
    """A progress bar of questions on a terminal, nothing elsewhere: a context manager whose `update` takes how many
    more are done."""
    from tqdm import tqdm

    return tqdm(total=total, unit="question", disable=None)


class Answerer:
    """A loaded checkpoint. Raises InputError when `checkpoint` is not a LLaVA folder or does not name its template."""

    def __init__(self, checkpoint: str | Path, template: str | None = None, device: str | None = None):
        import transformers

        self.folder = ModelFolder.open(model_path(str(checkpoint)))
        self.folder.check_image_token()
        name = template or self.folder.template
        if name is None:
            raise InputError(f"{self.folder.path}: does not name the template it was trained with. Give one, e.g. v1.")
        self.template, self.tokenizer = get_template(name), self.folder.tokenizer
        transformers.utils.logging.disable_progress_bar()
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        precision = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.model = from_folder(self.folder, dtype=precision).to(self.device).eval()
        # A checkpoint's generation_config.json may ask for 100,000 beams; answers here are greedy, whatever it says.
        self.model.generation_config = transformers.GenerationConfig()
        self._batches = Batches(self.folder.text, self.model.dtype.itemsize, self.device)
        self._seen: OrderedDict[tuple[Source, bool], Picture] = OrderedDict()
        self._seen_bytes = 0

    def stream(
        self,
        prompts: Iterable[Prompt],
        max_tokens: int = 256,
        batch: int | None = None,
        advance: Advance = lambda answered: None,
    ) -> Iterator[Answer]:
        """`answer`, in order, for any number of prompts, CHUNK of them at a time."""
        remaining = iter(prompts)
        while part := list(islice(remaining, CHUNK)):
            yield from self.answer(part, max_tokens, batch, advance)

    def answer(
        self,
        prompts: Sequence[Prompt],
        max_tokens: int = 256,
        batch: int | None = None,
        advance: Advance = lambda answered: None,
    ) -> list[Answer]:
        """The greedy answer to each prompt, or why it has none: it is too long, or its picture cannot be decoded.

        batch: the most prompts at a time; by default as many as fit the free memory. Fewer are tried after the GPU's
        memory did not suffice. advance: called with how many more prompts are done.
        """
        known: dict[str, np.ndarray] = {}
        answers: list[Answer] = [Answer()] * len(prompts)
        rows = []
        for position, prompt in enumerate(prompts):
            made = self._row(position, prompt, known)
            if isinstance(made, _Row):
                rows.append(made)
            else:
                answers[position] = made
        advance(len(prompts) - len(rows))
        rows.sort(key=lambda row: len(row.ids))
        while rows:
            fitting = self._batches.size([len(row.ids) for row in rows[:MOST]], max_tokens, batch)
            part, rows = rows[:fitting], rows[fitting:]
            for row, answer in self._answered(part, max_tokens):
                answers[row.position] = answer
            advance(len(part))
        return answers

    def _answered(self, rows: list[_Row], max_tokens: int) -> Iterator[tuple[_Row, Answer]]:
        shown = []
        for row in rows:
            try:
                shown.append(replace(row, pictures=tuple(self._pictures(row.prompt))))
            except InputError as error:
                yield row, Answer("", AnswerStatus.bad_picture, str(error))
        for row, ids in self._made(shown, max_tokens) if shown else ():
            yield row, Answer(self._text(ids))

    def check_picture(self, content: bytes) -> None:
        """Raise InputError when `content` is not a decodable image."""
        self._picture(content, 1)

    @property
    def stops(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's own and the template's."""
        known = {self.tokenizer.eos_id, *(self.tokenizer.token_id(text) for text in self.template.stop)}
        return sorted(token for token in known if token is not None)

    def _row(self, position: int, prompt: Prompt, known: dict[str, np.ndarray]) -> _Row | Answer:
        """`known` caches the ids of prompts: an evaluation asks the same question about many pictures."""
        if prompt.refused is not None:
            return prompt.refused
        rule = self.folder.rule
        # Where tokens do not depend on a picture's size, pictures are opened with their batch.
        try:
            sizes = [picture.size for picture in self._pictures(prompt)] if rule.depends_on_size else None
        except InputError as error:
            return Answer("", AnswerStatus.bad_picture, str(error))
        key = repr((prompt.messages, sizes))
        if key not in known:
            shown = sizes or [(rule.image_size, rule.image_size)] * len(prompt.images)
            try:
                encoded = encode(prompt.messages, shown, self.template, self.tokenizer, rule, generate=True)
            except InputError as error:
                return Answer("", AnswerStatus.bad_question, f"{prompt.name}: {error}")
            if encoded.tokens >= self.folder.positions:
                limit = self.folder.positions
                detail = f"{prompt.name}: {encoded.tokens} tokens, the model's limit is {limit}. Shorten it."
                return Answer("", AnswerStatus.too_long, detail)
            known[key] = encoded.ids
        return _Row(position, known[key], prompt)

    def _pictures(self, prompt: Prompt) -> list[Picture]:
        try:
            return [self._picture(image, len(prompt.images)) for image in prompt.images]
        except (InputError, OSError) as error:
            raise InputError(f"{prompt.name}: {error}") from error

    def _picture(self, image: Source, pictures: int) -> Picture:
        known = (image, self.folder.rule.cuts(pictures))
        if known in self._seen:
            self._seen.move_to_end(known)
            return self._seen[known]
        content = image.read_bytes() if isinstance(image, Path) else image
        made = prepare(content, self.folder.rule, self.folder.mean, self.folder.std, pictures=pictures)
        self._seen[known] = made
        self._seen_bytes += _held(image, made)
        while self._seen_bytes > KEPT_BYTES:
            (dropped, _), old = self._seen.popitem(last=False)
            self._seen_bytes -= _held(dropped, old)
        return made

    def _made(self, rows: list[_Row], max_tokens: int) -> Iterator[tuple[_Row, list[int]]]:
        """Rows with their new tokens. Short rows that had too little room beside a long one are asked again."""
        stops = set(self.stops)
        again = []
        for row, ids in zip(rows, self._generate(rows, max_tokens), strict=True):
            if len(ids) < min(max_tokens, self.folder.positions - len(row.ids)) and not stops.intersection(ids):
                again.append(row)
            else:
                yield row, ids
        if again:  # without the longest row, which had all the room there is
            yield from self._made(again, max_tokens)

    def _generate(self, rows: list[_Row], max_tokens: int) -> list[list[int]]:
        """`_generated`, in halves where the GPU's memory does not suffice for all rows at once."""
        try:
            return self._generated(rows, max_tokens)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
        half = (len(rows) + 1) // 2
        self._batches.most = half
        torch.cuda.empty_cache()
        return [*self._generate(rows[:half], max_tokens), *self._generate(rows[half:], max_tokens)]

    @torch.inference_mode()
    def _generated(self, rows: list[_Row], max_tokens: int) -> list[list[int]]:
        """New tokens of each row. Rows are padded on the left: all answers begin at the same position."""
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
        return made[:, width:].tolist()

    def _pixels(self, rows: list[_Row]) -> dict[str, torch.Tensor]:
        from trainer.inputs.collate import stack_pictures

        pictures = [picture for row in rows for picture in row.pictures]
        if not pictures:
            return {}
        pixels, sizes = [picture.pixels for picture in pictures], [picture.size for picture in pictures]
        tensors = stack_pictures(pixels, sizes, [len(row.pictures) for row in rows], self.folder.rule)
        return {**tensors, "pixel_values": tensors["pixel_values"].to(self.model.dtype)}

    def _text(self, ids: list[int]) -> str:
        stops = set(self.stops)
        end = next((position for position, token in enumerate(ids) if token in stops), len(ids))
        text = self.tokenizer.decode(ids[:end], skip_special=True)
        for stop in self.template.stop:
            text = text.partition(stop)[0] if stop.strip() else text.lstrip(stop).partition(stop)[0]
        return text.strip()


def _held(image: Source, made: Picture) -> int:
    """Bytes that a cached picture takes: encoded (0 for a file) plus prepared."""
    return made.pixels.nbytes + (len(image) if isinstance(image, bytes) else 0)
