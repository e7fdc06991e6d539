"""Incremental decoding of an answer: whole characters, nothing of a stop string, no surrounding whitespace."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.inference.prompting import Prompting

CUT = "\ufffd"
"""What the bytes of a character that is not complete are decoded to."""


class Spelling:
    """The texts that `add` and `end` return, joined, are `Prompting.text` of all tokens, cut at `stops` as well."""

    def __init__(self, prompting: Prompting, stops: Sequence[str] = ()):
        self._prompting, self._stops = prompting, tuple(stop for stop in stops if stop)
        self._written = tuple(stop for stop in prompting.template.stop if prompting.tokenizer.token_id(stop) is None)
        self._ids: list[int] = []
        self._start = self._read = 0
        self._raw = self.text = ""
        self.stopped = False
        """Whether a stop was written out: the answer is complete. `text`: everything returned so far."""

    @property
    def watches(self) -> bool:
        """Whether an answer may end by its text, not only by a token."""
        return bool(self._stops or self._written)

    def add(self, token: int) -> str:
        """The text that is certain to follow what was returned so far."""
        self._ids.append(token)
        self._decode()
        self.stopped = self.stopped or self._ends()
        text = self._prompting.cut(self._raw, self._stops).lstrip()
        if not self.stopped:
            text = text[: len(text) - self._may_be_stop(text)]
        return self._tell(text.rstrip())

    def end(self, ids: list[int]) -> str:
        """The rest of the answer whose tokens are `ids`, whether they were added or not."""
        stops = set(self._prompting.stops)
        whole = next((position for position, token in enumerate(ids) if token in stops), len(ids))
        text = self._prompting.tokenizer.decode(ids[:whole], skip_special=True)
        return self._tell(self._prompting.cut(text, self._stops).strip())

    def _decode(self) -> None:
        """Decode the newest tokens after the previous ones, since a first token may be spelled without its blank."""
        decode = self._prompting.tokenizer.decode
        known = decode(self._ids[self._start : self._read], skip_special=True)
        text = decode(self._ids[self._start :], skip_special=True)
        if len(text) > len(known) and not text.endswith(CUT):
            self._raw += text[len(known) :]
            self._start, self._read = self._read, len(self._ids)

    def _ends(self) -> bool:
        def inside(stop: str) -> bool:
            return stop in (self._raw if stop.strip() else self._raw.lstrip(stop))

        return any(map(inside, self._prompting.template.stop)) or any(
            stop in self._raw.lstrip() for stop in self._stops
        )

    def _may_be_stop(self, text: str) -> int:
        """How many of the last characters may turn out to be the beginning of a stop."""
        stops = (*self._prompting.template.stop, *self._stops)
        most = max((len(stop) for stop in stops), default=1) - 1
        lengths = range(min(most, len(text)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in stops)), 0)

    def _tell(self, text: str) -> str:
        if not text.startswith(self.text):
            return ""
        more = text[len(self.text) :]
        self.text = text
        return more
