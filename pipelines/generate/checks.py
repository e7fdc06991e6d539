"""Answer checks: each returns nothing, or raises `Rejected` with a status and the finding."""

from __future__ import annotations

import re
from collections.abc import Collection

from pipelines.generate.claims import contradiction
from pipelines.generate.denials import denial
from pipelines.generate.echoes import example_echo, prompt_echo
from pipelines.generate.repetition import repetition
from pipelines.generate.statuses import GenerateStatus
from pipelines.llm.context import Known
from pipelines.llm.prompts import Prompt
from pipelines.llm.reading.language import is_other_language
from pipelines.llm.reading.parsers import Pair
from pipelines.llm.reading.refusal import check_refusal
from pipelines.llm.reading.rejected import Rejected
from pipelines.texts import words

VERSION = 2
"""Raised when an answer may be judged otherwise: rows are made again then, of the answers that the cache has."""
# Words that show where the model has it from. A poster's caption, a map's coordinates, players who coordinate are none.
_NOTES = re.compile(
    r"""\b(?:(?:the|these|those|each|given|provided|first|second|third|fourth|fifth|other|all)\ captions?
    | captions?\ (?:says?|states?|mentions?|describes?|indicates?|suggests?)
    | bounding[ -]box(?:es)? | alt[ -]text | left,\ top,\ right
    | (?:normali[sz]ed|box|object|given|provided)\ coordinates | coordinates?\ [\[(]?[\d.]
    | (?:provided|given)\ (?:text|information|description|notes?)
    | according\ to\ the\ (?:notes?|descriptions?|text)\b(?!\ (?:on|in|of|at|above|below|printed|written))
    | the\ (?:notes|descriptions?)\ (?:says?|states?|mentions?))\b
    | \b0?\.\d{2,3},\ 0?\.\d{2,3}\b""",
    re.IGNORECASE | re.VERBOSE,
)


def check_pairs(pairs: list[Pair], known: Known, language: str | None, prompt: Prompt | None = None) -> None:
    """All checks of a conversation that was read, the cheap ones first; raises `Rejected`.

    With the `prompt` that asked for it also what depends on that: how much it asks for, and what it shows.
    """
    _check_notes(pairs, known, prompt.questions if prompt else ())
    _check_questions(pairs)
    if reason := repetition(pairs):
        raise Rejected(GenerateStatus.repetitive, reason)
    if prompt is not None:
        _check_against(prompt, pairs, known)
    if language is not None:
        reason = is_other_language(" ".join(f"{question} {answer}" for question, answer in pairs), language)
        if reason:
            raise Rejected(GenerateStatus.wrong_language, reason)
    for question, answer in pairs:
        check_refusal(answer)
        reason = contradiction(question, answer, known) or denial(question, answer, known.captions)
        if reason:
            raise Rejected(GenerateStatus.contradicts_context, reason)


def _check_against(prompt: Prompt, pairs: list[Pair], known: Known) -> None:
    if echo := example_echo(pairs, known, prompt):
        raise Rejected(GenerateStatus.echoes_example, f"as in the example: {echo!r}")
    if echo := prompt_echo(pairs, known, prompt):
        raise Rejected(GenerateStatus.echoes_prompt, f"as in the prompt: {echo!r}")
    if len(pairs) < prompt.least_exchanges:
        least = prompt.least_exchanges
        raise Rejected(
            GenerateStatus.too_little, f"{len(pairs)} questions with an answer, at least {least} are asked for"
        )
    said = sum(len(words(answer)) for _, answer in pairs)
    if said < prompt.least_words:
        raise Rejected(GenerateStatus.too_little, f"{said} words, at least {prompt.least_words} are asked for")


def _check_notes(pairs: list[Pair], known: Known, given: Collection[str]) -> None:
    """The model must describe the picture. A word that the picture's own captions use is no sign of notes."""
    own = " ".join(known.captions).lower()
    for text in (text for pair in pairs for text in pair if text not in given):
        for found in _NOTES.findall(text):
            if found.split()[-1].lower() not in own:
                raise Rejected(GenerateStatus.mentions_notes, f"says {found!r}")


def _check_questions(pairs: list[Pair]) -> None:
    seen: set[str] = set()
    for question, _ in pairs:
        plain = " ".join(re.findall(r"\w+", question.lower()))
        if plain in seen:
            raise Rejected(GenerateStatus.duplicate_question, f"asked twice: {question!r}")
        seen.add(plain)
