"""Import LLaVA's instruction JSON: a list of `{id, image, conversations: [{from, value}]}`, or one per line.

The pictures are imported apart (`image_folder`), under the paths that `image` names. Ids and keys that nothing else
holds are kept (`id`, `extra`), so that `lavabeam export` writes the rows as they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Config, Later, Runtime
from pipelines.importers.base import ROWS_PER_SLICE, Importer, ImportStatus, Slice, conversation_table, cut, digest
from pipelines.importers.delimited import Raw
from pipelines.importers.files import expand, format_of
from pipelines.importers.records import Layout, TextSource
from schemas.chat.as_written import id_and_extra
from schemas.chat.llava_json import from_llava
from schemas.chat.shapes import KEPT_KEYS, image_paths, unread_keys
from schemas.errors import InputError
from schemas.picturefolder import FolderTrial, PictureFolder
from schemas.picturenames import plain_name

_OK = ImportStatus.ok.value


class LlavaJsonConfig(Config):
    """Where the conversations are, and what they are called."""

    path: Annotated[str | list[str], Runtime()] = Field(description="a json or jsonl file, several, or a pattern")
    format: Literal["json", "jsonl"] | None = Field(None, description="by default what the file's extension says")
    records: Annotated[str | None, Later()] = Field(
        None, description="of a JSON object: the member that holds the list of rows"
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
        for raw in source.records():
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
        named = ", ".join(f"{name} ({count} rows)" for name, count in self._unread.most_common(10))
        more = f" and {len(self._unread) - 10} more" if len(self._unread) > 10 else ""
        return [f"keys of the source that are kept in `extra`, and not trained on: {named}{more}."]

    def rows(self, slice: Slice) -> pa.Table:
        layout = Layout(slice.location["format"], records=self.config.records)
        values = TextSource.at(slice.location, layout)
        return conversation_table(self._row(one, slice.first + index) for index, one in enumerate(values))

    def _row(self, values: dict[str, Any], number: int) -> dict[str, Any]:
        config, named = self.config, values.get("id")
        key = f"{number:09d}" if named in (None, "") else f"{number:09d}/{named}"
        row: dict[str, Any] = {"key": key, "kind": config.kind, "source": config.source, "status": _OK}
        try:
            row["messages"], images = from_llava(values, f"row {number}")
        except InputError as error:
            row["id"], row["extra"] = id_and_extra(values, None, ())
            keys = [*map(plain_name, _paths(values))]
            return {**row, "image_keys": keys, "status": ImportStatus.bad_conversation, "detail": str(error)}
        if self._folder is not None:
            found = [self._folder.find(image) for image in images]
            images = [one.key for one in found]
            row["detail"] = next((one.problem for one in found if one.problem), None)
            row["status"] = ImportStatus.no_image if row["detail"] else _OK
        elif images:
            images = [*map(plain_name, images)]
        row["image_keys"] = images
        row["id"], row["extra"] = id_and_extra(values, row["messages"], images)
        if images and not config.source:
            row["source"] = _first_folder(images[0])
        return row

    @cached_property
    def _folder(self) -> PictureFolder | None:
        if self.config.images is None:
            return None
        return PictureFolder(self.config.images, self.config.other_endings)


def _first_folder(path: str) -> str | None:
    folder, slash, _ = path.removeprefix("../").partition("/")
    return folder if slash else None


def _paths(values: dict[str, Any]) -> list[str]:
    try:
        return image_paths(values)
    except InputError:
        return []
