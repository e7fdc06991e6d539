"""Every status that a generated row can end with."""

from __future__ import annotations

from enum import StrEnum

from pipelines.llm import answer as llm
from pipelines.llm.reading.rejected import NO_ANSWER


class GenerateStatus(StrEnum):
    """Why a conversation is usable, or is not."""

    ok = "ok"
    # nothing was asked
    not_asked = "not_asked"  # no kind is asked of this source
    skipped_input = "skipped_input"  # the picture is missing, undecodable, or a duplicate of another row's
    no_context = "no_context"  # nothing is known about the picture that the prompt could use
    # there is no answer (the request layer's reasons)
    truncated = "truncated"
    refused = "refused"
    content_policy = "content_policy"
    context_length = "context_length"
    bad_request = "bad_request"
    unauthorized = "unauthorized"
    unknown_model = "unknown_model"
    unavailable = "unavailable"
    malformed = "malformed"
    budget_exhausted = "budget_exhausted"
    # the answer was read and rejected
    no_answer = NO_ANSWER  # empty, or no question with an answer in it
    wrong_schema = "wrong_schema"  # no JSON of the asked form, after all repairs
    mentions_notes = "mentions_notes"  # speaks of captions, boxes or coordinates instead of the picture
    wrong_language = "wrong_language"
    duplicate_question = "duplicate_question"
    contradicts_context = "contradicts_context"  # against counts, categories, sides or facts that are known


TRANSIENT = frozenset(str(status) for status in llm.TRANSIENT)
UNFINISHED = frozenset(str(status) for status in llm.UNFINISHED)

REJECTED = frozenset(
    {
        GenerateStatus.truncated,
        GenerateStatus.refused,
        GenerateStatus.no_answer,
        GenerateStatus.wrong_schema,
        GenerateStatus.mentions_notes,
        GenerateStatus.wrong_language,
        GenerateStatus.duplicate_question,
        GenerateStatus.contradicts_context,
    }
)
"""Statuses of answers that another sample may do better."""
