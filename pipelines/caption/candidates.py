"""Selects among several captions of an image by a score, including its alt text (BLIP's "CapFilt")."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.caption.engine import Caption, CaptionStatus
from pipelines.caption.local import Opened
from pipelines.caption.matching import Matcher
from pipelines.llm.answer import AnswerStatus

ALT_TEXT = "alt_text"
"""The `caption_engine` of a row whose own alt text won."""


def best_captions(
    pictures: Sequence[Opened],
    written: Sequence[Sequence[str]],
    matcher: Matcher,
    with_alt_text: bool,
    min_score: float | None,
) -> list[Caption]:
    """The best-scored text of each picture; `written` has the model's candidates for each."""
    offered = [list(dict.fromkeys(filter(None, texts))) for texts in written]
    own = [" ".join((opened.picture.alt_text or "").split()) if with_alt_text else "" for opened in pictures]
    for texts, words in zip(offered, own, strict=True):
        if words and words not in texts:
            texts.append(words)
    pairs = [(number, text) for number, texts in enumerate(offered) for text in texts]
    scores = iter(matcher.scores([opened.image for opened in pictures], pairs)) if pairs else iter(())
    made = []
    for texts, known, words in zip(offered, written, own, strict=True):
        scored = [(next(scores), text) for text in texts]
        made.append(_best(scored, words if words not in known else "", matcher.name, min_score))
    return made


def _best(scored: list[tuple[float, str]], own: str, scorer: str, min_score: float | None) -> Caption:
    if not scored:
        return Caption(CaptionStatus.empty, detail="the model returned no text")
    # Of equal scores the first: what the model wrote stands before the alt text.
    score, text = max(scored, key=lambda one: one[0])
    if min_score is not None and score < min_score:
        detail = f"the best of {len(scored)} scores {score:g}, below {min_score:g}: {text}"
        return Caption(CaptionStatus.low_score, detail=detail, score=score, scorer=scorer)
    return Caption(AnswerStatus.ok, text, score=score, scorer=scorer, writer=ALT_TEXT if text == own else None)
