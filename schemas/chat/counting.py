"""Token counts without encoding, for mixes, which count every row and train on none.

The counts are those of `encode` (a property test compares them). Where a tokenizer keeps words apart (wordcache.py), a
text has as many tokens as its words together, and only the words at the borders of answers need their tokens' places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from schemas.chat.encoding import control_id, encode, image_counts
from schemas.chat.images import ImageRule, Size
from schemas.chat.templates import Message, Segment, Template
from schemas.chat.tokenizer import Tokenizer
from schemas.chat.tokenizerfile import tokenizer_errors
from schemas.chat.wordcache import Pieces, WordCache, end_of_word, start_of_word


class Counts(NamedTuple):
    """Exact counts of a training row, before any truncation."""

    tokens: int
    image_tokens: int
    supervised: int


def count(
    messages: Sequence[Message],
    sizes: Sequence[Size] | None,
    template: Template,
    tokenizer: Tokenizer,
    rule: ImageRule | None = None,
) -> Counts:
    """The counts that `encode` gives for the same arguments; raises the same errors."""
    words = tokenizer.words
    if words is None:
        made = encode(messages, sizes, template, tokenizer, rule)
        return Counts(made.tokens, made.image_tokens, made.supervised)
    with tokenizer_errors(tokenizer.where):
        return _count(template.render(messages), sizes, template, tokenizer, rule, words)


def learn(texts: Iterable[str], tokenizer: Tokenizer) -> None:
    """Tokenise the words of many texts that are about to be counted in one call: per word it costs a fifth."""
    if tokenizer.words is not None:
        with tokenizer_errors(tokenizer.where):
            tokenizer.words.learn(texts)


def _count(
    segments: list[Segment],
    sizes: Sequence[Size] | None,
    template: Template,
    tokenizer: Tokenizer,
    rule: ImageRule | None,
    words: WordCache,
) -> Counts:
    pictures = image_counts(segments, sizes, rule)
    tokens = supervised = 0
    if tokenizer.bos_id is not None and (tokenizer.adds_bos or template.opens):
        tokens += 1
    first, run = True, list[Segment]()
    for segment in segments:
        if not (segment.image or segment.control):
            run.append(segment)
            continue
        if run:
            own = _of_run(run, words, tokenizer, first)
            tokens, supervised, run = tokens + own[0], supervised + own[1], []
        first = False
        if segment.control:
            control_id(segment.text, template, tokenizer)
            tokens, supervised = tokens + 1, supervised + segment.supervised
    if run:
        own = _of_run(run, words, tokenizer, first)
        tokens, supervised = tokens + own[0], supervised + own[1]
    return Counts(tokens + sum(pictures), sum(pictures), supervised)


def _of_run(run: list[Segment], words: WordCache, tokenizer: Tokenizer, first: bool) -> tuple[int, int]:
    """Tokens, and supervised ones, of text between two control tokens or pictures.

    Words inside a segment count as a whole. A word that belongs to two has tokens of both, and their places decide; a
    template joins neighbours of one kind, so of two segments one is supervised.
    """
    text = "".join([segment.text for segment in run])
    place = tokens = supervised = position = 0
    opening = tokenizer.opening(first)
    if opening is not None and text:
        place = end_of_word(text, 0)
        pieces = words.opened(text[:place], opening)
        tokens, supervised = len(pieces.ids), _inside(pieces, 0, run, 0)
    for number, segment in enumerate(run):
        end = position + len(segment.text)
        position = end
        if place >= end:
            continue
        begin = start_of_word(text, end)
        if begin > place:
            known = words.number(text[place:begin])
            tokens += known
            supervised += known if segment.supervised else 0
        place = begin
        if begin < end:
            place = end_of_word(text, begin)
            if place <= end + len(run[number + 1].text):
                all_of_it, left, right = words.divided(text[begin:place], end - begin)
                tokens, supervised = tokens + all_of_it, supervised + (left if segment.supervised else right)
            else:
                pieces = words.pieces(text[begin:place])
                tokens += len(pieces.ids)
                supervised += _inside(pieces, begin, run, end - len(segment.text), number)
    return tokens, supervised


def _inside(pieces: Pieces, place: int, run: list[Segment], position: int, number: int = 0) -> int:
    """How many tokens of a word at `place` hold a character that is supervised; an empty token belongs to its position.

    The word spans segments from `number` on, which begins at `position`.
    """
    if len(run[number].text) + position >= place + pieces.offsets[-1][1]:
        return len(pieces.ids) if run[number].supervised else 0
    found: set[int] = set()
    for segment in run[number:]:
        start, position = position - place, position + len(segment.text)
        if segment.supervised:
            found.update(
                index
                for index, (begin, end) in enumerate(pieces.offsets)
                if begin < position - place and max(end, begin + 1) > start
            )
    return len(found)
