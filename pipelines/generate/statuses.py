"""The statuses of a generated row."""

from __future__ import annotations

from enum import StrEnum

from pipelines.engine.choosing import NOT_CHOSEN
from pipelines.llm.answer import AnswerStatus
from pipelines.llm.reading.rejected import NO_ANSWER


class GenerateStatus(StrEnum):
    """Why a conversation is not usable, beside the request layer's reasons (`AnswerStatus`, which has `ok` too)."""

    # nothing was asked
    not_chosen = NOT_CHOSEN  # limit or sample leaves this row for a later run
    not_asked = "not_asked"  # no kind is asked about this source
    skipped_input = "skipped_input"  # the picture is missing, undecodable, or a duplicate of another row's
    no_context = "no_context"  # nothing is known about the picture that the prompt could use
    # the answer was read and rejected
    no_answer = NO_ANSWER  # empty, or no question with an answer in it
    wrong_schema = "wrong_schema"  # no JSON of the asked form, after all repairs
    mentions_notes = "mentions_notes"  # mentions captions, boxes or coordinates instead of the picture
    wrong_language = "wrong_language"
    duplicate_question = "duplicate_question"
    repetitive = "repetitive"  # repeats itself, or gives several questions one answer
    echoes_example = "echoes_example"  # tells of the prompt's own example
    echoes_prompt = "echoes_prompt"  # repeats the prompt's orders
    too_little = "too_little"  # fewer words or exchanges than the prompt asks for at least
    contradicts_context = "contradicts_context"  # against captions, counts, categories, sides or facts that are known


PASSED_OVER = frozenset({GenerateStatus.not_chosen, GenerateStatus.not_asked, GenerateStatus.skipped_input})
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
        GenerateStatus.repetitive,
        GenerateStatus.echoes_example,
        GenerateStatus.echoes_prompt,
        GenerateStatus.too_little,
        GenerateStatus.contradicts_context,
    }
)
"""Statuses of answers that another sample may do better."""
