"""Makes one fragment of a mix: chooses rows and counts why the others are left out, then copies their pictures in.

The counts go in front of the rows, so whether a picture can be used is decided while rows are chosen. Pictures that the
recipe encodes anew are encoded then, once, and wait in a spool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.engine.counting import Done, report
from pipelines.engine.makers import Maker, Task
from pipelines.engine.output import Rows
from pipelines.engine.step import Context, Needs
from pipelines.mix.images import Images
from pipelines.mix.pictures import ReadyPicture, Spool, stored
from pipelines.mix.recipe import MixRecipe, MixSource
from pipelines.mix.select import caption_rows, copies, refused_by
from schemas.chat import Encoded, ImageRule, encode, get_template, load_tokenizer
from schemas.chat.shapes import loose
from schemas.dataset import Dataset, Fragment
from schemas.errors import InputError, LavaBeamError
from schemas.lookup import PicturesByName
from schemas.manifest import FragmentEntry
from schemas.pictures import PictureError
from schemas.records import SAMPLES
from schemas.standing import LEFT_OUT, Standing
from schemas.store import Store

CANNOT_ENCODE = "cannot_encode"
"""A row that no template can show: other numbers of pictures and placeholders, an unknown role, ..."""

PICTURE_UNREADABLE = "picture_unreadable"
"""A row with a picture that is there and cannot be read: cut, damaged, or not a picture."""

_REPORTED_ROWS = 64

CONVERSATION_COLUMNS = ["key", "image_keys", "messages", "kind", "source", "id", "extra"]


@dataclass(frozen=True)
class MixFragment:
    """The source of a task: a fragment of the mix source called `name`."""

    name: str
    entry: FragmentEntry

    @property
    def rows(self) -> int:
        return self.entry.rows


class MixMaker(Maker[MixFragment]):
    """`versions` pins every dataset (path -> manifest number), so that all workers read the same rows."""

    output, schema_name, schema, status_column = Rows(), "samples", SAMPLES, None

    def __init__(self, recipe: MixRecipe, target: str, versions: dict[str, int]):
        self.recipe, self.target, self.versions = recipe, target, versions
        self.needs = Needs(model_files=(recipe.tokenizer,))
        self._images: dict[str, Images] = {}
        self._standing: dict[str, Standing] = {}

    def setup(self, context: Context) -> None:
        self.context = context
        self.template = get_template(self.recipe.template)
        self.tokenizer = load_tokenizer(self.recipe.tokenizer)
        self.rule = ImageRule.from_dict(self.recipe.image) if self.recipe.image else None
        indexes: dict[str, PicturesByName] = {}
        for name, source in self.recipe.sources.items():
            self._standing[name] = Standing.of(Dataset.open(source.rows, self.versions[source.rows]), source.row_use)
            if source.images is None:
                continue
            if source.images not in indexes:
                indexes[source.images] = PicturesByName(Dataset.open(source.images, self.versions[source.images]))
            self._images[name] = Images(indexes[source.images], source)

    def open(self, task: Task[MixFragment]) -> tuple[dict[str, int], Iterator[pa.RecordBatch]]:
        """Why rows were taken or left out, and the batches. Counts go into the file, so that no rerun loses them."""
        counts: Counter[str] = Counter()
        spool = Spool()
        chosen = list(self._chosen(task.source, counts, spool))
        return dict(counts), self._batches(task.source, chosen, spool)

    def _chosen(self, part: MixFragment, counts: Counter[str], spool: Spool) -> Iterator[dict[str, Any]]:
        source = self.recipe.sources[part.name]
        images = self._images.get(part.name)
        for row in _counted(_rows(source, part, self._standing[part.name]), counts):
            reason, numbers = self._judge(row, source, images)
            taken = copies(row["key"], source.weight, self.recipe.seed) if reason is None else 0
            if reason is None and taken:
                reason = self._prepare_pictures(row, images, numbers, spool) or self._measure(row)
            if reason is not None or not taken:
                counts[reason or "weight"] += 1
                continue
            counts["taken"] += taken
            for copy in range(taken):
                yield {**row, "key": row["key"] if copy == 0 else f"{row['key']}#{copy + 1}"}

    def source_rows(self, batch: pa.RecordBatch) -> int:
        """None: rows are counted while they are chosen, which is where the time goes."""
        return 0

    def _judge(self, row: dict[str, Any], source: MixSource, images: Images | None) -> tuple[str | None, list[int]]:
        """Why the row is left out (None: it is not), and the numbers of its pictures' rows."""
        if row[LEFT_OUT] is not None:
            return row[LEFT_OUT], []
        refused = refused_by(row, source.where)
        if refused is not None:
            return refused, []
        if source.kinds is not None and row["kind"] not in source.kinds:
            return "kind", []
        if not row["image_keys"]:
            return None, []
        if images is None:
            raise InputError(
                f"mix source {source.conversations}: row {row['key']!r} has pictures, but the source names no `images`."
            )
        return images.judge(row["image_keys"])

    def _prepare_pictures(
        self, row: dict[str, Any], images: Images | None, numbers: list[int], spool: Spool
    ) -> str | None:
        """Make the row's pictures ready to be stored; the reason when one of them cannot be."""
        row["pictures"] = []
        for number in numbers:
            assert images is not None
            content = images.content(number)
            try:
                made, size = stored(content, self.recipe.pictures)
            except PictureError as error:
                self.context.log({"row": row["key"], PICTURE_UNREADABLE: str(error)})
                return PICTURE_UNREADABLE
            row["pictures"].append(ReadyPicture(number, size, None if made is content else spool.put(made)))
        return None

    def _measure(self, row: dict[str, Any]) -> str | None:
        """Count the row's tokens with the trainer's own code; the reason when it cannot be trained on."""
        sizes = [picture.size for picture in row["pictures"]]
        lost = loose(row["messages"] or [])
        if lost is not None:
            self.context.log({"row": row["key"], CANNOT_ENCODE: lost})
            return CANNOT_ENCODE
        try:
            row["encoded"] = encode(row["messages"] or [], sizes, self.template, self.tokenizer, self.rule)
        except LavaBeamError as error:
            if sizes and self.rule is None:
                raise type(error)(f"mix, row {row['key']!r}: {error} Give the recipe an `image` rule.") from error
            self.context.log({"row": row["key"], CANNOT_ENCODE: str(error)})
            return CANNOT_ENCODE
        if row["encoded"].all_masked:
            return "nothing_to_learn"
        if self.recipe.max_tokens is not None and row["encoded"].tokens > self.recipe.max_tokens:
            return "too_long"
        return None

    def _batches(self, part: MixFragment, chosen: list[dict[str, Any]], spool: Spool) -> Iterator[pa.RecordBatch]:
        images = self._images.get(part.name)
        try:
            for start in range(0, len(chosen), 64):
                rows = [_sample(row, part.name, images, spool) for row in chosen[start : start + 64]]
                yield pa.RecordBatch.from_pylist(rows, schema=SAMPLES)
        finally:
            spool.close()


