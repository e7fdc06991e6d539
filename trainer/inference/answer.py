"""Batched greedy inference: any number of prompts with images in, answers out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas.errors import InputError
from trainer.inference.batches import MOST, Batches
from trainer.inference.checkpoint import Checkpoint
from trainer.inference.loaded import Loaded
from trainer.inference.prompting import Prompting, Row, added
from trainer.inference.prompts import Answer, AnswerStatus, Prompt

CHUNK = 1024
"""Prompts that are held in memory and sorted by length together."""

NAME = "asked"
"""What the checkpoint is called among the adapters of its base, where it is one."""

Advance = Callable[[int], Any]


def progress(total: int | None = None) -> Any:
    """A progress bar of questions on a terminal, nothing elsewhere: a context manager whose `update` takes how many
    more are done."""
    from tqdm import tqdm

    return tqdm(total=total, unit="question", disable=None)


class Answerer:
    """A loaded checkpoint. Raises InputError when `checkpoint` is not a LLaVA folder or does not name its template."""

    def __init__(
        self,
        checkpoint: str | Path | Checkpoint,
        template: str | None = None,
        device: str | None = None,
        load: str | None = None,
    ):
        found = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
        found.check(template, load, device)
        self.prompting = Prompting(found.folder, template)
        self.loaded, self.name = Loaded(found.folder, load, device), NAME
        if found.adapter:
            self.loaded.attach(NAME, found.adapter)
        self._batches = Batches(found.folder.text, self.loaded.dtype.itemsize, self.loaded.device)

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
        for name, value in (("max_tokens", max_tokens), ("batch", batch)):
            if value is not None and (type(value) is not int or value < 1):
                raise InputError(f"{name}: found {value!r}; expected a whole number from 1.")
        known: dict[str, np.ndarray] = {}
        answers: list[Answer] = [Answer()] * len(prompts)
        rows = []
        for position, prompt in enumerate(prompts):
            made = self.prompting.row(position, prompt, known)
            if isinstance(made, Row):
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

    def _answered(self, rows: list[Row], max_tokens: int) -> Iterator[tuple[Row, Answer]]:
        shown = []
        for row in rows:
            try:
                shown.append(replace(row, pictures=tuple(self.prompting.pictures(row.prompt))))
            except InputError as error:
                yield row, Answer("", AnswerStatus.bad_picture, str(error))
        for row, ids in self._made(shown, max_tokens) if shown else ():
            yield row, Answer(self.prompting.text(ids))

    def check_picture(self, content: bytes) -> None:
        """Raise InputError when `content` is not a decodable image."""
        self.prompting.picture(content, 1)

    def _made(self, rows: list[Row], max_tokens: int) -> Iterator[tuple[Row, list[int]]]:
        """Rows with their new tokens. Short rows that had too little room beside a long one are asked again."""
        stops = set(self.prompting.stops)
        again = []
        for row, ids in zip(rows, self._generate(rows, max_tokens), strict=True):
            if len(ids) < min(max_tokens, self.prompting.folder.positions - len(row.ids)) and not stops.intersection(
                ids
            ):
                again.append(row)
            else:
                yield row, ids
        if again:  # without the longest row, which had all the room there is
            yield from self._made(again, max_tokens)

    def _generate(self, rows: list[Row], max_tokens: int) -> list[list[int]]:
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
    def _generated(self, rows: list[Row], max_tokens: int) -> list[list[int]]:
        """New tokens of each row."""
        inputs = {**self.prompting.padded(rows), **self.prompting.pixels(rows, self.loaded.dtype)}
        width = inputs["input_ids"].shape[1]
        with self.loaded.seen_by(NAME):
            made = self.loaded.model.generate(
                **added(inputs, self.loaded.device),
                max_new_tokens=min(max_tokens, self.prompting.folder.positions - width),
                do_sample=False,
                eos_token_id=self.prompting.stops,
                pad_token_id=self.prompting.tokenizer.pad_id,
            )
        return made[:, width:].tolist()
