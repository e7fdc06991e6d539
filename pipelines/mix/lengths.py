"""Row lengths, counted with the trainer's code, and the treatment of rows that are too long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from pipelines.mix.recipe import MixRecipe
from pipelines.mix.turns import pictures_in, piece, rounds_of
from schemas.chat import Counts, ImageRule, count, encode, get_template, learn, load_tokenizer
from schemas.chat.shapes import loose
from schemas.errors import InputError, LavaBeamError

CANNOT_ENCODE = "cannot_encode"
"""A row that no template can show: other numbers of pictures and placeholders, an unknown role, ..."""

TOO_LONG, NOTHING_TO_LEARN = "too_long", "nothing_to_learn"

Size = tuple[int, int]


@dataclass(frozen=True)
class Measured:
    """Messages that can be trained on, and their exact counts. They show the first `shown` pictures of their row.

    long: more than `max_tokens`; a training with `too_long: cut` learns from what is in front. is_part: some of the
    row's rounds are elsewhere, or lost.
    """

    messages: list[dict[str, Any]]
    tokens: int
    image_tokens: int
    supervised: int
    shown: int
    long: bool = False
    is_part: bool = False


class Lengths:
    """Measures rows as a recipe says: tokenizer, template, image rule, `max_tokens` and `too_long`."""

    def __init__(self, recipe: MixRecipe):
        self.limit, self.policy = recipe.max_tokens, recipe.too_long
        self.template = get_template(recipe.template)
        self.tokenizer = load_tokenizer(recipe.tokenizer)
        self.rule = ImageRule.from_dict(recipe.image) if recipe.image else None

    def measure(self, messages: list[dict[str, Any]], sizes: Sequence[Size]) -> tuple[str | None, list[Measured]]:
        """The rows that `messages` become, and the reason why something of them is left out (None: nothing is).

        sizes: (width, height) in pixels of the pictures. Raises InputError for messages that no template can show.
        """
        lost = loose(messages)
        if lost is not None:
            raise InputError(lost)
        counts = self._count(messages, sizes)
        if not counts.supervised:
            return NOTHING_TO_LEARN, []
        if self.limit is None or counts.tokens <= self.limit:
            return None, [_measured(messages, counts)]
        if self.policy == "cut":
            cut = encode(messages, sizes, self.template, self.tokenizer, self.rule, max_length=self.limit)
            return (NOTHING_TO_LEARN, []) if cut.all_masked else (None, [_measured(messages, counts, long=True)])
        return self._split(messages, sizes) if self.policy == "split" else (TOO_LONG, [])

    def refuse(self, source: str, key: str) -> NoReturn:
        raise InputError(
            f"mix source {source!r}, row {key!r}: more than {self.limit} tokens, and the recipe says `too_long: "
            "refuse`. Set `too_long` to drop, cut or split, or raise `max_tokens`."
        )

    def prepare(self, conversations: Iterable[list[dict[str, Any]]]) -> None:
        """Learn the words of many conversations at once, before each is measured."""
        texts = (part["text"] or "" for one in conversations for message in one for part in message["content"])
        with suppress(LavaBeamError):  # a text that stops the tokenizer does so again when its row is measured
            learn(texts, self.tokenizer)

    def _count(self, messages: list[dict[str, Any]], sizes: Sequence[Size]) -> Counts:
        return count(messages, sizes, self.template, self.tokenizer, self.rule)

    def _split(self, messages: list[dict[str, Any]], sizes: Sequence[Size]) -> tuple[str | None, list[Measured]]:
        """As many rounds in each row as fit. A round that is too long by itself is left out, as TOO_LONG."""
        head, rounds = rounds_of(messages)
        made: list[Measured] = []
        lost, start = False, 0
        while start < len(rounds):
            fits, low, high = None, start + 1, len(rounds)
            while low <= high:
                # Longer with each round, so halving finds the last one that fits.
                stop = (low + high) // 2
                found = self._part(head, rounds, start, stop, sizes)
                if found.tokens <= (self.limit or 0):
                    fits, low = (stop, found), stop + 1
                else:
                    high = stop - 1
            if fits is None:
                lost, start = True, start + 1
                continue
            start = fits[0]
            if fits[1].supervised:
                made.append(fits[1])
        return (TOO_LONG if lost else None if made else NOTHING_TO_LEARN), made

    def _part(self, head: list, rounds: list, start: int, stop: int, sizes: Sequence[Size]) -> Measured:
        part = piece(head, rounds, start, stop, "")
        return _measured(part.messages, self._count(part.messages, sizes[: part.shown]), is_part=True)


def _measured(messages: list[dict[str, Any]], counts: Counts, **kind: bool) -> Measured:
    return Measured(messages, *counts, pictures_in([messages]), **kind)
