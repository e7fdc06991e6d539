"""Which rows of a source may be taken, as far as each row decides that by itself: standing, filters, pictures.

The plan of a mix asks for all rows of a source at once, and the maker for those of a fragment; both ask here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines.mix.images import Images
from pipelines.mix.recipe import MixSource
from pipelines.mix.select import caption_rows, refused_by
from schemas.dataset import Dataset, Fragment
from schemas.errors import InputError
from schemas.lookup import RowsByKey
from schemas.standing import LEFT_OUT, Standing

CONVERSATION_COLUMNS = ["key", "image_keys", "messages", "kind", "source"]
BATCH_ROWS = 512

NONE: tuple[int, ...] = ()


class Verdict(NamedTuple):
    """Why a row is left out (None: it is not), and the row numbers of its pictures.

    as_text: its pictures cannot be used, and the recipe takes it without them.
    """

    reason: str | None
    pictures: tuple[int, ...] = NONE
    as_text: bool = False


class Judge:
    """The rows of one source of a mix, and verdicts on them."""

    def __init__(self, name: str, source: MixSource, dataset: Dataset, pictures: RowsByKey | None):
        self.name, self.source, self.dataset = name, source, dataset
        self.standing = Standing.of(dataset, source.row_use)
        self.images = Images(pictures, source) if pictures is not None else None

    def columns(self, fragment: Fragment, messages: bool = True) -> list[str]:
        """The columns of a fragment that rows are read with."""
        if self.source.conversations is None:
            return ["key", self.source.captions or ""]
        columns = dict.fromkeys([*CONVERSATION_COLUMNS, *self.source.where, *self.standing.columns_in(fragment.owner)])
        if not messages and "messages" not in self.source.where:
            del columns["messages"]
        return list(columns)

    def batches(self, fragment: Fragment, messages: bool = True) -> Iterator[list[dict[str, Any]]]:
        """The rows of a fragment, without their messages if these are not asked for. Captions are conversations."""
        for batch in fragment.batches(self.columns(fragment, messages), BATCH_ROWS):
            yield self.rows(batch)

    def rows(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        """The rows of one batch; LEFT_OUT is what their standing says."""
        if self.source.conversations is None:
            return list(caption_rows(batch.to_pylist(), self.source, self.name))
        return batch.append_column(LEFT_OUT, self.standing.reasons(batch)).to_pylist()

    def verdicts(self, rows: list[dict[str, Any]]) -> list[Verdict]:
        """A verdict on each row. Raises InputError for a row that the recipe refuses."""
        reasons = [self._own_reason(row) for row in rows]
        if self.images is None:
            return [self._without_images(row, reason) for row, reason in zip(rows, reasons, strict=True)]
        asked = [[] if reason else row["image_keys"] or [] for row, reason in zip(rows, reasons, strict=True)]
        judged = self.images.judge_all(asked)
        return [
            Verdict(reason) if reason is not None else self._shown(row, *found)
            for row, reason, found in zip(rows, reasons, judged, strict=True)
        ]

    def unusable(self, key: str, reason: str, detail: str = "") -> Verdict:
        """What becomes of a row whose picture cannot be used. Raises InputError where the recipe says so."""
        policy = self.source.missing_image
        if policy == "refuse":
            said = f" ({detail})" if detail else ""
            raise InputError(
                f"mix source {self.name!r}, row {key!r}: a picture cannot be used: {reason}{said}. Mend it, or set "
                "`missing_image` to drop or text."
            )
        return Verdict(None, NONE, True) if policy == "text" else Verdict(reason)

    def _shown(self, row: dict[str, Any], reason: str | None, pictures: tuple[int, ...], chosen: bool) -> Verdict:
        if reason is None or chosen:
            return Verdict(reason, pictures)
        return self.unusable(row["key"], reason)

    def _without_images(self, row: dict[str, Any], reason: str | None) -> Verdict:
        """The verdict where the source names no `images`."""
        if reason is not None or not row["image_keys"]:
            return Verdict(reason)
        if self.source.missing_image == "text":
            return Verdict(None, NONE, True)
        raise InputError(
            f"mix source {self.source.conversations}: row {row['key']!r} has pictures, but the source names no "
            "`images`. Name them, or set `missing_image: text` to take such rows without their pictures."
        )

    def _own_reason(self, row: dict[str, Any]) -> str | None:
        """What leaves the row out whatever its pictures are."""
        source = self.source
        if row[LEFT_OUT] is not None:
            return str(row[LEFT_OUT])
        refused = refused_by(row, source.where) if source.where else None
        if refused is not None:
            return f"{refused}={row[refused]}"
        if source.kinds is not None and row["kind"] not in source.kinds:
            return "kind"
        if source.modality is not None and (source.modality == "pictures") != bool(row["image_keys"]):
            return "modality"
        return None
