"""Values out of JSON files of any writer: a list, or one per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from schemas.errors import InputError


def json_values(path: Path) -> Iterator[Any]:
    """Values of a JSON list or of JSON lines, whatever the suffix says: writers confuse the two.

    Lines are read one by one; a bad one is an InputError among the values. Raises InputError for a file that is empty,
    no UTF-8 text, or no JSON as a whole.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "")
            if _is_object(first):
                yield from _json_lines(chain([first], file))
                return
            text = first + file.read()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this is not UTF-8 text ({error}). Convert the file to UTF-8.") from error
    if not text.strip():
        raise InputError(f"{path}: the file is empty.")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if path.suffix == ".json" or text.lstrip()[0] == "[":
            raise InputError(f"{path}: this is not valid JSON ({error}).") from error
        yield from _json_lines(iter(text.split("\n")))
        return
    if not isinstance(found, list):
        found = [found]
    yield from found


def _is_object(line: str) -> bool:
    """Whether a line holds a whole JSON object: then so do the others."""
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
            yield InputError(f"this line is not valid JSON ({error}).")
