"""Read values from JSON files, whether they hold a list or one value per line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.streams import open_text, plain_suffix


def json_values(path: Path) -> Iterator[Any]:
    """Values of a JSON list or of JSON lines, regardless of the suffix: writers confuse the two.

    The file may be compressed (schemas/streams.py). Lines are read one by one; a bad line becomes an InputError among
    the values. Raises InputError for a file that is empty, cut, not Unicode text, or not JSON at all.
    """
    try:
        with open_text(str(path)) as content, io.TextIOWrapper(content, encoding="utf-8") as file:
            first = next((line for line in file if line.strip()), "")
            if _is_object(first):
                yield from _json_lines(chain([first], file))
                return
            text = first + file.read()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}). Convert the file to UTF-8.") from error
    if not text.strip():
        raise InputError(f"{path}: the file is empty.")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if plain_suffix(path.name) == ".json" or text.lstrip()[0] == "[":
            raise InputError(f"{path}: not valid JSON ({error}).") from error
        yield from _json_lines(iter(text.split("\n")))
        return
    if not isinstance(found, list):
        found = [found]
    yield from found


def _is_object(line: str) -> bool:
    """Whether a line is a complete JSON object: then so are the others."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _json_lines(lines: Iterator[str]) -> Iterator[Any]:
    for line in lines:
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            yield InputError(f"not valid JSON ({error}).")
