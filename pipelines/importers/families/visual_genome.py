"""Visual Genome (https://visualgenome.org, arXiv 1602.07332): regions described in words, questions with answers.

Both files are lists of pictures, each with all its annotations (5.4 and 1.7 million), so that a row is made of one
entry, and no more than one slice of them is held. In which folder a
picture is, only its address in image_data.json says.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Runtime
from pipelines.importers.base import Slice, conversation_table, cut, digest
from pipelines.importers.families.base import Family, FamilyConfig, Gathered, Turn
from pipelines.importers.families.coco_files import Picture
from pipelines.importers.families.notes import Tally, counted
from pipelines.importers.families.pictures import PicturesByOfficialName
from pipelines.importers.families.question import FamilyStatus, Question, Unusable
from pipelines.importers.families.reading import Record, listed, record_of
from pipelines.importers.families.regions import RegionConfig, fraction_of, region_turn
from pipelines.importers.records import Layout, TextSource
from schemas.errors import InputError

_ADDRESS = re.compile(r"/(VG_100K(?:_2)?/[^/?#]+)$")


class GenomeConfig(FamilyConfig):
    """The options of both files."""

    path: Annotated[str, Runtime()] = Field(description="the annotation file")
    image_data: Annotated[str | None, Runtime()] = Field(
        None, description="sizes and addresses of the pictures; by default image_data.json beside the file"
    )
    most: int = Field(
        10,
        ge=1,
        description="maximum annotations per picture, chosen by key and seed, in the file's order; LLaVA-1.5 "
        "samples 10",
    )
    seed: int = Field(0, description="seed of the selection")


class VgRegionsConfig(RegionConfig, GenomeConfig):
    """Which regions of a picture, and how they are asked about."""

    path: Annotated[str, Runtime()] = Field(description="region_descriptions.json")


class VgQaConfig(GenomeConfig):
    """Which questions about a picture, and how they are asked."""

    path: Annotated[str, Runtime()] = Field(description="question_answers.json")
    suffix: Literal["first", "every", "none"] = Field(
        "none",
        description="which questions end with suffix_text; none by default, for answers are phrases with a period",
    )


class Entry(NamedTuple):
    """One picture of an annotation file. `picture` is None where image_data.json lacks it."""

    id: int
    picture: Picture | None
    annotations: list[Any]


G = TypeVar("G", bound=GenomeConfig)


class VisualGenome(Family[G]):
    """A row per picture, in the file's order."""

    located_by = ("path", "image_data")
    member: ClassVar[str]
    """The list of an entry that holds its annotations."""
    identity: ClassVar[str]
    """The key of an annotation's number."""

    @abstractmethod
    def question(self, entry: Entry, id: str, values: Mapping[str, Any]) -> Question:
        """One annotation; what is wrong with it is found when it becomes a turn."""

    def __init__(self, config: G):
        super().__init__(config)
        self._passed = 0

    def questions(self) -> Iterator[Question]:
        _pictures.cache_clear()
        seen: set[int] = set()
        for record in listed(self.config.path):
            entry = self._entry(record, seen)
            yield from (self._question(entry, place) for place in range(len(entry.annotations)))

    def places(self, picture: str) -> list[str]:
        return [f"vg/{picture}", picture]

    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        """Reads the file once and keeps the positions of the slices; workers read their own part again."""
        self.tally = Tally()
        self._passed = 0
        _pictures.cache_clear()
        _folder.cache_clear()
        source = TextSource(self.config.path, Layout("json"))
        made: list[Slice] = []
        seen: set[int] = set()
        for raws in cut(source.records(), known, self.config.rows_per_slice):
            start = made[-1].start + made[-1].rows if made else 0
            entries = [self._entry(record_of(source.parse(raw), source.path, raw.line), seen) for raw in raws]
            content = "\n".join(map(self._line, entries)).encode()
            made.append(Slice(start, len(raws), digest(0, content), source.location(raws)))
        if self._passed:
            self.tally.extra.append(
                f"{counted(self._passed, 'further annotation')} of the same pictures not drawn (`most`)."
            )
        self._check_pictures()
        return made

    def rows(self, slice: Slice) -> pa.Table:
        again = type(self)(self.config)  # with counts of its own: these rows were counted when the source was cut
        records = (Record(values, self.config.path, 0) for values in TextSource.at(slice.location, Layout("json")))
        lines = (again._line(again._entry(record, set())) for record in records)
        return conversation_table([self._row(*json.loads(line)) for line in lines])

    def _entry(self, record: Record, seen: set[int]) -> Entry:
        """An entry of the file, of a picture that is not among those `seen`."""
        image_data = self.config.image_data or "".join(self.config.path.rpartition("/")[:2]) + "image_data.json"
        number = _picture_number(record)
        if number in seen:
            raise InputError(
                f"{record.path}:{record.line}: picture {number} appears twice. Remove one of the two entries."
            )
        seen.add(number)
        annotations = record.optional(self.member, list)
        if annotations is None:
            record.refuse(self.member, "a list")
        return Entry(number, _pictures(image_data).get(number), annotations)

    def _line(self, entry: Entry) -> str:
        """The row of a picture, as the base makes it."""
        gathered = self._drawn(entry) if entry.annotations else [self._nothing(entry)]
        self._passed += max(len(entry.annotations) - len(gathered), 0)
        folder = None if self.config.images is None else _folder(self.config.images)
        return next(self._of_group(str(entry.id), entry.picture.name if entry.picture else None, gathered, folder))

    def _drawn(self, entry: Entry) -> list[Gathered]:
        """The first `most` usable annotations in the order of their hashes, and the unusable ones met on the way."""
        numbers = [self._id(values, place) for place, values in enumerate(entry.annotations)]
        order = sorted(range(len(numbers)), key=lambda place: fraction_of("drawn", numbers[place], self.config.seed))
        gathered: dict[int, Gathered] = {}
        usable = 0
        for place in order:
            if usable == self.config.most:
                break
            gathered[place] = self._gathered(self._question(entry, place))
            usable += gathered[place].status == FamilyStatus.ok
        return [gathered[place] for place in sorted(gathered)]

    def _nothing(self, entry: Entry) -> Gathered:
        self.tally.left_out(FamilyStatus.no_answer, f"picture {entry.id}")
        return Gathered(f"picture {entry.id}", [], FamilyStatus.no_answer, f"the picture has no {self.member}")

    def _question(self, entry: Entry, place: int) -> Question:
        values = entry.annotations[place]
        return self.question(entry, self._id(values, place), values if isinstance(values, dict) else {})

    def _id(self, values: Any, place: int) -> str:
        number = values.get(self.identity, values.get("id")) if isinstance(values, dict) else None
        return str(place if number is None else number)


