"""Detects refusals, which servers report as successful answers."""

from __future__ import annotations

import re

from pipelines.llm.answer import AnswerStatus
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


# More than the longest phrase above with ornaments before it.
_BEGINNING = 1_000


def check_refusal(text: str) -> None:
    """Refuse an answer that declines to answer (in its first words: inside a text it may be quoted speech)."""
    found = _REFUSAL.match(text[:_BEGINNING])
    if found:
        raise Rejected(AnswerStatus.refused, f"begins with {found.group(0).strip()!r}")
