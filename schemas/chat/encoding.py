"""Messages to ids and labels in one pass: labels follow from the character offsets of the answers."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from schemas.chat.compat import encode_like_original
from schemas.chat.encoded import IGNORE, Encoded
from schemas.chat.images import ImageRule, Size, image_tokens
from schemas.chat.templates import BOS, EOS, Message, Segment, Template
from schemas.chat.tokenizer import Tokenizer
from schemas.chat.wordcache import Pieces
from schemas.errors import InputError

NO_SIZES: tuple[Size, ...] = ()


@dataclass
class _Row:
    """The row under construction. `first` until it has a token of the template or a picture.

    Ids and labels are arrays of 32-bit integers: the tokens of a picture are written and copied without a loop.
    """

    ids: array[int] = field(default_factory=lambda: array("i"))
    labels: array[int] = field(default_factory=lambda: array("i"))
    pictures: list[tuple[int, int]] = field(default_factory=list)
    run: list[Segment] = field(default_factory=list)
    first: bool = True

    def add(self, token: int, times: int = 1, supervised: bool = False) -> None:
        self.ids += array("i", [token]) * times
        self.labels += array("i", [token if supervised else IGNORE]) * times


def encode(
    messages: Sequence[Message],
    sizes: Sequence[Size] | None,
    template: Template,
    tokenizer: Tokenizer,
    rule: ImageRule | None = None,
    compat: str | None = None,
    max_length: int | None = None,
    system: str | None = None,
    generate: bool = False,
) -> Encoded:
    """Ids and labels of a conversation.

    sizes: (width, height) in pixels of its pictures, in order. rule: gives the number of `tokenizer.image_id` that each
    picture becomes. max_length: cuts the end; a picture that would be cut is removed whole, with all that follows.
    generate: end with the opening of an answer. compat: 'llava' or 'llava_next' reproduces the original code's ids and
    labels (a picture is one ORIGINAL_IMAGE; see schemas/chat/compat.py); `sizes` and `rule` are then not needed.

    Text in messages never becomes control tokens. Raises InputError when the numbers of pictures and sizes differ, when
    `rule` is missing, or when the tokenizer lacks a control token of the template.
    """
    if compat is not None:
        return encode_like_original(messages, template, tokenizer, compat, max_length)
    segments = template.generation_prompt(messages, system) if generate else template.render(messages, system)
    counts = image_counts(segments, sizes, rule)
    row = _Row()
    if tokenizer.bos_id is not None and (tokenizer.adds_bos or template.opens):
        row.add(tokenizer.bos_id)
    for segment in segments:
        if segment.image:
            _flush(row, tokenizer)
            start = len(row.ids)
            row.add(tokenizer.image_id, counts[len(row.pictures)])
            row.pictures.append((start, len(row.ids)))
            row.first = False
        elif segment.control:
            _flush(row, tokenizer)
            row.add(control_id(segment.text, template, tokenizer), supervised=segment.supervised)
            row.first = False
        else:
            row.run.append(segment)
    _flush(row, tokenizer)
    return _finished(row, max_length)


def control_id(text: str, template: Template, tokenizer: Tokenizer) -> int:
    """The id of a template's control token; `<s>` and `</s>` are the tokenizer's own first and last token."""
    found = {BOS: tokenizer.bos_id, EOS: tokenizer.eos_id}.get(text, tokenizer.token_id(text))
    if found is None:
        raise InputError(
            f"{tokenizer.where}: the tokenizer has no token {text}, which template {template.name!r} uses. "
            "Choose the template that the language model was trained with, or add the token to the tokenizer."
        )
    return found


def _flush(row: _Row, tokenizer: Tokenizer) -> None:
    """Tokenise the text since the last control token or picture in one go, and label it by character."""
    if not row.run:
        return
    pieces = tokenizer.encode("".join(segment.text for segment in row.run), row.first)
    spans = supervised_spans(row.run)
    row.ids.extend(pieces.ids)
    row.labels += _labels(pieces, spans)
    row.run = []
    row.first = False


def supervised_spans(run: Sequence[Segment]) -> list[tuple[int, int]]:
    """[start, end) of the supervised segments in the joined text of `run`, in characters."""
    spans, position = [], 0
    for segment in run:
        end = position + len(segment.text)
        if segment.supervised:
            spans.append((position, end))
        position = end
    return spans


def _labels(pieces: Pieces, spans: list[tuple[int, int]]) -> array[int]:
    """A token is supervised if it contains any character of an answer; an empty token belongs to its position."""
    labels = array("i", [IGNORE]) * len(pieces.ids)
    for start, end in spans:
        first = bisect_right(pieces.offsets, start, key=lambda offset: max(offset[1], offset[0] + 1))
        last = bisect_left(pieces.offsets, end, key=lambda offset: offset[0])
        labels[first:last] = array("i", pieces.ids[first:last])
    return labels


def image_counts(segments: list[Segment], sizes: Sequence[Size] | None, rule: ImageRule | None) -> list[int]:
    """Tokens of each picture that `segments` show; raises InputError as `encode` does."""
    pictures = sum(segment.image for segment in segments)
    sizes = NO_SIZES if sizes is None else sizes
    if pictures != len(sizes):
        raise InputError(
            f"the messages show {pictures} pictures, and {len(sizes)} sizes were given. "
            "Every picture of a row needs one content part of type image, in a turn that the template renders: answers "
            "before the first question are left out, and so are plain's question and pictures in its answer."
        )
    if not pictures:
        return []
    if rule is None:
        raise InputError("the messages show pictures, but no image rule was given to count their tokens.")
    for width, height in sizes:
        rule.check_size(width, height, len(sizes))
    return image_tokens(rule, list(sizes))


def _finished(row: _Row, max_length: int | None) -> Encoded:
    total = len(row.ids)
    kept = total if max_length is None else min(total, max_length)
    cut = next((start for start, end in row.pictures if start < kept < end), kept)
    labels = np.array(row.labels[:cut], np.int32)
    return Encoded(
        ids=np.array(row.ids[:cut], np.int32),
        labels=labels,
        tokens=total,
        image_tokens=sum(end - start for start, end in row.pictures),
        supervised=int(np.count_nonzero(labels != IGNORE)),
        images=sum(end <= cut for _, end in row.pictures),
        truncated=cut < total,
    )
