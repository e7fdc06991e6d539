"""COCO's annotations by image: captions and boxes joined by id."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipelines.importers.families.coco_files import coco_records, picture_of
from pipelines.importers.families.notes import counted
from pipelines.importers.families.question import Unusable
from pipelines.importers.families.reading import Record
from pipelines.importers.families.regions import box_in
from schemas.errors import InputError


@dataclass
class Listed:
    """One picture of an annotation file."""

    id: int
    place: str
    """Folder and official file name, as train2017/000000000009.jpg; without a folder where no address says it."""
    url: str
    license: str | None
    captions: list[str] = field(default_factory=list)
    boxes: list[dict[str, Any]] = field(default_factory=list)
    """As the column `boxes` of `images`: label, x0, y0, x1, y1 in fractions of width and height."""
    problems: list[str] = field(default_factory=list)


class CocoIndex:
    """Reads files one after the other, then gives every picture once. Holds about a kilobyte of text per picture."""

    def __init__(self, crowd: bool):
        self.crowd = crowd
        self._listed: dict[int, str] = {}
        self._said: dict[int, bytearray] = {}
        self._categories: dict[int, str] = {}
        self._licenses: dict[int, str] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def read(self, path: str, lists: bool) -> None:
        """Take in a file's captions and boxes; `lists`: and its pictures, which become rows.

        Raises InputError for a file of another layout, and for one that is about none of the pictures.
        """
        about: Counter[int] = Counter()
        for member, record in coco_records(path, ("images",), ("annotations", "categories", "licenses")):
            if member == "images" and lists:
                self._list(record)
            elif member == "annotations":
                about[record.number("image_id")] += 1
                if not lists and "bbox" not in record.values:
                    record.refuse("bbox", "a box, as instances_*.json has them")
                self._annotate(record)
            elif member == "categories":
                self._named(record, "name", self._categories)
            elif member == "licenses":
                self._named(record, "url", self._licenses)
        strangers = sum(count for number, count in about.items() if number not in self._listed)
        if about and strangers == about.total():
            raise InputError(
                f"{path}: its {strangers} annotations are about none of the {len(self._listed)} pictures. Give the "
                "files of one split."
            )
        self._counts["annotation", "about pictures that are not listed"] += strangers

    def pictures(self) -> Iterator[Listed]:
        """Every picture, in the order of the files; each is forgotten as it is given."""
        for number in list(self._listed):
            name, width, height, url, license = json.loads(self._listed.pop(number))
            one = Listed(number, _place(name, url), url, self._licenses.get(license) or None)
            for line in self._said.pop(number, b"").decode().split("\n")[:-1]:
                self._add(one, json.loads(line), width, height)
            self._counts["picture", "without a caption"] += not one.captions
            yield one

    def notes(self) -> list[str]:
        """What a user should know about the files as a whole."""
        return [f"{counted(count, what)} {why}." for (what, why), count in self._counts.items() if count]

    def _list(self, record: Record) -> None:
        picture, number = picture_of(record), record.number("id")
        if number in self._listed:
            raise InputError(
                f"{record.path}:{record.line}: picture {number} is listed twice. Give each split once; boxes belong "
                f"in `instances`."
            )
        said = [*picture, record.optional("coco_url", str) or "", record.values.get("license")]
        self._listed[number] = json.dumps(said)

    def _annotate(self, record: Record) -> None:
        values, said = record.values, list[Any]()
        if "caption" in values:
            said = ["caption", values.get("id"), values["caption"]]
        elif "bbox" in values:
            said = ["box", values.get("id"), values["bbox"], values.get("category_id"), values.get("iscrowd", 0)]
        else:
            record.refuse("caption", "a caption, or `bbox` and `category_id`")
        self._said.setdefault(record.number("image_id"), bytearray()).extend(f"{json.dumps(said)}\n".encode())

    def _named(self, record: Record, name: str, names: dict[int, str]) -> None:
        number, found = record.number("id"), record.text(name)
        if names.setdefault(number, found) != found:
            raise InputError(
                f"{record.path}:{record.line}: {number} means {found!r} here and {names[number]!r} in another file. "
                "Import files of different sets into separate datasets."
            )

    def _add(self, one: Listed, said: list[Any], width: int, height: int) -> None:
        kind, number, value, *rest = said
        if kind == "caption":
            if isinstance(value, str) and value.strip():
                one.captions.append(value.strip())
            else:
                one.problems.append(f"caption {number} is {value!r:.40}")
            return
        category, crowd = rest
        if crowd and not self.crowd:
            self._counts["crowd", "whose box is left out"] += 1
            return
        try:
            box = box_in(value if isinstance(value, list) else [], width, height)
            if category not in self._categories:
                raise Unusable("", f"there is no category {category!r:.40}")
        except Unusable as problem:
            one.problems.append(f"box {number}: {problem}")
            return
        # Six decimals are a thousandth of a pixel: the column is float32, and slices carry the digits to the workers.
        sides = [round(side, 6) for side in (box.x0 / width, box.y0 / height, box.x1 / width, box.y1 / height)]
        one.boxes.append(
            {"label": self._categories[category], **dict(zip(("x0", "y0", "x1", "y1"), sides, strict=True))}
        )


def _place(name: str, url: str) -> str:
    """The release is the folder in the address; without one, the name of a file of 2014 says it too."""
    folder = url.rsplit("/", 2)[-2] if url.count("/") > 2 else ""
    if not folder and name.startswith("COCO_"):
        folder = name.split("_")[1]
    return f"{folder}/{name}" if folder else name
