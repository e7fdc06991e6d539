"""Detects repetitive answers: repeated n-grams, and one answer to several questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipelines.llm.reading.parsers import Pair
from pipelines.texts import ngrams, words

RUN = 4
"""Words of a run."""
MOST_REPEATED = 0.12
"""The largest share of runs that were there before. Of the 90 answers of GPT-4 that LLaVA released none passes 0.03;
half of a 135M model's are above 0.15 (docs/generate.md)."""
FEWEST_RUNS = 12
"""In fewer runs a share says nothing: a sentence that takes up the question's words repeats three."""
SAME_WORDS = 4
"""Answers of so many words do not come twice in a conversation; `yes`, `two` and `on the left` may."""


def repetition(pairs: Sequence[Pair]) -> str | None:
    """What repeats itself in the answers of one conversation, or None."""
    answers = [words(answer) for _, answer in pairs]
    same, times = Counter(map(tuple, answers)).most_common(1)[0]
    if times > 1 and (len(same) >= SAME_WORDS or (times == len(pairs) and times > 2)):
        return f"{times} of {len(pairs)} questions have one answer: {' '.join(same)[:60]!r}"
    runs = Counter(run for answer in answers for run in ngrams(answer, RUN))
    total, again = runs.total(), runs.total() - len(runs)
    if total >= FEWEST_RUNS and again > MOST_REPEATED * total:
        often, times = runs.most_common(1)[0]
        return f"{again} of {total} runs of {RUN} words were there before; {' '.join(often)!r} is there {times} times"
    return None
