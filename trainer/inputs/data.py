"""The rows of a mix as training items: ids, labels and prepared pictures, or the reason why a row is refused."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from schemas.chat import Tokenizer, encode, get_template
from schemas.chat.shapes import loose
from schemas.dataset import Dataset
from schemas.errors import InputError, LavaBeamError
from trainer.inputs.pictures import cut
from trainer.models.folder import ModelFolder

KEPT_BYTES = 64 << 20
"""Memory for prepared pictures in each loading process."""

COLUMNS = ("key", "images", "widths", "heights", "messages", "tokens")


@dataclass(frozen=True)
class Item:
    """One row, ready to be collated.

    ids, labels: int32 (tokens,). pictures: uint8 (tiles, 3, S, S) each. sizes: (width, height) in pixels of each.
    """

    key: str
    ids: np.ndarray
    labels: np.ndarray
    pictures: list[np.ndarray] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Refused:
    """A row that cannot be trained on, and why."""

    key: str
    row: int
    reason: str


class Samples:
    """Items of a mix by row number."""

    def __init__(self, mix: Dataset, folder: ModelFolder, *, max_length: int | None, cut: bool = False):
        """`cut`: shorten rows above `max_length` tokens instead of refusing them. A row whose answers are all cut off
        stays, as in the original, and teaches nothing."""
        self.mix, self.folder = mix, folder
        self.max_length, self.cut = max_length, cut
        self.template = get_template(str(folder.template))
        self.tokenizer: Tokenizer = folder.tokenizer
        self._pictures: OrderedDict[tuple[bytes, bool], np.ndarray] = OrderedDict()
        self._picture_bytes = 0

    def __len__(self) -> int:
        return self.mix.rows

    def items(self, rows: Sequence[int]) -> list[Item | Refused]:
        """An item per row. A row that cannot be used becomes a `Refused`; it is never replaced by another."""
        taken = self.mix.take(rows, COLUMNS) if len(rows) else []
        return [self._item_or_reason(int(row), values) for row, values in zip(rows, taken, strict=True)]

    def _item_or_reason(self, row: int, values: dict[str, Any]) -> Item | Refused:
        try:
            return self._item(values)
        except LavaBeamError as error:
            return Refused(values["key"], row, str(error))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # Whatever a decoder or a tokenizer stumbles over is this row's: struct.error, MemoryError, and a panic of
            # tokenizers, which is no Exception.
            return Refused(values["key"], row, f"{type(error).__name__}: {error}")

    def _item(self, values: dict[str, Any]) -> Item:
        sizes = list(zip(values["widths"], values["heights"], strict=True))
        lost = loose(values["messages"])
        if lost is not None:
            raise InputError(lost)
        length = self.max_length if self.cut else None
        rule = self.folder.rule
        encoded = encode(values["messages"], sizes, self.template, self.tokenizer, rule, max_length=length)
        if encoded.tokens != values["tokens"]:
            raise InputError(
                f"{encoded.tokens} tokens, but the mix counted {values['tokens']}: make the mix again with this "
                "tokenizer, template and image rule."
            )
        if self.max_length is not None and len(encoded.ids) > self.max_length:
            raise InputError(f"{encoded.tokens} tokens, more than the model's limit of {self.max_length}.")
        if encoded.all_masked and not (length is not None and values["tokens"] > length):
            raise InputError("no supervised tokens are left to train on.")
        if encoded.images and rule.cuts(encoded.images) != rule.cuts(len(sizes)):
            raise InputError(
                f"cut to {self.max_length} tokens, one of {len(sizes)} pictures stands alone, and the model would cut "
                "it into tiles. Raise `data.max_length`, or make the mix with `too_long: split`."
            )
        shown = islice(zip(values["images"], sizes, strict=True), encoded.images)
        pictures = [self._picture((image or {}).get("bytes"), size, len(sizes)) for image, size in shown]
        return Item(values["key"], encoded.ids, encoded.labels, pictures, sizes[: encoded.images])

    def _picture(self, content: bytes | None, size: tuple[int, int], pictures: int) -> np.ndarray:
        """Pixels of a picture. The latest are cached: rows share pictures, and epochs repeat them.

        size: (width, height) that the mix counted tokens by; raises InputError for a picture of another size.
        pictures: of its row.
        """
        if content is None:
            raise InputError("no picture where the mix names one: make the mix again.")
        known = (content, self.folder.rule.cuts(pictures))
        if known in self._pictures:
            self._pictures.move_to_end(known)
            return self._pictures[known]
        picture = cut(content, self.folder.rule, self.folder.mean, pictures=pictures)
        if picture.size != size:
            found, said = (f"{width}x{height}" for width, height in (picture.size, size))
            raise InputError(f"a picture of {found} pixels, and the mix says {said}: make the mix again.")
        pixels = picture.pixels
        self._pictures[known] = pixels
        self._picture_bytes += pixels.nbytes + len(content)
        while self._picture_bytes > KEPT_BYTES:
            (dropped, _), old = self._pictures.popitem(last=False)
            self._picture_bytes -= old.nbytes + len(dropped)
        return pixels


class BadRows:
    """Refused rows: this rank's are recorded, and more than `allowed` on all ranks together stop the run."""

    def __init__(self, path: Path, allowed: int):
        self.path, self.allowed = path, allowed
        self.count = 0
        self.latest = ""

    def record(self, refused: Sequence[Refused]) -> None:
        """Write this rank's refused rows to the file, each with key and reason."""
        if not refused:
            return
        with self.path.open("a", encoding="utf-8") as file:
            for row in refused:
                file.write(json.dumps({"key": row.key, "row": row.row, "reason": row.reason}) + "\n")
        self.latest = f"row {refused[-1].row}, key {refused[-1].key!r}: {refused[-1].reason}"

    def too_many(self, found: int) -> bool:
        """Add the rows that a step `found` on all ranks; whether there are now more than allowed."""
        self.count += found
        return self.count > self.allowed

    def error(self, latest: Sequence[str]) -> InputError:
        """The error for too many; `latest` of each rank, empty where it had none."""
        example = next((text for text in latest if text), "")
        return InputError(
            f"{self.count} bad rows, {self.allowed} allowed (data.max_bad). The latest: {example} All are listed in "
            "bad-rows-*.jsonl of the run folder."
        )
