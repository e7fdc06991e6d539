"""The records of a benchmark: questions, answers, ground truth, and the joined rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LLAVA, LMMS_EVAL = "llava", "lmms-eval"
PROTOCOLS = (LLAVA, LMMS_EVAL)
"""`llava`: prompts and scoring of LLaVA's own scripts, which its published figures come from. `lmms-eval`: of
EvolvingLMMs-Lab/lmms-eval 0.7.3."""

ONE_WORD = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Question:
    """One question as it is asked. `id`: the official one, as text; `text`: the whole prompt; `stem`: the question
    without what a protocol adds; `image`: the picture's name in the folder of pictures (several in a
    tuple), or its encoded bytes.
    `truth`: the right answer, where the file of questions holds it."""

    id: str
    text: str
    stem: str
    image: str | bytes | tuple[str, ...] | None = None
    category: str = "all"
    truth: Any = None
    options: tuple[str, ...] = ()
    official: Mapping[str, Any] = field(default_factory=dict)
    """The official row's own fields, where an upload file repeats them."""


@dataclass(frozen=True)
class Given:
    """One answer of a file. `id`: as the file has it; `prompt`: what was asked, where the file says; `reason`: why
    there is no answer; `where`: file and row, for messages."""

    id: str
    text: str
    prompt: str | None = None
    reason: str = ""
    where: str = ""
    by_image: bool = False
    """`id` is a picture's name: VizWiz's upload has no other."""


@dataclass(frozen=True)
class Answered:
    """A question with its answer and the truth. `text`: None where there is no answer, and that is allowed."""

    question: Question
    text: str | None
    truth: Any = None


def same_words(text: str) -> str:
    """A question for comparison: single blanks, without `<image>` and without the lines that protocols add."""
    for added in (ONE_WORD, LETTER, "<image>", "Please answer yes or no."):
        text = text.replace(added, " ")
    return " ".join(text.split())
