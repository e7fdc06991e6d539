"""Verifying answers: each check returns nothing, or raises `Rejected` with the status and what was found."""

from __future__ import annotations

import re
from collections.abc import Collection

from pipelines.generate.claims import contradiction
from pipelines.generate.context import Known
from pipelines.generate.language import is_other_language
from pipelines.generate.parsers import Pair
from pipelines.generate.statuses import GenerateStatus, Rejected

_REFUSAL = re.compile(
    r"""^\W*(?:
    i[ '’]a?m\ (?:very\ |so\ )?sorry\b | sorry,\ (?:but\ )?i\b | i\ apologi[sz]e\b
    | as\ an?\ (?:ai|language\ model)\b | i[ '’]a?m\ (?:unable|not\ able)\ to\b
    | i\ (?:can['’]?t|cannot|can\ not|won['’]?t)\ (?:assist|help|see|view|fulfill?|comply|do\ that|provide|describe
        |generate|create|identify|answer|process|access)\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_NOTES = re.compile(
    r"""\b(?:captions? | bounding[ -]box(?:es)? | coordinates? | alt[ -]text
    | (?:provided|given)\ (?:text|information|description|notes?)
    | according\ to\ the\ (?:notes?|descriptions?|text)
    | the\ (?:notes?|descriptions?)\ (?:says?|states?|mentions?))\b""",
    re.IGNORECASE | re.VERBOSE,
)


def check_refusal(text: str) -> None:
    """Refuse an answer that declines to answer (in its first words: inside a text it may be quoted speech)."""
    found = _REFUSAL.match(text)
    if found:
        raise Rejected(GenerateStatus.refused, f"begins with {found.group(0).strip()!r}")


def check_pairs(pairs: list[Pair], known: Known, language: str | None, given: Collection[str] = ()) -> None:
    """All checks of a conversation that was read, the cheap ones first; `given` are questions of ours."""
    _check_notes(pairs, known, given)
    _check_questions(pairs)
    if language is not None:
        reason = is_other_language(" ".join(f"{question} {answer}" for question, answer in pairs), language)
        if reason:
            raise Rejected(GenerateStatus.wrong_language, reason)
    for question, answer in pairs:
        check_refusal(answer)
        reason = contradiction(question, answer, known)
        if reason:
            raise Rejected(GenerateStatus.contradicts_context, reason)


def _check_notes(pairs: list[Pair], known: Known, given: Collection[str]) -> None:
    """The model must speak of the picture. A word that the picture's own captions use is no sign of notes."""
    own = {found.lower() for caption in known.captions for found in _NOTES.findall(caption)}
    for text in (text for pair in pairs for text in pair if text not in given):
        for found in _NOTES.findall(text):
            if found.lower() not in own:
                raise Rejected(GenerateStatus.mentions_notes, f"says {found!r}")


def _check_questions(pairs: list[Pair]) -> None:
    seen: set[str] = set()
    for question, _ in pairs:
        plain = " ".join(re.findall(r"\w+", question.lower()))
        if plain in seen:
            raise Rejected(GenerateStatus.duplicate_question, f"asked twice: {question!r}")
        seen.add(plain)
