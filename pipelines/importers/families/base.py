"""The importer shared by all question-answer sets: questions in, a conversation per image out.

The official files are read once, in the process that starts the run, because questions about one picture may stand
anywhere in them. Every question becomes its turns at once and is held as JSON text under its picture (measured in
docs/families.md); a slice carries its finished rows, compressed, so that workers read nothing twice.
"""

from __future__ import annotations

import json
import zlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Config, Runtime
from pipelines.importers.base import ROWS_PER_SLICE, Importer, Slice, conversation_table, cut, digest
from pipelines.importers.families.notes import Tally
from pipelines.importers.families.pictures import PicturesByOfficialName
from pipelines.importers.families.question import FamilyStatus, Question, Unusable
from pipelines.importers.families.turns import SHORT
from schemas.chat.shapes import MEDIA_PLACEHOLDERS, PLACEHOLDER
from schemas.errors import InputError

Turn = tuple[str, str]
"""(question, answer)"""


class FamilyConfig(Config):
    """The options of every set."""

    path: Annotated[str | list[str], Runtime()] = Field(description="the official file, several, or a pattern")
    images: Annotated[str | None, Runtime()] = Field(
        None, description="the folder that `import image_folder` takes; by default pictures have LLaVA's own paths"
    )
    suffix: Literal["first", "every", "none"] = Field(
        "first", description="which questions of a conversation get suffix_text; in LLaVA-1.5's file the first"
    )
    suffix_text: str = Field(SHORT, description="the line appended to a question")
    capitalize: bool = Field(False, description="capitalise answers; by default as in the official file")
    rows_per_slice: Annotated[int, Runtime()] = Field(ROWS_PER_SLICE, ge=1, description="rows per fragment")


F = TypeVar("F", bound=FamilyConfig)


class Gathered(NamedTuple):
    """What is held of one question: the turns that it becomes, one per conversation of its picture, or a problem."""

    id: str
    turns: list[Turn]
    status: str = FamilyStatus.ok
    reason: str = ""