class VgRegions(VisualGenome[VgRegionsConfig]):
    """Regions, each described or located."""

    name = "vg_regions"
    version = 1
    Config = VgRegionsConfig
    kind = "region"
    member = "regions"
    identity = "region_id"

    def question(self, entry: Entry, id: str, values: Mapping[str, Any]) -> Question:
        """`text` is the phrase; facts as those of RefCOCO."""
        facts: dict[str, Any] = {
            "image_id": entry.id,
            "box": [values.get(name) for name in ("x", "y", "width", "height")],
        }
        if entry.picture is None:
            facts["problem"] = f"image_data.json has no picture {entry.id}"
        else:
            facts |= {"width": entry.picture.width, "height": entry.picture.height}
        return _question(entry, id, values.get("phrase"), None, facts)

    def turns(self, question: Question) -> list[Turn]:
        return [region_turn(question, self.config)]


class VgQa(VisualGenome[VgQaConfig]):
    """Questions with their answers as they are published."""

    name = "vg_qa"
    version = 1
    Config = VgQaConfig
    member = "qas"
    identity = "qa_id"

    def question(self, entry: Entry, id: str, values: Mapping[str, Any]) -> Question:
        answer = values.get("answer")
        facts = {} if entry.picture else {"problem": f"image_data.json has no picture {entry.id}"}
        return _question(entry, id, values.get("question"), answer if isinstance(answer, str) else None, facts)

    def turns(self, question: Question) -> list[Turn]:
        if "problem" in question.facts:
            raise Unusable(FamilyStatus.bad_question, question.facts["problem"])
        if not question.answer or not question.answer.strip():
            raise Unusable(FamilyStatus.no_answer, "no answer")
        return [(question.text, question.answer)]


def read_pictures(path: str) -> dict[int, Picture]:
    """The pictures of image_data.json by number, named by folder and file: VG_100K/61512.jpg, VG_100K_2/1.jpg.

    Sizes are pixels. Raises InputError for an entry without size, or of another address.
    """
    pictures: dict[int, Picture] = {}
    for record in listed(path):
        found = _ADDRESS.search(record.text("url"))
        if found is None:
            record.refuse("url", "an address that ends with VG_100K/NAME or VG_100K_2/NAME")
        pictures[_picture_number(record)] = Picture(found[1], record.number("width"), record.number("height"))
    return pictures


_pictures = lru_cache(maxsize=1)(read_pictures)
"""Once per process: a worker makes the rows of many slices."""

_folder = lru_cache(maxsize=1)(PicturesByOfficialName)


def _picture_number(record: Record) -> int:
    """Versions differ in the key's name."""
    return record.number("image_id" if "image_id" in record.values else "id")


def _question(entry: Entry, id: str, text: Any, answer: str | None, facts: dict[str, Any]) -> Question:
    picture = entry.picture.name if entry.picture else None
    return Question(id=id, picture=picture, text=text if isinstance(text, str) else "", answer=answer, facts=facts)
