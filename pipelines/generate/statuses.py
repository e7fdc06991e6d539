"""Every status that a generated row can end with."""

from __future__ import annotations

from enum import StrEnum

from pipelines.llm.answer import AnswerStatus
from pipelines.llm.reading.rejected import NO_ANSWER


class GenerateStatus(StrEnum):
    """Why a conversation is not usable, beside the request layer's reasons (`AnswerStatus`, which has `ok` too)."""

    # nothing was asked
    not_asked = "not_asked"  # no kind is asked about this source
    skipped_input = "skipped_input"  # the picture is missing, undecodable, or a duplicate of another row's
    no_context = "no_context"  # nothing is known about the picture that the prompt could use
    # the answer was read and rejected
    no_answer = NO_ANSWER  # empty, or no question with an answer in it
    wrong_schema = "wrong_schema"  # no JSON of the asked form, after all repairs
    mentions_notes = "mentions_notes"  # speaks of captions, boxes or coordinates instead of the picture
    wrong_language = "wrong_language"
    duplicate_question = "duplicate_question"
    contradicts_context = "contradicts_context"  # against counts, categories, sides or facts that are known


PASSED_OVER = frozenset({GenerateStatus.not_asked, GenerateStatus.skipped_input})
"""Statuses of rows that an earlier step or the configuration left out."""

REJECTED: frozenset[str] = frozenset(
    {
        AnswerStatus.truncated,
        AnswerStatus.refused,
        GenerateStatus.no_answer,
        GenerateStatus.wrong_schema,
        GenerateStatus.mentions_notes,
        GenerateStatus.wrong_language,
        GenerateStatus.duplicate_question,
        GenerateStatus.contradicts_context,
    }
)
"""Statuses of answers that another sample may do better."""