class Family(Importer[F]):
    """Subclass it, set `name`, `version` and `Config`, write `questions`, `turns` and `places`."""

    makes = "conversations"
    statuses = FamilyStatus
    leaves_out = frozenset(FamilyStatus) - {FamilyStatus.ok}
    kind: ClassVar[str] = "vqa"
    has_text: ClassVar[bool] = True
    """Whether the official file says what is asked, as files of captions do not."""
    image_first: ClassVar[bool] = True
    """Whether the picture comes before the first question, or after it."""

    def __init__(self, config: F):
        super().__init__(config)
        self.tally = Tally()

    @abstractmethod
    def questions(self) -> Iterator[Question]:
        """Every question of the official files, in their order. Raises InputError for files that cannot be read."""

    @abstractmethod
    def turns(self, question: Question) -> list[Turn]:
        """The turns that a question becomes, one for each conversation about its picture: one, if there is one.

        Raises Unusable for a question that becomes none.
        """

    @abstractmethod
    def places(self, picture: str) -> list[str]:
        """Where a picture may be, below the image folder or a folder in it; the first is its path in LLaVA's layout."""

    @property
    def several(self) -> bool:
        """Whether a picture may have more than one row: then a row's number is the last part of its key."""
        return False

    def group(self, question: Question) -> str:
        """The part of a row's key after the set's name; questions with the same one share a row."""
        return stem(question.picture) if question.picture else question.id

    def shown(self, question: Question) -> str | None:
        """The picture that is shown; None for a question without one."""
        return question.picture

    def conversations(self, group: str, turns: list[list[Turn]]) -> list[list[Turn]]:
        """The rows of a picture, from the turns of its questions: row n has the n-th turn of each question."""
        return [[turn for turn in row if turn is not None] for row in zip_longest(*turns)]

    def asked(self, question: str, group: str, number: int) -> str:
        """The text of question `number` of a row, as the model sees it."""
        wanted = self.config.suffix == "every" or (self.config.suffix == "first" and number == 0)
        return f"{question}\n{self.config.suffix_text}" if wanted and self.config.suffix_text else question

    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        self.tally = Tally()
        made: list[Slice] = []
        for rows in cut(self._rows(), known, self.config.rows_per_slice):
            start = made[-1].start + made[-1].rows if made else 0
            content = "\n".join(rows).encode()
            # Keys do not depend on a row's number, so a slice that moved is the same slice.
            made.append(Slice(start, len(rows), digest(0, content), {"rows": zlib.compress(content, 1)}))
        self._check_pictures()
        return made

    def rows(self, slice: Slice) -> pa.Table:
        lines = zlib.decompress(slice.location["rows"]).decode().split("\n")
        return conversation_table([self._row(*json.loads(line)) for line in lines])

    def notes(self) -> list[str]:
        return self.tally.notes()

    def _rows(self) -> Iterator[str]:
        """Every row as JSON: group, number, key of the picture, status, detail, turns."""
        folder = None if self.config.images is None else PicturesByOfficialName(self.config.images)
        groups = self._gather()
        for group in list(groups):  # taken out one by one, so that what was read shrinks as slices grow
            picture, *lines = groups.pop(group).decode().split("\n")[:-1]
            # A line that comes twice is a question that two of the files have: GQA's balanced ones are among all.
            gathered = [Gathered(*json.loads(line)) for line in dict.fromkeys(lines)]
            if len(gathered) < len(lines):
                self.tally.repeated(lines)
            yield from self._of_group(group, json.loads(picture), gathered, folder)

    def _gather(self) -> dict[str, bytearray]:
        """Group -> the picture's name and its questions, a line of JSON each, groups in the order of appearance."""
        groups: dict[str, bytearray] = {}
        pictures: dict[str, str | None] = {}
        encode = json.JSONEncoder(separators=(",", ":")).encode
        for question in self.questions():
            group, picture = self.group(question), self.shown(question)
            if pictures.setdefault(group, picture) != picture:
                group = str(picture)  # 7.png beside 7.jpeg: the second one's key is its whole name
            if group not in groups:
                groups[group] = bytearray(f"{encode(picture)}\n".encode())
            groups[group] += f"{encode(self._gathered(question))}\n".encode()
        return groups

    def _gathered(self, question: Question) -> Gathered:
        try:
            if self.has_text and not question.text.strip():
                raise Unusable(FamilyStatus.bad_question, "its text is empty")
            turns = self.turns(question)
            _check_placeholders(turns)
        except Unusable as problem:
            self.tally.left_out(problem.status, question.id)
            return Gathered(question.id, [], problem.status, problem.reason)
        if self.config.capitalize:
            turns = [(asked, answer[:1].upper() + answer[1:]) for asked, answer in turns]
        self.tally.read(turns)
        return Gathered(question.id, turns)

    def _of_group(
        self, group: str, picture: str | None, gathered: list[Gathered], folder: PicturesByOfficialName | None
    ) -> Iterator[str]:
        problems = [one for one in gathered if one.status != FamilyStatus.ok]
        rows = self.conversations(group, [one.turns for one in gathered if one.status == FamilyStatus.ok])
        status, detail = FamilyStatus.ok.value, _left_out(problems, len(gathered))
        if not rows:
            rows, status = [[]], problems[0].status
        key = None
        if picture is not None:
            places = self.places(picture)
            key, missing = (places[0], None) if folder is None else folder.find(places)
            self.tally.looked_up(missing is None, folder.several if folder else 0)
            if missing and status == FamilyStatus.ok:
                status = FamilyStatus.no_image.value
                detail = f"{missing}; {detail}" if detail else missing
        for number, turns in enumerate(rows):
            self.tally.wrote(turns)
            yield json.dumps([group, number, key, status, detail, self._asked(turns, group)])

    def _asked(self, turns: list[Turn], group: str) -> list[Turn]:
        return [(self.asked(question, group, number), answer) for number, (question, answer) in enumerate(turns)]

    def _row(
        self, group: str, number: int, image: str | None, status: str, detail: str | None, turns: list[Turn]
    ) -> dict[str, Any]:
        messages = []
        for turn, (question, answer) in enumerate(turns):
            text = {"type": "text", "text": question}
            picture = {"type": "image", "text": None}
            shown = [picture, text] if self.image_first else [{**text, "text": f"{question}\n"}, picture]
            messages.append({"role": "user", "content": shown if turn == 0 and image is not None else [text]})
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return {
            "key": f"{self.name}/{group}/{number}" if self.several else f"{self.name}/{group}",
            "image_keys": [] if image is None else [image],
            "messages": messages or None,
            "kind": self.kind,
            "source": self.name,
            "status": status,
            "detail": detail,
        }

    def _check_pictures(self) -> None:
        if self.tally.pictures and self.tally.missing == self.tally.pictures:
            raise InputError(
                f"{self.config.images}: not one of the {self.tally.pictures} pictures that {self.config.path} names is "
                "here. Check `images`: it is the folder that `import image_folder` takes. Nothing was written."
            )


def stem(picture: str) -> str:
    """The name of a picture's file without folder and ending."""
    file = picture.rpartition("/")[2]
    return file.rpartition(".")[0] or file


def _check_placeholders(turns: list[Turn]) -> None:
    for asked, _ in turns:
        if "<" in asked and (found := next((one for one in (PLACEHOLDER, *MEDIA_PLACEHOLDERS) if one in asked), None)):
            raise Unusable(FamilyStatus.bad_question, f"{found} is in its text")


def _left_out(problems: Sequence[Gathered], questions: int) -> str | None:
    """What a row says of questions that it lacks."""
    if not problems:
        return None
    reasons = Counter(one.reason for one in problems)
    words = "; ".join(f"{reason} ({_ids(problems, reason)})" for reason in reasons)
    return f"{len(problems)} of {questions} questions left out: {words}"


def _ids(problems: Sequence[Gathered], reason: str) -> str:
    ids = [one.id for one in problems if one.reason == reason]
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
