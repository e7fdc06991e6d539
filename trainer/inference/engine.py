"""Continuous batching: questions join the running batch as they come, and leave it as they are answered.

Prompts are padded on the left. The caches of new rows are computed together, padded to the width of those that
run (or the other way round), and put below them; a row that is done is taken out, and columns that only padding is left
in are cut off. Tokens have the positions of their own row, so a row's answer does not depend on when it came.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from trainer.inference.batches import Batches
from trainer.inference.cache import Rows
from trainer.inference.loaded import Loaded
from trainer.inference.prompting import Prompting, Row, added
from trainer.inference.sampling import Sampler, next_tokens
from trainer.inference.spelling import Spelling

PREFILL_TOKENS = 8192
"""Tokens of new prompts that are computed between two steps of those that run: more would let these wait too long."""


@dataclass(frozen=True)
class Asked:
    """One question to the engine. number: chosen by the caller. row: with its pictures. model: the name of an adapter,
    or of the base. stream: tell each piece."""

    number: int
    row: Row
    model: str = ""
    max_tokens: int = 256
    sampler: Sampler = field(default_factory=Sampler)
    stop: tuple[str, ...] = ()
    stream: bool = False


@dataclass(frozen=True)
class Event:
    """A piece of the answer `number`. `finish`: with the last one. `failed`: why there will be no more; `memory`: for
    want of it, so that it may be asked again."""

    number: int
    text: str = ""
    finish: Literal["stop", "length"] | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0
    failed: str | None = None
    memory: bool = False


class _Running:
    """A row whose answer is being made."""

    def __init__(self, asked: Asked, prompting: Prompting):
        self.asked = asked
        self.ids: list[int] = []
        self.length = len(asked.row.ids)
        self.room = min(asked.max_tokens, prompting.folder.positions - self.length)
        self.stops = set(prompting.stops)
        self.spelling = Spelling(prompting, asked.stop)
        self.done = False

    @property
    def row(self) -> Row:
        """What is known of it: the prompt, and the tokens that were made before its keys and values were given up."""
        if not self.ids:
            return self.asked.row
        ids = np.concatenate([self.asked.row.ids, np.asarray(self.ids, self.asked.row.ids.dtype)])
        return replace(self.asked.row, ids=ids)

    def add(self, token: int) -> Event | None:
        """Take the next token; what there is to tell."""
        self.ids.append(token)
        text = ""
        if token in self.stops:
            return self._end("stop")
        if self.asked.stream or self.spelling.watches:
            text = self.spelling.add(token)
        if self.spelling.stopped:
            return self._end("stop", text)
        if len(self.ids) >= self.room:
            return self._end("length", text)
        return Event(self.asked.number, text) if text and self.asked.stream else None

    def _end(self, finish: Literal["stop", "length"], text: str = "") -> Event:
        self.done = True
        text += self.spelling.end(self.ids)
        if not self.asked.stream:
            text = self.spelling.text
        return Event(self.asked.number, text, finish, self.length, len(self.ids))


class Engine:
    """One loaded checkpoint, and the questions that it answers at the moment. For one thread."""

    def __init__(self, loaded: Loaded, promptings: Mapping[str, Prompting], most: int = 32):
        """promptings: by the name that is asked. most: rows at a time at most, where memory allows as many."""
        self.loaded, self.promptings = loaded, promptings
        self.most = most
        folder = next(iter(promptings.values())).folder
        batches = Batches(folder.text, loaded.dtype.itemsize, loaded.device)
        self._token_bytes, self._budget = batches.token_bytes, batches.budget()
        self._waiting: deque[_Running] = deque()
        self._running: list[_Running] = []
        self._rows = Rows()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def submit(self, asked: Asked) -> None:
        self._waiting.append(_Running(asked, self.promptings[asked.model]))

    def cancel(self, numbers: Iterable[int]) -> None:
        """Forget questions, wherever they are; others are unknown and no error."""
        gone = set(numbers)
        if not gone:
            return
        self._waiting = deque(row for row in self._waiting if row.asked.number not in gone)
        for row in self._running:
            row.done = row.done or row.asked.number in gone
        self._leave()

    def leave(self, model: str) -> list[int]:
        """Forget the questions to `model`, and return their numbers: its adapter is about to go."""
        numbers = [row.asked.number for row in (*self._waiting, *self._running) if row.asked.model == model]
        self.cancel(numbers)
        return numbers

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Let questions join, and make one token for each that runs; what there is to tell about them."""
        events = []
        for model, new in self._joining().items():
            events += self._join(model, new)
        self._leave()
        if self._running:
            try:
                events += self._decode()
            except torch.OutOfMemoryError:
                running, self._running, self._rows = self._running, [], Rows()
                events += self._fewer(running)
            self._leave()
        return events

    def _joining(self) -> dict[str, list[_Running]]:
        """The next questions that there is room for, by model; at least one where nothing runs."""
        chosen: dict[str, list[_Running]] = {}
        longest = max((row.length + row.room for row in self._running), default=0)
        count, tokens = len(self._running), 0
        while self._waiting and count < self.most:
            row = self._waiting[0]
            longest, tokens = max(longest, row.length + row.room), tokens + row.length
            fits = (count + 1) * longest * self._token_bytes <= self._budget and tokens <= PREFILL_TOKENS
            if count and not fits:
                break
            chosen.setdefault(row.asked.model, []).append(self._waiting.popleft())
            count += 1
        return chosen

    def _join(self, model: str, new: list[_Running]) -> list[Event]:
        """Compute the prompts of `new`, which ask one model, and their first tokens."""
        try:
            made, logits = self._prefill(model, new)
        except torch.OutOfMemoryError:
            return self._fewer(new)
        except torch.AcceleratorError:  # nothing can be computed on that device any more
            raise
        except Exception as error:
            return self._apart(model, new, error)
        self._rows.append(made)
        self._running += new
        return _take(new, logits)

    def _prefill(self, model: str, new: list[_Running]) -> tuple[Rows, torch.Tensor]:
        """Keys and values of the prompts, and the logits of their first tokens, (rows, vocabulary)."""
        prompting, rows = self.promptings[model], [one.row for one in new]
        inputs = {**prompting.padded(rows), **prompting.pixels(rows, self.loaded.dtype)}
        mask = inputs["attention_mask"]
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)
        made = Rows(mask)
        with self.loaded.seen_by(model):
            return made, self._logits([model] * len(new), made, added(inputs, self.loaded.device))

    def _decode(self) -> list[Event]:
        """One more token for every row."""
        self._rows.grow()
        last = torch.tensor([[row.ids[-1]] for row in self._running])
        positions = torch.tensor([[row.length + len(row.ids) - 1] for row in self._running])
        inputs = {"input_ids": last, "attention_mask": self._rows.mask, "position_ids": positions}
        models = [row.asked.model for row in self._running]
        return _take(self._running, self._logits(models, self._rows, added(inputs, self.loaded.device)))

    def _logits(self, models: list[str], rows: Rows, inputs: dict[str, Any]) -> torch.Tensor:
        made = self.loaded.forward(models, **inputs, past_key_values=rows.cache, use_cache=True, logits_to_keep=1)
        return made.logits[:, -1]

    def _fewer(self, rows: list[_Running]) -> list[Event]:
        """After the GPU's memory did not suffice for `rows`: they join again when there is room, fewer at a time."""
        torch.cuda.empty_cache()
        self.most = max(1, len(self._running) + len(rows) // 2)
        if len(rows) == 1 and not self._running:
            words = "the device's memory does not suffice for this question"
            return [Event(rows[0].asked.number, failed=words, memory=True)]
        self._waiting.extendleft(reversed(rows))
        return []

    def _apart(self, model: str, new: list[_Running], error: Exception) -> list[Event]:
        """After `new` could not be computed: one by one, so that the question at fault takes no other along."""
        if len(new) > 1:
            return [event for one in new for event in self._join(model, [one])]
        logging.getLogger(__name__).error("question %d cannot be computed", new[0].asked.number, exc_info=error)
        return [Event(new[0].asked.number, failed=f"it cannot be computed ({type(error).__name__}: {error})")]

    def _leave(self) -> None:
        """Take rows that are done out of the batch."""
        kept = [number for number, row in enumerate(self._running) if not row.done]
        if len(kept) < len(self._running):
            self._running = [self._running[number] for number in kept]
            self._rows.keep(kept)


def _take(rows: list[_Running], logits: torch.Tensor) -> list[Event]:
    tokens = next_tokens(logits, [row.asked.sampler for row in rows])
    events = [row.add(token) for row, token in zip(rows, tokens, strict=True)]
    return [event for event in events if event is not None]
