"""Shows each row as the model sees it: the prompt, its ids and labels, with the supervised text in colour."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from schemas.chat.compat import encode_like_original, original_job
from schemas.chat.encoded import IGNORE, ORIGINAL_IMAGE, Encoded
from schemas.chat.encoding import encode
from schemas.chat.images import ImageRule, Size
from schemas.chat.prompts import get_template
from schemas.chat.rows import Row, open_rows
from schemas.chat.templates import Template
from schemas.chat.tokenizer import Tokenizer, load_tokenizer
from schemas.errors import InputError


def tokens_command(
    path: str,
    template: str,
    tokenizer: str,
    compat: str | None = None,
    max_length: int | None = None,
    as_json: bool = False,
    rule: ImageRule | None = None,
    images: str | None = None,
    limit: int | None = None,
    color: bool | None = None,
) -> Iterator[str]:
    """Lines to print for the rows of `path`: LLaVA rows in .json or .jsonl, or a samples or conversations dataset.

    as_json: one JSON object per row. rule: how pictures are counted; by default the dataset's own, else LLaVA-1.5's.
    images: the folder with the pictures of LLaVA rows, whose sizes anyres needs. color: by default, on a terminal.
    A row that cannot be encoded is shown with the reason; after all rows, InputError names the first one. A file that
    cannot be read, or a tokenizer or template that does not fit, raises InputError immediately.
    """
    form, words = get_template(template), load_tokenizer(tokenizer)
    _check_fit(form, words, compat)
    rule, rows = open_rows(Path(path), rule, images, any_speaker=compat is not None)
    color = sys.stdout.isatty() if color is None else color
    failures: list[str] = []
    count = 0
    for number, row in enumerate(rows):
        if limit is not None and number >= limit:
            break
        count += 1
        try:
            if isinstance(row, InputError):
                raise row
            shown = describe(row, form, words, rule, compat, max_length)
        except InputError as error:
            key = row.key if isinstance(row, Row) else None
            reason = str(error) if key is None else f"row {number} (id {key}): {error}"
            failures.append(f"{path}, {reason}")
            yield json.dumps({"row": number, "id": key, "error": str(error)}) if as_json else reason
            continue
        yield json.dumps(shown, ensure_ascii=False) if as_json else text_view(shown, words, color)
    if count == 0 and limit != 0:
        raise InputError(f"{path}: contains no rows.")
    if failures:
        more = f" {len(failures)} of {count} rows failed." if len(failures) > 1 else ""
        raise InputError(failures[0] + more)


def describe(
    row: Row, template: Template, tokenizer: Tokenizer, rule: ImageRule, compat: str | None, max_length: int | None
) -> dict[str, Any]:
    """The values of one row's JSON line; supervised_text lists the decoded runs of supervised tokens."""
    if compat is not None:
        encoded = encode_like_original(row.messages, template, tokenizer, compat, max_length, row.has_image)
        prompt = original_job(row.messages, template, tokenizer, compat, max_length, row.has_image).prompt
    else:
        encoded = encode(row.messages, _sizes(row, rule), template, tokenizer, rule, max_length=max_length)
        prompt = "".join(segment.text for segment in template.render(row.messages))
    return {
        "id": row.key,
        "prompt": prompt,
        "input_ids": encoded.ids.tolist(),
        "labels": encoded.labels.tolist(),
        "supervised_text": supervised_text(encoded, tokenizer),
        "n_supervised": encoded.supervised,
        "truncated": encoded.truncated,
        "tokens": encoded.tokens,
        "image_tokens": encoded.image_tokens,
        "all_masked": encoded.all_masked,
        "warning": row.warning if compat is None else encoded.warning,
    }


def _check_fit(template: Template, tokenizer: Tokenizer, compat: str | None) -> None:
    """Raise InputError when the tokenizer lacks a token of the template, which would make every row fail."""
    asked = {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "?"}]}
    answered = {"role": "assistant", "content": [{"type": "text", "text": "!"}]}
    encode([asked, answered], [(1, 1)], template, tokenizer, ImageRule(), compat)


def supervised_text(encoded: Encoded, tokenizer: Tokenizer) -> list[str]:
    """Each run of supervised tokens, decoded with its control tokens."""
    supervised = np.flatnonzero(encoded.labels != IGNORE)
    runs = np.split(supervised, np.flatnonzero(np.diff(supervised) > 1) + 1)
    return [tokenizer.decode(encoded.labels[run].tolist()) for run in runs if len(run)]


def text_view(shown: dict[str, Any], tokenizer: Tokenizer, color: bool) -> str:
    """A row for humans: counts, then the tokens as text, supervised ones in green, pictures as one mark each."""
    from rich.console import Console
    from rich.text import Text

    counts = f"{shown['tokens']} tokens, {shown['image_tokens']} of pictures, {shown['n_supervised']} supervised"
    text = Text().append(f"{shown['id']}: {counts}{', cut' if shown['truncated'] else ''}\n", style="bold")
    if shown["all_masked"]:
        text.append("no token of this row is supervised\n", style="bold red")
    if shown["warning"]:
        text.append(f"{shown['warning']}\n", style="red")
    for supervised, picture, ids in _runs(shown, tokenizer.image_id):
        body = f"[picture x {len(ids)}]" if picture else tokenizer.decode(ids)
        mark = body if color or not supervised else f"\u00ab{body}\u00bb"
        text.append(mark, style="green" if supervised else "cyan" if picture else "dim")
    text.append(f"\nids    {_short(shown['input_ids'])}\nlabels {_short(shown['labels'])}\n")
    console = Console(force_terminal=color, no_color=not color, width=10_000, highlight=False, soft_wrap=True)
    with console.capture() as captured:
        console.print(text)
    return captured.get().rstrip("\n") + "\n"


def _runs(shown: dict[str, Any], image_id: int) -> Iterator[tuple[bool, bool, list[int]]]:
    """(supervised, picture, ids) of each run of tokens of one kind."""
    held: list[int] = []
    kind = (False, False)
    for token, label in zip(shown["input_ids"], shown["labels"], strict=True):
        now = (label != IGNORE, token in (image_id, ORIGINAL_IMAGE))
        if held and now != kind:
            yield *kind, held
            held = []
        kind = now
        held.append(token)
    if held:
        yield *kind, held


def _short(values: list[int]) -> str:
    """Numbers with repeats collapsed: -100 x 35."""
    folded: list[list[int]] = []
    for value in values:
        if folded and folded[-1][0] == value:
            folded[-1][1] += 1
        else:
            folded.append([value, 1])
    return " ".join(str(value) if times == 1 else f"{value} x {times}" for value, times in folded)


def _sizes(row: Row, rule: ImageRule) -> list[Size]:
    """Sizes of the row's pictures. If they are unknown, any will do unless the count depends on them."""
    if row.sizes is not None:
        return row.sizes
    pictures = sum(part["type"] == "image" for message in row.messages for part in message["content"])
    if pictures and rule.depends_on_size:
        raise InputError(
            f"image mode {rule.mode!r} counts by picture size: give the folder of images, or a samples dataset."
        )
    return [(rule.image_size, rule.image_size)] * pictures
