"""Count the words of conversations as the original LLaVA code does to group rows by length."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def word_counts(messages: pa.ListArray) -> np.ndarray:
    """Words of each row's turns as `to_llava` would write them, int64 (rows,): the sum of `len(value.split())`.

    messages: a column of the conversations or samples schema. A picture is the word `<image>`, joined to a neighbour
    that touches it ("<image>."), except after pictures that open a turn, where `to_llava` starts a new line. Works on
    flat arrays: rows as Python objects would take minutes for a whole mix.
    """
    contents = messages.flatten().field("content")
    parts = contents.flatten()
    is_image = np.asarray(pc.equal(parts.field("type"), "image"))
    texts = parts.field("text").fill_null("").to_pylist()
    row_of_message = np.repeat(np.arange(len(messages)), _sizes(messages))
    message = np.repeat(np.arange(len(contents)), _sizes(contents))
    shown = np.fromiter((image or text != "" for image, text in zip(is_image, texts, strict=True)), bool, len(texts))
    words = np.fromiter((len(text.split()) for text in texts), np.int64, len(texts))
    opens = np.fromiter((not text[:1].isspace() for text in texts), bool, len(texts))
    ends = np.fromiter((not text[-1:].isspace() for text in texts), bool, len(texts))
    words, opens, ends = np.where(is_image, 1, words), opens | is_image, ends | is_image
    message, is_image, words = message[shown], is_image[shown], words[shown]
    touching = (message[1:] == message[:-1]) & ends[shown][:-1] & opens[shown][1:]
    counts = words.copy()
    counts[1:] -= touching & ~_only_pictures_before(message, is_image)[1:]
    return np.bincount(row_of_message[message], counts, len(messages)).astype(np.int64)


def _sizes(lists: pa.ListArray) -> np.ndarray:
    return np.asarray(lists.value_lengths().fill_null(0))


def _only_pictures_before(message: np.ndarray, is_image: np.ndarray) -> np.ndarray:
    """Whether no text precedes a part in its message."""
    texts = np.cumsum(~is_image) - ~is_image
    starts = np.flatnonzero(np.diff(message, prepend=-1))
    return texts == np.repeat(texts[starts], np.diff(np.append(starts, len(message))))
