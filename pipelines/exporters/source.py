"""The rows of a dataset for exporters: with their images, or with the reason for leaving them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from pipelines.exporters.config import ExportConfig
from schemas.chat.shapes import loose
from schemas.columnfile import BATCH_ROWS
from schemas.dataset import Dataset, Fragment
from schemas.errors import InputError
from schemas.lookup import PicturesByName
from schemas.standing import EVERY_CHOICE, IMAGE_MISSING, LEFT_OUT, Standing, Use

PICTURE_COLUMNS = ("image", "license")
CONVERSATIONS = 512
"""Rows of conversations that are read, and their pictures looked up, at a time."""


@dataclass(frozen=True)
class Picture:
    """An encoded picture, under the name by which its row knows it; no content where it is not exported."""

    name: str
    content: bytes
    license: str | None = None
    is_named: bool = True
    """Whether the dataset names it; else the name is made of its row's key."""


@dataclass(frozen=True)
class Row:
    """A row to export: its columns, but for pictures, and its pictures in the order in which it shows them.

    reason: why nobody can use it, for exports that have such rows.
    """

    values: dict[str, Any]
    pictures: list[Picture] = field(default_factory=list)
    reason: str | None = None

    @property
    def key(self) -> str:
        return self.values["key"]


class Source:
    """The rows of `dataset`, in order. Raises InputError for options that do not fit it."""

    def __init__(self, path: str, config: ExportConfig):
        self.config = config
        self.dataset = Dataset.open(path)
        self.kind = self.dataset.schema_name
        if config.images is not None and self.kind != "conversations":
            raise InputError(
                f"{path}: a dataset of {self.kind} has its own pictures. Leave --images out; it is for conversations."
            )
        self.images = _Images(config) if config.images is not None else None
        own = self.kind == "images"
        self.standing = Standing.of(self.dataset, _use(config, pictures=own))

    @cached_property
    def columns(self) -> list[str]:
        """What is read of every row: all that a fragment of any age has."""
        return [name for name in self.dataset.columns if name != LEFT_OUT]

    @cached_property
    def partial_columns(self) -> list[str]:
        """Columns that some fragments have and others lack: a step has not run on all of them."""
        found = dict.fromkeys(name for fragment in self.dataset.fragments for name in fragment.columns)
        return [name for name in found if name not in self.dataset.columns]

    @property
    def rows(self) -> int:
        return self.dataset.rows

    def read(self, start: int = 0) -> Iterator[Row]:
        """Rows from number `start` on; a row with a `reason` cannot be used."""
        ends = np.cumsum(self.dataset.manifest.fragments.row_counts, dtype=np.int64)
        number = int(np.searchsorted(ends, start, side="right"))
        skip = start - (int(ends[number - 1]) if number else 0)
        for fragment in self.dataset.fragments[number:] if number < len(ends) else ():
            yield from self._fragment(fragment, skip)
            skip = 0

    def _fragment(self, fragment: Fragment, skip: int) -> Iterator[Row]:
        wanted = list(dict.fromkeys([*self.columns, *self.standing.columns_in(fragment.owner)]))
        surplus = set(wanted) - set(self.columns)
        for batch in fragment.batches(wanted, BATCH_ROWS if self.kind != "conversations" else CONVERSATIONS):
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            rest = batch.slice(skip)
            skip = 0
            rows, reasons = rest.to_pylist(), self.standing.reasons(rest).to_pylist()
            names = [name for row in rows for name in row["image_keys"] or ()] if self.images else []
            numbers = self.images.numbers(names) if self.images else []
            for values, reason in zip(rows, reasons, strict=True):
                for name in surplus:
                    del values[name]
                shown = len(values["image_keys"] or ()) if self.images else 0
                yield self._row(values, reason, numbers[:shown])
                del numbers[:shown]

    def _row(self, values: dict[str, Any], reason: str | None, numbers: list[int]) -> Row:
        """numbers: of the rows of its pictures, of conversations that come with them."""
        if self.kind == "images":
            image = values.pop("image", None)
            content = (image or {}).get("bytes")
            pictures = [Picture(values["key"], content, values.get("license"))] if content else []
            return Row(values, pictures, reason)
        if reason is None and not values["messages"]:
            reason = "no_messages"
        if self.kind == "samples":
            return self._sample(values, reason)
        names = values["image_keys"] or []
        if reason is None:
            reason = _unshown(values["messages"], len(names))
        if reason is None and self.images is not None:
            found, pictures = self.images.pictures(names, numbers)
            return Row(values, pictures, found)
        return Row(values, [Picture(name, b"") for name in names], reason)

    def _sample(self, values: dict[str, Any], reason: str | None) -> Row:
        images = values.pop("images") or []
        several = len(images) > 1
        pictures = [
            Picture(
                one["path"] or f"{values['key']}{f'-{number}' if several else ''}",
                one["bytes"] or b"",
                is_named=one["path"] is not None,
            )
            for number, one in enumerate(images)
        ]
        if reason is None and not all(one.content for one in pictures):
            reason = IMAGE_MISSING
        return Row(values, pictures, reason or _unshown(values["messages"], len(pictures)))


class _Images:
    """The pictures of conversations: found by key, and judged."""

    def __init__(self, config: ExportConfig):
        assert config.images is not None
        self.dataset = Dataset.open(config.images, keep=64)
        if self.dataset.schema_name != "images":
            raise InputError(f"--images {config.images}: holds {self.dataset.schema_name}; expected images.")
        missing = [name for name in ("key", "image") if name not in self.dataset.columns]
        if missing:
            raise InputError(
                f"--images {config.images}: no column {missing[0]!r} in all its fragments. Run `download` first."
            )
        self.rows = PicturesByName(self.dataset)
        self.standing = Standing.of(self.dataset, _use(config, pictures=True))
        self.columns = [name for name in PICTURE_COLUMNS if name in self.dataset.columns]
        self._reasons: dict[str, list[str | None]] = {}

    def numbers(self, names: Sequence[str]) -> list[int]:
        """The row of each picture, -1 where there is none."""
        return self.rows.find_all(names).tolist() if names else []

    def pictures(self, names: Sequence[str], numbers: Sequence[int]) -> tuple[str | None, list[Picture]]:
        """Why the pictures cannot be shown (None: they can), and the pictures."""
        for number in numbers:
            reason = IMAGE_MISSING if number < 0 else self._reason(number)
            if reason is not None:
                return reason, []
        found = self.dataset.take(numbers, self.columns)
        return None, [
            Picture(name, one["image"]["bytes"], one.get("license")) for name, one in zip(names, found, strict=True)
        ]

    def _reason(self, number: int) -> str | None:
        fragment, offset = self.dataset.locate(number)
        if fragment.id not in self._reasons:
            if len(self._reasons) >= 64:
                self._reasons.clear()
            self._reasons[fragment.id] = self.standing.of_fragment(fragment).to_pylist()
        return self._reasons[fragment.id][offset]


def _use(config: ExportConfig, pictures: bool) -> Use:
    return Use(pictures=pictures, takes=EVERY_CHOICE if config.duplicates == "keep" else frozenset())


def _unshown(messages: Sequence[dict[str, Any]], pictures: int) -> str | None:
    """`cannot_encode`, as a mix calls it, where placeholders and pictures differ."""
    shown = sum(part["type"] == "image" for message in messages for part in message["content"])
    return None if shown == pictures and (pictures or not loose(messages)) else "cannot_encode"
