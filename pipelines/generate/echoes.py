"""Detects answers that copy the prompt's examples or instructions."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence

from pipelines.llm.context import Known
from pipelines.llm.prompts import Prompt
from pipelines.llm.reading.parsers import Pair, parse_turns
from pipelines.llm.reading.rejected import Rejected
from pipelines.texts import ngrams, words

RUN = 5
"""Words that an answer must have in common with the prompt, one after the other."""
NEW_WORDS = 2
"""Of them words that carry meaning and that the row's context does not have: `there are two` is everybody's."""
_COMMON = frozenset(
    words(
        """a about above across after all also an and any are as at be because been before behind being below beside
        between both bottom but by can close could do does each for from front had has have he her here his how i if in
        into is it its just left likely many may middle more most near next no not of off on one only or other our out
        over own picture image photo probably right scene seen shown shows side so some such than that the their them
        then there these they thing things this those three through to together top two under up very visible was we
        well were what when where which while who why will with would yes you your"""
    )
)
_TEMPLATE = re.compile(r"{[{%].*?[%}]}", re.DOTALL)


def example_echo(pairs: Sequence[Pair], known: Known, prompt: Prompt) -> str | None:
    """Words of the prompt's few-shot examples in the answers, which the row gives no reason for; or None."""
    return _echo(pairs, known, _example_runs(tuple((one.captions, one.answer) for one in prompt.examples)))


def prompt_echo(pairs: Sequence[Pair], known: Known, prompt: Prompt) -> str | None:
    """Words of the prompt's own orders in the answers; or None."""
    return _echo(pairs, known, _order_runs(prompt.system, prompt.user))


def _echo(pairs: Sequence[Pair], known: Known, runs: frozenset[tuple[str, ...]]) -> str | None:
    if not runs:
        return None
    context = set(words(" ".join(_context(known))))
    for _, answer in pairs:
        for run in ngrams(words(answer), RUN):
            if run in runs and len(set(run) - context - _COMMON) >= NEW_WORDS:
                return " ".join(run)
    return None


def _context(known: Known) -> Iterable[str]:
    yield from known.captions
    yield from (box.label for box in known.objects)
    yield from (part for fact in known.facts.items() for part in fact)


def _runs(texts: Iterable[str]) -> frozenset[tuple[str, ...]]:
    return frozenset(run for text in texts for run in ngrams(words(text), RUN))


@functools.lru_cache(maxsize=64)
def _example_runs(examples: tuple[tuple[tuple[str, ...], str], ...]) -> frozenset[tuple[str, ...]]:
    """Of captions and answers. An example's questions are what anybody asks."""
    return _runs(text for captions, answer in examples for text in (*captions, *_said(answer)))


def _said(answer: str) -> list[str]:
    try:
        return [said for _, said in parse_turns(answer)]
    except Rejected:
        return [answer]


@functools.lru_cache(maxsize=64)
def _order_runs(*templates: str) -> frozenset[tuple[str, ...]]:
    return _runs(_TEMPLATE.sub(" ", text) for text in templates)
