"""RefCOCO, RefCOCO+ (arXiv 1608.00272) and RefCOCOg (arXiv 1511.02283): phrases for regions of COCO's pictures.

A refs file holds the phrases, `instances.json` beside it the boxes and the pictures (github.com/lichengunc/refer).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

from pydantic import Field

from pipelines.engine.step import Runtime
from pipelines.importers.families.base import Family, Turn
from pipelines.importers.families.coco_files import Picture, coco_records, picture_of
from pipelines.importers.families.notes import Tally, counted
from pipelines.importers.families.pictures import coco_places
from pipelines.importers.families.plain_pickle import load_plain
from pipelines.importers.families.question import Question
from pipelines.importers.families.regions import RegionConfig, fraction_of, region_turn
from schemas.errors import InputError

MOST_PHRASES = 2_000_000
"""Of one file; the largest has 142,210. A pickle may hold one list in many places, and unfold to any number."""


class RefcocoConfig(RegionConfig):
    """The two files, and which of their phrases become turns."""

    path: Annotated[str, Runtime()] = Field(
        description="refs(unc).p, refs(umd).p or refs(google).p, which is read without executing it"
    )
    instances: Annotated[str | None, Runtime()] = Field(
        None, description="the boxes and pictures; by default instances.json beside the refs file"
    )
    split: str = Field("train", description="which refs: train, val, test, or testA and testB of RefCOCO and RefCOCO+")
    phrases: Literal["all", "first", "hash"] = Field(
        "all",
        description="which of the phrases of a region (about three; one or two in RefCOCOg); hash: one by key and "
        "seed. Which ones LLaVA took is not published",
    )
    turns: int = Field(
        9,
        ge=1,
        description="maximum turns per conversation; LLaVA-1.5 splits a picture's turns into pieces of fewer than 10",
    )


class Refcoco(Family[RefcocoConfig]):
    """Pieces of a few turns; pictures in the order of the refs file, the phrases of one in that order too."""

    name = "refcoco"
    version = 1
    Config = RefcocoConfig
    located_by = ("path", "instances", "split")
    kind = "region"

    def questions(self) -> Iterator[Question]:
        yield from self._chosen(read(self.config.path, self.config.instances, self.config.split, self.tally))

    def turns(self, question: Question) -> list[Turn]:
        return [region_turn(question, self.config)]

    def conversations(self, group: str, turns: list[list[Turn]]) -> list[list[Turn]]:
        every, most = list(chain.from_iterable(turns)), self.config.turns
        return [every[start : start + most] for start in range(0, len(every), most)]

    @property
    def several(self) -> bool:
        return True

    def places(self, picture: str) -> list[str]:
        return coco_places(picture)

    def group(self, question: Question) -> str:
        return f"{question.facts['image_id']:012d}"

    def _chosen(self, questions: Iterator[Question]) -> Iterator[Question]:
        """One phrase of each region, or all."""
        if self.config.phrases == "all":
            yield from questions
            return
        phrases: list[Question] = []
        left = 0
        for question in chain(questions, [None]):
            if phrases and (question is None or question.facts["ref_id"] != phrases[0].facts["ref_id"]):
                yield phrases[self._place(phrases)]
                left += len(phrases) - 1
                phrases = []
            if question is not None:
                phrases.append(question)
        self.tally.extra.append(f"{counted(left, 'further phrase')} of the same regions left out (`phrases`).")

    def _place(self, phrases: list[Question]) -> int:
        if self.config.phrases == "first":
            return 0
        return int(fraction_of("phrase", str(phrases[0].facts["ref_id"]), self.config.seed) * len(phrases))


class RefcocoPlus(Refcoco):
    """RefCOCO+, whose phrases name no place in the picture."""

    name = "refcoco_plus"


class Refcocog(Refcoco):
    """RefCOCOg, whose phrases are sentences."""

    name = "refcocog"


class Ref(NamedTuple):
    """One region of a refs file, and what people said of it."""

    ref_id: int
    ann_id: int
    image_id: int
    split: str
    phrases: tuple[tuple[int, str | bytes], ...]
    """(sent_id, sent)"""


def read(
    path: str, instances: str | None = None, split: str = "train", tally: Tally | None = None
) -> Iterator[Question]:
    """The phrases of a split, in the refs file's order: `text` is `sent`, the phrase in lower case without marks.

    facts: ref_id, image_id, and `box` (x, y, width, height), `width` and `height` of the picture, all in pixels, or a
    `problem`. Raises InputError for files of another layout, a split without refs, and an instances file without any
    of their boxes. `tally` hears of the refs of other splits.
    """
    refs = _of_split(path, split, tally)
    instances = instances or "".join(path.rpartition("/")[:2]) + "instances.json"
    boxes, pictures = _boxes(instances, {ref.ann_id for ref in refs}, {ref.image_id for ref in refs})
    if not any(ref.ann_id in boxes for ref in refs):
        raise InputError(
            f"{instances}: not one of the {len(refs)} annotations that {path} names is here (first: {refs[0].ann_id}). "
            "Give `instances`: the instances.json that came with the refs file."
        )
    for ref in refs:
        picture = pictures.get(ref.image_id)
        facts = {"ref_id": ref.ref_id, "image_id": ref.image_id, **_region(ref, boxes.get(ref.ann_id), picture)}
        name = picture.name if picture else None
        if not ref.phrases:
            yield Question(id=f"ref {ref.ref_id}", picture=name, text="", facts=facts)
        for sent_id, sent in ref.phrases:
            if isinstance(sent, bytes):
                text, problem = sent.decode(errors="backslashreplace"), {"problem": "its text is not UTF-8"}
                yield Question(id=str(sent_id), picture=name, text=text, facts=facts | problem)
            else:
                yield Question(id=str(sent_id), picture=name, text=sent, facts=facts)


def _region(ref: Ref, box: tuple[int, list[Any]] | None, picture: Picture | None) -> dict[str, Any]:
    if box is None:
        return {"problem": f"instances.json has no annotation {ref.ann_id}"}
    if picture is None:
        return {"problem": f"instances.json has no picture {ref.image_id}"}
    if box[0] != ref.image_id:
        return {"problem": f"annotation {ref.ann_id} is about picture {box[0]}"}
    return {"box": box[1], "width": picture.width, "height": picture.height}


def _boxes(
    path: str, annotations: set[int], images: set[int]
) -> tuple[dict[int, tuple[int, list[Any]]], dict[int, Picture]]:
    """(picture, box) by annotation, and the pictures, as far as refs name them."""
    boxes: dict[int, tuple[int, list[Any]]] = {}
    pictures: dict[int, Picture] = {}
    for member, record in coco_records(path, ("images", "annotations")):
        number = record.number("id")
        if member == "images" and number in images:
            pictures[number] = picture_of(record)
        elif member == "annotations" and number in annotations:
            boxes[number] = (record.number("image_id"), record.optional("bbox", list) or [])
    return boxes, pictures


def _of_split(path: str, split: str, tally: Tally | None) -> list[Ref]:
    refs, splits, seen, phrases = [], Counter[str](), set[int](), 0
    content = load_plain(path)
    if not isinstance(content, list):
        raise InputError(f"{path}: a pickle of {type(content).__name__}, expected a list of refs. Give refs(....).p.")
    for number, found in enumerate(content):
        ref = _ref(found, f"{path}, ref {number}")
        if ref.ref_id in seen:
            raise InputError(f"{path}, ref {number}: the ref_id {ref.ref_id} appears twice. Get the file again.")
        seen.add(ref.ref_id)
        phrases += len(ref.phrases)
        if phrases > MOST_PHRASES:
            raise InputError(f"{path}: more than {MOST_PHRASES} phrases; this is not a file of RefCOCO.")
        splits[ref.split] += 1
        if ref.split == split:
            refs.append(ref)
    if not refs:
        known = ", ".join(f"{name} ({count})" for name, count in splits.items()) or "none"
        raise InputError(f"{path}: no ref of the split {split!r}. Splits found: {known}.")
    if tally is not None and (others := {name: count for name, count in splits.items() if name != split}):
        named = ", ".join(f"{name} ({count})" for name, count in others.items())
        tally.extra.append(f"refs of other splits left out: {named}.")
    return refs


def _ref(found: Any, where: str) -> Ref:
    if not isinstance(found, dict):
        raise InputError(f"{where}: {type(found).__name__}, expected a dict. Get the file again.")
    sentences = _field(found, "sentences", (list,), where)
    phrases = []
    for sentence in sentences[: MOST_PHRASES + 1]:
        if not isinstance(sentence, dict):
            raise InputError(f"{where}: a sentence is {type(sentence).__name__}, expected a dict. Get the file again.")
        phrases.append((_field(sentence, "sent_id", (int,), where), _field(sentence, "sent", (str, bytes), where)))
    ref_id, ann_id, image_id = (_field(found, name, (int,), where) for name in ("ref_id", "ann_id", "image_id"))
    return Ref(ref_id, ann_id, image_id, _field(found, "split", (str,), where), tuple(phrases))


def _field(values: dict[str, Any], name: str, kinds: tuple[type, ...], where: str) -> Any:
    # Only types are named: to print a value of a hostile file may take forever.
    if name not in values:
        _refuse(f"{where}: {name!r} is missing", kinds)
    if type(values[name]) not in kinds:
        _refuse(f"{where}: {name!r} is {type(values[name]).__name__}", kinds)
    return values[name]


def _refuse(what: str, kinds: tuple[type, ...]) -> NoReturn:
    expected = " or ".join(kind.__name__ for kind in kinds)
    raise InputError(f"{what}, expected {expected}. Give the refs file as it was published.")
