"""Row selection that depends on the row alone: standing, filters, images.

The plan of a mix asks for all rows of a source at once, and the maker for those of a fragment; both ask here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.mix.images import Images
from pipelines.mix.recipe import JOINT, MixSource
from pipelines.mix.select import caption_rows, refused_by
from schemas.dataset import Dataset, Fragment
from schemas.errors import InputError
from schemas.lookup import PicturesByName
from schemas.standing import LEFT_OUT, Standing, status_rules

CONVERSATION_COLUMNS = ["key", "image_keys", "messages", "kind", "source", "id", "extra"]
BATCH_ROWS = 512

NONE: tuple[int, ...] = ()


class Verdict(NamedTuple):
    """Why a row is left out (None: it is not), and the row numbers of its pictures.

    as_text: its pictures cannot be used, and the recipe takes it without them.
    """

    reason: str | None
    pictures: tuple[int, ...] = NONE
    as_text: bool = False


@dataclass(frozen=True)
class Candidates:
    """Rows of one batch that may be taken, their places in the fragment, and why the batch's other rows may not.

    LEFT_OUT of a row is what its standing says. `stored` are the rows' messages, which few of them may need.
    """

    rows: list[dict[str, Any]]
    places: list[int]
    left: Counter[str]
    stored: pa.ListArray | None = None

    def read_messages(self, numbers: list[int]) -> None:
        """Give the rows with these numbers their messages."""
        if self.stored is None:
            return
        for number, messages in zip(numbers, self.stored.take(pa.array(numbers, pa.int64())).to_pylist(), strict=True):
            self.rows[number]["messages"] = messages or []


class Judge:
    """The rows of one source of a mix, and verdicts on them."""

    def __init__(self, name: str, source: MixSource, dataset: Dataset, pictures: PicturesByName | None):
        self.name, self.source, self.dataset = name, source, dataset
        self.standing = Standing.of(dataset, source.row_use)
        self.images = Images(pictures, source) if pictures is not None else None
        if source.duplicates == "joint":
            _check_joint(name, [dataset, *([pictures.dataset] if pictures is not None else [])])

    def columns(self, fragment: Fragment, messages: bool = True) -> list[str]:
        """The columns of a fragment that rows are read with."""
        if self.source.conversations is None:
            return ["key", self.source.captions or ""]
        columns = dict.fromkeys([*CONVERSATION_COLUMNS, *self.source.where, *self.standing.columns_in(fragment.owner)])
        if not messages and "messages" not in self.source.where:
            del columns["messages"]
        return list(columns)

    def batches(self, fragment: Fragment, messages: bool = True) -> Iterator[Candidates]:
        """The rows of a fragment, batch by batch, without their messages if these are not asked for."""
        start = 0
        for batch in fragment.batches(self.columns(fragment, messages), BATCH_ROWS):
            yield self.candidates(batch, np.arange(start, start + batch.num_rows))
            start += batch.num_rows

    def candidates(self, batch: pa.RecordBatch, places: np.ndarray) -> Candidates:
        """The rows of a batch that may pass. `places` are theirs in the fragment, int64, shape (rows,).

        What standing and filters on text leave out is decided column by column: most rows of a dataset that several
        sources share belong to another source.
        """
        if self.source.conversations is None:
            return Candidates(list(caption_rows(batch.to_pylist(), self.source, self.name)), places.tolist(), Counter())
        left: Counter[str] = Counter()
        batch = batch.append_column(LEFT_OUT, self.standing.reasons(batch))
        batch, places = _without(batch, places, pc.is_valid(batch.column(LEFT_OUT)), batch.column(LEFT_OUT), left)
        for name, accepted in self.source.where.items():
            column = batch.column(name)
            if not isinstance(accepted, list) or not pa.types.is_string(column.type):
                break
            values = pa.array([one for one in accepted if one is None or isinstance(one, str)], pa.string())
            refused = pc.invert(pc.is_in(column, value_set=values))
            batch, places = _without(batch, places, refused, column, left, f"{name}=")
        stored = batch.column("messages") if "messages" in batch.schema.names else None
        light = [name for name in batch.schema.names if name != "messages" or name in self.source.where]
        return Candidates(batch.select(light).to_pylist(), places.tolist(), left, stored)

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
            "`images`. Name them, or set `missing_image: text` to keep such rows without their pictures."
        )

    def _own_reason(self, row: dict[str, Any]) -> str | None:
        """What leaves the row out whatever its pictures are."""
        source = self.source
        if row[LEFT_OUT] is not None:
            return str(row[LEFT_OUT])
        refused = refused_by(row, source.where) if source.where else None
        if refused is not None:
            return refused
        if source.kinds is not None and row["kind"] not in source.kinds:
            return "kind"
        if source.modality is not None and (source.modality == "pictures") != bool(row["image_keys"]):
            return "modality"
        return None


def _check_joint(source: str, datasets: list[Dataset]) -> None:
    """Raises InputError where no dataset says which rows repeat another one in every way: all would be taken."""
    rules = [rule for dataset in datasets for rule in status_rules(dataset).values()]
    if not any(JOINT in rule.by_choice.values() for rule in rules):
        raise InputError(
            f"mix source {source!r}: `duplicates: joint` asks for the verdicts of dedupe_joint, and neither of "
            f"{', '.join(one.path for one in datasets)} has them. Run `lavabeam dedupe_joint` on one of them first."
        )


def _without(
    batch: pa.RecordBatch, places: np.ndarray, refused: pa.Array, values: pa.Array, left: Counter[str], prefix: str = ""
) -> tuple[pa.RecordBatch, np.ndarray]:
    """The rows that are not refused; the others are counted in `left` by their value."""
    if not pc.any(refused).as_py():
        return batch, places
    for one in pc.value_counts(values.filter(refused)).to_pylist():
        left[f"{prefix}{one['values']}"] += one["counts"]
    kept = pc.invert(refused)
    return batch.filter(kept), places[kept.to_numpy(zero_copy_only=False)]
