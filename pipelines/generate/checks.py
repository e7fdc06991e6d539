"""Verifying answers: each check returns nothing, or raises `Rejected` with the status and what was found."""

from __future__ import annotations

import re
from collections.abc import Collection

from pipelines.generate.claims import contradiction
from pipelines.generate.context import Known
from pipelines.generate.statuses import GenerateStatus
from pipelines.llm.answer import AnswerStatus
from pipelines.llm.reading.language import is_other_language
from pipelines.llm.reading.parsers import Pair
from pipelines.llm.reading.rejected import Rejected

# What a model declines to do. Who answers a question may well say "I can't see anyone there" or "I'm not able to tell".
_DECLINED = r"""(?:directly\ |actually\ )?(?:
    (?:assist|help|view|fulfill?|comply|do\ that|provide|describe|generate|create|answer|process|access)\b
    | see\ (?:(?:the|this|that|your|any)\ )?(?:images?|pictures?|photos?)\b
    | identify\ (?:people|persons?|individuals|anyone|who)\b)"""
_REFUSAL = re.compile(
    rf"""^\W*(?:unfortunately,?\ )?(?:
    i[ '’]a?m\ (?:very\ |so\ )?sorry\b(?!\ to\ (?:say|see|hear)) | sorry,\ (?:but\ )?i\b | i\ apologi[sz]e\b
    | as\ an?\ (?:ai|(?:\w+\ )?language\ model)\b | i[ '’]a?m\ (?:unable|not\ able)\ to\ {_DECLINED}
    | i\ (?:can['’]?t|cannot|can\ not|won['’]?t)\ {_DECLINED}
    | i\ (?:don['’]?t|do\ not)\ have\ (?:the\ ability|access)\b)""",
    re.IGNORECASE | re.VERBOSE,
)
# Words that show where the model has it from. A poster's caption, a map's coordinates, players who coordinate are none.
_NOTES = re.compile(
    r"""\b(?:(?:the|these|those|each|given|provided|first|second|third|fourth|fifth|other|all)\ captions?
    | captions?\ (?:says?|states?|mentions?|describes?|indicates?|suggests?)
    | bounding[ -]box(?:es)? | alt[ -]text
    | (?:normali[sz]ed|box|object|given|provided)\ coordinates | coordinates?\ [\[(]?[\d.]
    | (?:provided|given)\ (?:text|information|description|notes?)
    | according\ to\ the\ (?:notes?|descriptions?|text)\b(?!\ (?:on|in|of|at|above|below|printed|written))
    | the\ (?:notes|descriptions?)\ (?:says?|states?|mentions?))\b
    | \b0?\.\d{2,3},\ 0?\.\d{2,3}\b""",
    re.IGNORECASE | re.VERBOSE,
)


def check_refusal(text: str) -> None:
    """Refuse an answer that declines to answer (in its first words: inside a text it may be quoted speech)."""
    found = _REFUSAL.match(text)
    if found:
        raise Rejected(AnswerStatus.refused, f"begins with {found.group(0).strip()!r}")


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
