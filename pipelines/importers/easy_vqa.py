"""Import Easy-VQA's questions (https://github.com/vzhou842/easy-VQA, MIT) as conversations about its pictures.

The pictures themselves come from elsewhere (a url list); a conversation names them by key. `facts_of`
reads what a picture shows out of its own questions and answers, which is all that its split publishes.
"""

from __future__ import annotations

import importlib.util
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Config, Runtime
from pipelines.importers.base import (
    ROWS_PER_SLICE,
    Importer,
    ImportStatus,
    Slice,
    conversation_table,
    cut,
    digest,
)
from schemas.errors import InputError

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")

Question = tuple[str, str, int]
"""(question, answer, picture number), as in questions.json."""

Hand = tuple[str, int, list[Question]]
"""(key of the picture, number of the conversation about it, its questions)."""


class EasyVqaConfig(Config):
    """Which split, and how its questions become turns."""

    split: Literal["train", "test"] = Field("train", description="Easy-VQA's own split")
    path: Annotated[str | None, Runtime()] = Field(
        None, description="a questions.json; by default the split's, from the installed easy-vqa package"
    )
    image_key: str = Field("easy-vqa/{split}/{number}", description="an image's key in the images dataset")
    turns: int = Field(4, ge=1, description="maximum questions per conversation")
    seed: int = Field(0, description="decides which questions of a picture share a conversation, and their order")
    rows_per_slice: Annotated[int, Runtime()] = Field(ROWS_PER_SLICE, ge=1, description="rows per fragment")


class EasyVqa(Importer[EasyVqaConfig]):
    """Conversations of a few turns about one picture; every question of the split is asked once.

    Several turns a picture train better than one (the picture is encoded once for all of them); dealing
    the questions out evenly keeps a picture with 20 questions from making one long row.
    """

    name = "easy_vqa"
    version = 1
    makes = "conversations"
    Config = EasyVqaConfig
    located_by = ("path", "split")

    def slices(self, known: Sequence[int] = ()) -> list[Slice]:
        made: list[Slice] = []
        for hands in cut(self._hands, known, self.config.rows_per_slice):
            start = made[-1].start + made[-1].rows if made else 0
            made.append(Slice(start, len(hands), digest(start, json.dumps(hands).encode())))
        return made

    def rows(self, slice: Slice) -> pa.Table:
        hands = self._hands[slice.start : slice.start + slice.rows]
        return conversation_table([_conversation(*hand) for hand in hands])

    @cached_property
    def _hands(self) -> list[Hand]:
        path = self.config.path or str(package_folder() / self.config.split / "questions.json")
        pictures: dict[int, list[Question]] = defaultdict(list)
        for question in read_questions(path):
            pictures[question[2]].append(question)
        return [hand for number in sorted(pictures) for hand in self._deal(number, pictures[number])]

    def _deal(self, number: int, questions: list[Question]) -> list[Hand]:
        key = self.config.image_key.format(split=self.config.split, number=number)
        order = random.Random(f"{self.config.seed}/{key}").sample(questions, len(questions))
        hands = -(-len(order) // self.config.turns)
        return [(key, index, order[index::hands]) for index in range(hands)]


def package_folder() -> Path:
    """The data folder of the installed `easy-vqa` package (`train/` and `test/`); raises InputError without it."""
    package = importlib.util.find_spec("easy_vqa")
    if package is None or package.origin is None:
        raise InputError("Easy-VQA is not installed: `pip install easy-vqa`, or give the path of a questions.json.")
    return Path(package.origin).parent / "data"


def read_questions(path: str | Path) -> list[Question]:
    """The triples of a questions.json; raises InputError naming the file and the first entry that is none."""
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Give the path of Easy-VQA's questions.json.") from error
    except ValueError as error:
        raise InputError(f"{path}: this is not JSON ({error}).") from error
    for index, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        if not (isinstance(entry, list) and [type(part) for part in entry] == [str, str, int]):
            raise InputError(f"{path}: entry {index} is {entry!r}; expected [question, answer, picture number].")
    return [(question, answer, number) for question, answer, number in entries]


def facts_of(questions: Iterable[Question]) -> dict[int, dict[str, str]]:
    """Picture number -> `{"shape": ..., "color": ...}`, as far as its questions and answers settle them.

    Every Easy-VQA picture shows one shape in one color. An answer that names one settles it, and so does
    a question that takes one for granted ("what color is the circle?"), a yes to "is there a teal shape?",
    and a no to every other color or shape.
    """
    left: dict[int, dict[str, set[str]]] = defaultdict(lambda: {"shape": set(SHAPES), "color": set(COLORS)})
    for question, answer, number in questions:
        for name, words in (("shape", SHAPES), ("color", COLORS)):
            named = {word for word in words if word in question.rstrip("?").split()}
            if answer in words:
                left[number][name] &= {answer}
            elif named and (answer not in ("yes", "no") or _present(question, answer)):
                left[number][name] &= named
            elif named:
                left[number][name] -= named
    return {
        number: {name: next(iter(values)) for name, values in sets.items() if len(values) == 1}
        for number, sets in sorted(left.items())
    }


def _present(question: str, answer: str) -> bool:
    """Whether a yes/no question and its answer say that the named thing is in the picture."""
    negated = any(word in question.split() for word in ("not", "no"))
    return (answer == "yes") != negated


def _conversation(image_key: str, index: int, questions: Sequence[Question]) -> dict[str, Any]:
    messages = []
    for turn, (question, answer, _) in enumerate(questions):
        picture = [{"type": "image", "text": None}] if turn == 0 else []
        messages.append({"role": "user", "content": [*picture, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return {
        "key": f"{image_key}/{index}",
        "image_keys": [image_key],
        "messages": messages,
        "kind": "vqa",
        "source": "easy-vqa",
        "status": ImportStatus.ok.value,
    }
