"""Import LLaVA's instruction JSON: a list of `{id, image, conversations: [{from, value}]}`, or one per line.

The pictures are imported apart (`image_folder`), under the paths that `image` names. Ids and keys that nothing else
holds are kept (`id`, `extra`), so that `lavabeam export` writes the rows as they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Config, Later, Runtime
from pipelines.importers.base import (
    ROWS_PER_SLICE,
    Importer,
    ImportStatus,
    Slice,
    conversation_table,
    cut,
    digest,
    storable_array,
)
from pipelines.importers.delimited import Raw
from pipelines.importers.files import expand, format_of
from pipelines.importers.plain_conversations import Conversations, image_keys
from pipelines.importers.plain_rows import Columns
from pipelines.importers.plain_scan import PlainScan
from pipelines.importers.records import Layout, TextSource
from schemas.chat.as_written import id_and_extra
from schemas.chat.llava_json import from_llava
from schemas.chat.shapes import KEPT_KEYS, image_paths, unread_keys
from schemas.errors import InputError
from schemas.picturefolder import FolderTrial, PictureFolder
from schemas.picturenames import plain_name
from schemas.records import BASE

_OK = ImportStatus.ok.value
_NONE = (None, None)


class LlavaJsonConfig(Config):
    """Where the conversations are, and what they are called."""

    path: Annotated[str | list[str], Runtime()] = Field(description="a json or jsonl file, several, or a pattern")
    format: Literal["json", "jsonl"] | None = Field(None, description="the file format; by default from its extension")
    records: Annotated[str | None, Later()] = Field(
        None, description="for a JSON object: the member with the list of rows"
    )
    images: str | None = Field(None, description="the image folder, to tell rows whose picture is missing")
    other_endings: Annotated[bool, Later()] = Field(
        False, description="take a.png for a.jpg where the folder of `images` has no a.jpg (OCR-VQA's pictures)"
    )
    kind: str = Field("conversation", description="written into `kind`")
    source: str | None = Field(None, description="written into `source`; by default the image path's first folder")
    rows_per_slice: Annotated[int, Runtime()] = Field(ROWS_PER_SLICE, ge=1, description="rows per fragment")


class LlavaJson(Importer[LlavaJsonConfig]):
    """One conversation per row; ids repeat in published files, so a key is the row's number and its id.

    A row of another shape keeps its place with `bad_conversation`, one without its picture with `no_image`.
    """

    name = "llava_json"
    version = 3
    makes = "conversations"
    Config = LlavaJsonConfig
    by_columns: ClassVar[bool] = True
    """Whether plain rows are made all at a time, without `_row`."""

    def __init__(self, config: LlavaJsonConfig):
        super().__init__(config)
        self._unread = Counter[str]()
        self._lost: list[str] = []

    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        remaining = [rows for rows in known if rows > 0]
        made: list[Slice] = []
        self._unread = Counter[str]()
        paths = expand(self.config.path)
        trial = FolderTrial(self._folder, ", ".join(paths[:3])) if self._folder else None
        for path in paths:
            format = format_of(path, self.config.format, ("json", "jsonl"))
            source = TextSource(path, Layout(format, records=self.config.records))
            for records in cut(self._checked(source, trial), remaining[len(made) :], self.config.rows_per_slice):
                start = made[-1].start + made[-1].rows if made else 0
                # A picture that came later makes its slice new.
                lost, self._lost = "\n".join(self._lost), []
                content = digest(start, *source.content(records), *([lost.encode(errors="replace")] if lost else []))
                made.append(Slice(start, len(records), content, source.location(records)))
        if trial is not None:
            trial.end()
        return made

    def _checked(self, source: TextSource, trial: FolderTrial | None) -> Iterator[Raw]:
        """The records of a file, each parsed: a broken one stops the import before anything is written."""
        for raw in source.records(PlainScan()):
            values = source.parse(raw)
            if not KEPT_KEYS.issuperset(values):
                self._unread.update(unread_keys(values))
            if trial is not None and not trial.passed:
                trial.see(_paths(values))
            if trial is not None and trial.folder.is_local:
                found = [trial.folder.find(name).problem for name in _paths(values)]
                self._lost += filter(None, found)
            yield raw.without_value()

    def notes(self) -> list[str]:
        if not self._unread:
            return []
        found = sorted(self._unread.items(), key=lambda one: (-one[1], one[0]))
        named = ", ".join(f"{name} ({count} rows)" for name, count in found[:10])
        more = f" and {len(found) - 10} more" if len(found) > 10 else ""
        return [f"keys of the source that are kept in `extra`, and not trained on: {named}{more}."]

    def rows(self, slice: Slice) -> pa.Table:
        layout = Layout(slice.location["format"], records=self.config.records)
        plain = TextSource.plain_at(slice.location, layout, slice.rows) if self.by_columns else None
        if plain is not None:
            return self._plain_and_odd(plain, slice.first)
        values = TextSource.at(slice.location, layout)
        return conversation_table(self._row(one, slice.first + index) for index, one in enumerate(values))

    def _plain_and_odd(self, rows: Columns, first: int) -> pa.Table:
        conversations, numbers = Conversations(rows), np.arange(len(rows))
        odd = conversations.odd
        if not odd.any():
            return self._plain(rows, conversations, numbers + first)
        plain = rows.filter(pa.array(~odd))
        parts = [
            self._plain(plain, Conversations(plain), numbers[~odd] + first),
            conversation_table(self._row(rows.row(number), first + number) for number in numbers[odd].tolist()),
        ]
        order = np.argsort(np.concatenate([numbers[~odd], numbers[odd]]))
        return pa.concat_tables(parts).take(pa.array(order)).combine_chunks()

    def _plain(self, rows: Columns, conversations: Conversations, numbers: np.ndarray) -> pa.Table:
        """What `_row` makes of the rows, of which none is odd."""
        schema, ids, names = BASE["conversations"], rows.id.to_pylist(), rows.image.to_pylist()
        found = [self._find(name) if name else _NONE for name in names]
        keys = [key for key, _ in found]
        given = self.config.source
        source = [given if given or key is None else _first_folder(key) for key in keys]
        columns = {
            "key": [_key(*one) for one in zip(numbers.tolist(), ids, strict=True)],
            "image_keys": image_keys(keys),
            "messages": conversations.messages(),
            "kind": [self.config.kind] * len(ids),
            "source": source,
            "generator": [None] * len(ids),
            "status": [ImportStatus.no_image if problem else _OK for _, problem in found],
            "detail": [problem for _, problem in found],
            "id": rows.id,
            "extra": [_extra(name, key) for name, key in zip(names, keys, strict=True)],
        }
        arrays = [
            one if isinstance(one, pa.Array) else storable_array(one, field.type)
            for one, field in zip((columns[name] for name in schema.names), schema, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=schema)

    def _row(self, values: dict[str, Any], number: int) -> dict[str, Any]:
        config, key = self.config, _key(number, values.get("id"))
        row: dict[str, Any] = {"key": key, "kind": config.kind, "source": config.source, "status": _OK}
        try:
            row["messages"], images = from_llava(values, f"row {number}")
        except InputError as error:
            row["id"], row["extra"] = id_and_extra(values, None, ())
            keys = [*map(plain_name, _paths(values))]
            return {**row, "image_keys": keys, "status": ImportStatus.bad_conversation, "detail": str(error)}
        found = [self._find(image) for image in images]
        images = [image for image, _ in found]
        row["detail"] = next((problem for _, problem in found if problem), None)
        row["status"] = ImportStatus.no_image if row["detail"] else _OK
        row["image_keys"] = images
        row["id"], row["extra"] = id_and_extra(values, row["messages"], images)
        if images and not config.source:
            row["source"] = _first_folder(images[0])
        return row

    def _find(self, image: str) -> tuple[str, str | None]:
        """The key of the picture that a row names, and what is wrong with it."""
        if self._folder is None:
            return plain_name(image), None
        found = self._folder.find(image)
        return found.key, found.problem or None

    @cached_property
    def _folder(self) -> PictureFolder | None:
        if self.config.images is None:
            return None
        return PictureFolder(self.config.images, self.config.other_endings)


def _key(number: int, named: Any) -> str:
    return f"{number:09d}" if named in (None, "") else f"{number:09d}/{named}"


def _extra(name: str | None, key: str | None) -> str:
    """`extra` of a plain row whose picture has this key: the name that it had in the row, where that is another."""
    if key is None or key == name:
        return "{}"
    return id_and_extra({"image": name, "conversations": []}, [], [key])[1]


def _first_folder(path: str) -> str | None:
    folder, slash, _ = path.removeprefix("../").partition("/")
    return folder if slash else None


def _paths(values: dict[str, Any]) -> list[str]:
    try:
        return image_paths(values)
    except InputError:
        return []
