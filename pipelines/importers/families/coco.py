"""COCO (https://cocodataset.org, arXiv 1405.0312): pictures with their captions and the boxes of what is in them.

Rows of `images`, which `download` fetches by COCO's own addresses and `generate` makes conversations of. Captions and
boxes stand anywhere in their files, so everything about a picture is held as JSON text (measured in docs/regions.md),
and the finished rows wait for the workers in a temporary file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import fsspec
import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Config, Runtime
from pipelines.importers.base import ROWS_PER_SLICE, Importer, ImportStatus, Slice, cut, digest, image_table
from pipelines.importers.families.coco_index import CocoIndex, Listed
from pipelines.importers.families.pictures import PicturesByOfficialName, coco_places
from pipelines.importers.families.spill import Spill, taken
from pipelines.importers.files import expand
from pipelines.importers.stored import stored_row, stored_table
from schemas.decoding import BUDGET
from schemas.errors import InputError


class CocoConfig(Config):
    """Which files, and what a picture is called."""

    path: Annotated[str | list[str], Runtime()] = Field(
        description="captions_train2017.json, several, or a pattern; its pictures become rows"
    )
    instances: Annotated[str | list[str] | None, Runtime()] = Field(
        None, description="instances_train2017.json: boxes, labelled with the names of their categories"
    )
    images: Annotated[str | None, Runtime()] = Field(
        None, description="the folder of the pictures, which are then stored; by default `download` fetches them"
    )
    names: Literal["llava", "official"] = Field(
        "llava", description="keys: coco/train2017/000000000009.jpg as in LLaVA's files, or the official file name"
    )
    crowd: bool = Field(False, description="whether boxes around crowds (iscrowd: 1, many things in one) are kept")
    rows_per_slice: Annotated[int, Runtime()] = Field(ROWS_PER_SLICE, ge=1, description="rows per fragment")


class Coco(Importer[CocoConfig]):
    """A row per picture, in the order of the files. Boxes become fractions of width and height."""

    name = "coco"
    version = 1
    makes = "images"
    Config = CocoConfig

    def __init__(self, config: CocoConfig):
        super().__init__(config)
        self._index = CocoIndex(config.crowd)

    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        self._index = CocoIndex(self.config.crowd)
        for path in expand(self.config.path):
            self._index.read(path, lists=True)
        for path in expand(self.config.instances) if self.config.instances is not None else ():
            self._index.read(path, lists=False)
        self._spill = Spill(expand(self.config.path)[0])
        made: list[Slice] = []
        for rows in cut(self._rows(), known, self.config.rows_per_slice):
            start = made[-1].start + made[-1].rows if made else 0
            content = "\n".join(rows).encode()
            made.append(Slice(start, len(rows), digest(0, content), self._spill.put(rows)))
        return made

    def rows(self, slice: Slice) -> pa.Table:
        rows = [json.loads(line) for line in taken(slice.location)]
        if self.config.images is None:
            return image_table(rows)
        return stored_table([self._stored(row) for row in rows])

    def notes(self) -> list[str]:
        return self._index.notes()

    def _rows(self) -> Iterator[str]:
        """Every row as JSON; `place` says where in the folder its picture is."""
        folder = None if self.config.images is None else PicturesByOfficialName(self.config.images)
        keys: set[str] = set()
        missing = pictures = 0
        for picture in self._index.pictures():
            row = self._row(picture)
            if row["key"] in keys:
                raise InputError(
                    f"{self.config.path}: two pictures have the key {row['key']!r} (the second is {picture.id}). "
                    "Import their files into separate datasets."
                )
            keys.add(row["key"])
            if folder is not None:
                place, problem = folder.find(coco_places(picture.place) if "/" in picture.place else [picture.place])
                row |= {"place": place, "missing": problem}
                pictures, missing = pictures + 1, missing + (problem is not None)
            yield json.dumps(row)
        if pictures and missing == pictures:
            raise InputError(
                f"{self.config.images}: not one of the {pictures} pictures of {self.config.path} is here. "
                "Check `images`."
            )

    def _row(self, picture: Listed) -> dict[str, Any]:
        layout = self.config.names == "llava" and "/" in picture.place
        status, problems = ImportStatus.ok, list(picture.problems)
        if problems:
            status = ImportStatus.bad_value
        if self.config.images is None and not picture.url:
            status = ImportStatus.no_url
            problems = ["its coco_url is empty; give the folder of the pictures with `images`", *problems]
        return {
            "key": coco_places(picture.place)[0] if layout else picture.place.rpartition("/")[2],
            "url": picture.url or None,
            "captions": picture.captions or None,
            "boxes": picture.boxes or None,
            "source": self.name,
            "license": picture.license,
            "import_status": status,
            "import_detail": "; ".join(problems) or None,
        }

    def _stored(self, row: dict[str, Any]) -> dict[str, Any]:
        place, missing = row.pop("place"), row.pop("missing")
        if missing:
            picture: dict[str, Any] = {"import_status": ImportStatus.no_image, "import_detail": missing}
        else:
            picture = _read(f"{self.config.images}", place)
        if picture["import_status"] == ImportStatus.ok:
            picture.pop("import_status")
        return row | picture


def _read(folder: str, place: str) -> dict[str, Any]:
    fs, root = fsspec.core.url_to_fs(folder)
    try:
        if (size := fs.size(f"{root}/{place}")) > BUDGET:
            detail = f"{place}: {size} bytes, more than the {BUDGET} that a picture may take decoded"
            return {"import_status": ImportStatus.undecodable, "import_detail": detail}
        return stored_row(fs.cat_file(f"{root}/{place}"), place)
    except OSError as error:
        return {"import_status": ImportStatus.no_image, "import_detail": f"{place}: {error.strerror or error}"}