def _counted(rows: Iterator[dict[str, Any]], counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """Pass source rows on; report how many were looked at, and what `counts` says of them, every now and then."""
    passed, shown = 0, Counter[str]()
    for row in rows:
        yield row
        passed += 1
        if passed == _REPORTED_ROWS:
            report(Done(passed, counts - shown))
            passed, shown = 0, counts.copy()
    report(Done(passed, counts - shown))


def _sample(row: dict[str, Any], name: str, images: Images | None, spool: Spool) -> dict[str, Any]:
    encoded: Encoded = row["encoded"]
    pictures: list[ReadyPicture] = row["pictures"]
    contents = [spool.get(one.spooled) if one.spooled else images.content(one.row) for one in pictures if images]
    return {
        "key": f"{name}/{row['key']}",
        "images": [
            {"bytes": content, "path": name} for content, name in zip(contents, row["image_keys"] or [], strict=True)
        ],
        "widths": [one.size[0] for one in pictures],
        "heights": [one.size[1] for one in pictures],
        "messages": row["messages"],
        "kind": row["kind"],
        "source": row["source"],
        "image_count": len(pictures),
        "image_tokens": encoded.image_tokens,
        "tokens": encoded.tokens,
        "supervised_tokens": encoded.supervised,
        "id": row.get("id"),
        "extra": row.get("extra"),
    }


def _rows(source: MixSource, part: MixFragment, standing: Standing) -> Iterator[dict[str, Any]]:
    fragment = Fragment(Store(source.rows), part.entry)
    if source.conversations is not None:
        columns = dict.fromkeys([*CONVERSATION_COLUMNS, *source.where, *standing.columns_in(fragment.owner)])
        for batch in fragment.batches(list(columns), 512):
            yield from batch.append_column(LEFT_OUT, standing.reasons(batch)).to_pylist()
    else:
        for batch in fragment.batches(["key", source.captions or ""], 512):
            yield from caption_rows(batch.to_pylist(), source, part.name)
