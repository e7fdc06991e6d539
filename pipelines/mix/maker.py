"""Makes one fragment of a mix: selects rows without touching a picture, then copies their pictures in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.engine.makers import Maker, Task
from pipelines.engine.step import Context
from pipelines.mix.pictures import stored
from pipelines.mix.recipe import MixRecipe, MixSource
from pipelines.mix.select import KeyIndex, caption_rows, copies, image_filters, refused_by
from schemas.chat import Encoded, ImageRule, encode, get_template, load_tokenizer
from schemas.dataset import Dataset, Fragment
from schemas.errors import InputError, LavaBeamError
from schemas.manifest import FragmentEntry
from schemas.records import SAMPLES
from schemas.store import Store

CANNOT_ENCODE = "cannot_encode"
"""A row that no template can show: other numbers of pictures and placeholders, an unknown role, ..."""

CONVERSATION_COLUMNS = ["key", "image_keys", "messages", "kind", "source"]


@dataclass(frozen=True)
class MixFragment:
    """The source of a task: a fragment of the mix source called `name`."""

    name: str
    entry: FragmentEntry


class MixMaker(Maker):
    """`versions` pins every dataset (path -> manifest number), so that all workers read the same rows."""

    name, schema_name, schema, status_column = "base", "samples", SAMPLES, None

    def __init__(self, recipe: MixRecipe, target: str, versions: dict[str, int]):
        self.recipe, self.target, self.versions = recipe, target, versions
        self._images: dict[str, _Images] = {}

    def setup(self, context: Context) -> None:
        self.context = context
        self.template = get_template(self.recipe.template)
        self.tokenizer = load_tokenizer(self.recipe.tokenizer)
        self.rule = ImageRule.from_dict(self.recipe.image) if self.recipe.image else None
        for source in self.recipe.sources.values():
            if source.images is not None and source.images not in self._images:
                self._images[source.images] = _Images(Dataset.open(source.images, self.versions[source.images]))

    def open(self, task: Task) -> tuple[dict[str, int], Iterator[pa.RecordBatch]]:
        """Why rows were taken or left out, and the batches. Counts go into the file, so that no rerun loses them."""
        counts: Counter[str] = Counter()
        chosen = list(self._chosen(task.source, counts))
        return dict(counts), self._batches(task.source, chosen)

    def _chosen(self, part: MixFragment, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        source = self.recipe.sources[part.name]
        images = self._images.get(source.images or "")
        filters = image_filters(source, images.columns) if images else {}
        for row in _rows(source, part):
            reason, pictures = self._judge(row, source, images, filters)
            taken = copies(row["key"], source.weight, self.recipe.seed) if reason is None else 0
            if reason is None and taken:
                reason = self._measure(row, pictures)
            if reason is not None or not taken:
                counts[reason or "weight"] += 1
                continue
            counts["taken"] += taken
            for copy in range(taken):
                yield {**row, "key": row["key"] if copy == 0 else f"{row['key']}#{copy + 1}"}

    def _judge(
        self, row: dict[str, Any], source: MixSource, images: _Images | None, filters: dict[str, Any]
    ) -> tuple[str | None, list[dict[str, Any]]]:
        """Why the row is left out (None: it is not), and its pictures' rows without the bytes."""
        refused = refused_by(row, source.where)
        if refused is not None:
            return f"{refused}={row[refused]}", []
        if source.kinds is not None and row["kind"] not in source.kinds:
            return "kind", []
        if not row["image_keys"]:
            return None, []
        if images is None:
            raise InputError(
                f"mix source {source.conversations}: row {row['key']!r} has pictures, but the source names no `images`."
            )
        pictures = [images.look(key, [*filters, "width", "height"]) for key in row["image_keys"]]
        row["rows"] = [picture["row"] for picture in pictures if picture is not None]
        for picture in pictures:
            if picture is None:
                return "image_missing", []
            refused = refused_by(picture, filters)
            if refused is not None:
                duplicate = refused == "duplicate_of"
                return "duplicate" if duplicate else f"{refused}={picture[refused]}", []
        return None, [picture for picture in pictures if picture is not None]

    def _measure(self, row: dict[str, Any], pictures: list[dict[str, Any]]) -> str | None:
        """Count the row's tokens with the trainer's own code; the reason when it cannot be trained on."""
        sizes = [(picture["width"], picture["height"]) for picture in pictures]
        largest = self.recipe.pictures.max_side
        if largest is not None:
            sizes = [_shrunk(size, largest) for size in sizes]
        try:
            row["encoded"] = encode(row["messages"], sizes, self.template, self.tokenizer, self.rule)
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

    def _batches(self, part: MixFragment, chosen: list[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
        source = self.recipe.sources[part.name]
        images = self._images.get(source.images or "")
        for start in range(0, len(chosen), 64):
            rows = [self._sample(row, part.name, images) for row in chosen[start : start + 64]]
            yield pa.RecordBatch.from_pylist(rows, schema=SAMPLES)

    def _sample(self, row: dict[str, Any], name: str, images: _Images | None) -> dict[str, Any]:
        encoded: Encoded = row["encoded"]
        pictures = [self._stored(images.picture(number), row["key"]) for number in row.get("rows", []) if images]
        return {
            "key": f"{name}/{row['key']}",
            "images": [{"bytes": content, "path": None} for content, _ in pictures],
            "widths": [size[0] for _, size in pictures],
            "heights": [size[1] for _, size in pictures],
            "messages": row["messages"],
            "kind": row["kind"],
            "source": row["source"],
            "image_count": len(pictures),
            "image_tokens": encoded.image_tokens,
            "tokens": encoded.tokens,
            "supervised_tokens": encoded.supervised,
        }

    def _stored(self, picture: dict[str, Any], key: str) -> tuple[bytes, tuple[int, int]]:
        try:
            return stored(picture["image"]["bytes"], (picture["width"], picture["height"]), self.recipe.pictures)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"mix, row {key!r}: its picture cannot be read ({error}). Run download again.") from error


class _Images:
    """Rows of an images dataset by key."""

    def __init__(self, dataset: Dataset):
        self.dataset, self.index, self.columns = dataset, KeyIndex(dataset), dataset.columns

    def look(self, key: str, columns: list[str]) -> dict[str, Any] | None:
        number = self.index.find(key)
        if number is None:
            return None
        (found,) = self.dataset.take([number], ["key", *columns])
        return {**found, "row": number} if found["key"] == key else None

    def picture(self, number: int) -> dict[str, Any]:
        return self.dataset.take([number], ["image", "width", "height"])[0]


def _rows(source: MixSource, part: MixFragment) -> Iterator[dict[str, Any]]:
    path = source.conversations or source.images or ""
    fragment = Fragment(Store(path), part.entry)
    if source.conversations is not None:
        for batch in fragment.batches([*CONVERSATION_COLUMNS, *source.where.keys() - set(CONVERSATION_COLUMNS)], 512):
            yield from batch.to_pylist()
    else:
        for batch in fragment.batches(["key", source.captions or ""], 512):
            yield from caption_rows(batch.to_pylist(), source, part.name)


def _shrunk(size: tuple[int, int], largest: int) -> tuple[int, int]:
    """The size that Pillow's `thumbnail` gives: the longer side at most `largest`, the aspect nearest to the old."""
    if max(size) <= largest:
        return size
    from PIL import Image

    image = Image.new("1", size)
    image.thumbnail((largest, largest), Image.Resampling.NEAREST)
    return image.size
