"""Checks yes-or-no answers against captions that name the object.

Only plain questions count (`Is there a dog?`, `Is it a German shepherd?`), and only a plain No to them. A caption that
denies the thing, names something made like it (a toy horse), or goes on with another noun (a horse statue) says
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pipelines.texts import words

_WHERE = r"(?:\s+(?:visible|present|shown|anywhere))?(?:\s+(?:in|on)\s+(?:the|this)\s+(?:image|picture|photo|scene))?"
_THING = rf"(?P<thing>[\w'-]+(?:\s+[\w'-]+){{0,2}}?){_WHERE}"
_THERE = re.compile(rf"\W*(?:is|are)\s+there\s+(?:an?\s+|any\s+|some\s+)?{_THING}\s*\W*$", re.IGNORECASE)
_IT_IS = re.compile(
    rf"\W*(?:(?:is|are)\s+(?:it|this|that)|(?:it|this|that)\s+is|it's)\s+an?\s+{_THING}\s*\W*$", re.IGNORECASE
)
_NONE = re.compile(rf"\bthere\s+(?:is|are)\s+(?:no|not\s+any)\s+{_THING}\s*(?:[.!]|$)", re.IGNORECASE)
_NO = re.compile(r"\W*no\b(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_DENIES = frozenset(words("no not without never neither nor lacks lacking missing empty free"))
_NOT_REAL = frozenset(
    words(
        "toy stuffed teddy fake rocking hot sea painted model statue statues sculpture picture painting drawing photo "
        "image poster like"
    )
)
_ONE = frozenset(("a", "an", "one", "the"))
# What may follow a noun that is the end of its phrase.
_ENDS = frozenset(
    words(
        "a an and are as at behind beneath beside by for from has have in inside into is near next of off on onto or "
        "outside over that the their to under up very was were which while who with"
    )
)
_IRREGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "knives": "knife",
}


def denial(question: str, answer: str, captions: Sequence[str]) -> str | None:
    """What the answer denies although a caption names it, or None."""
    for thing in _denied(question, answer):
        caption = next((caption for caption in captions if _names(words(caption), words(thing))), None)
        if caption is not None:
            return f"denies {thing.lower()!r}, which a caption names: {caption[:80]!r}"
    if (asked := _IT_IS.match(question)) and (said := _NO.match(answer)):
        named = words(asked["thing"])
        caption = next((caption for caption in captions if _names(words(caption), named)), None)
        # "No, it is the cat": it is another thing of the captions.
        if caption is not None and not _others(said["rest"], captions, named):
            return f"says that it is not {' '.join(named)!r}, which a caption names: {caption[:80]!r}"
    return None


def _denied(question: str, answer: str) -> Iterator[str]:
    asked = _THERE.match(question)
    if asked and _NO.match(answer):
        yield asked["thing"]
    for found in _NONE.finditer(answer):
        yield found["thing"]


def _names(caption: list[str], thing: list[str]) -> bool:
    """Whether a caption says that the thing is there, by its own words (singular or plural)."""
    wanted, length = [_singular(word) for word in thing], len(thing)
    plain = [_singular(word) for word in caption]
    for start in range(len(caption) - length + 1):
        if plain[start : start + length] != wanted:
            continue
        before, after = caption[max(0, start - 4) : start], caption[start + length : start + length + 1]
        if _is_end(before, after) and _DENIES.isdisjoint(before) and _NOT_REAL.isdisjoint(before[-3:]):
            return True
    return False


def _is_end(before: list[str], after: list[str]) -> bool:
    """Whether the word after a noun shows that its phrase has ended: a verb, or a word that joins phrases."""
    if not after or after[0] in _ENDS or after[0].endswith(("ing", "ed")):
        return True
    # After "a dog" a word on -s is a verb (the dog sleeps); after "dog" alone it may be a noun (dog houses).
    return after[0].endswith("s") and not _ONE.isdisjoint(before[-3:])


def _others(rest: str, captions: Sequence[str], thing: list[str]) -> bool:
    """Whether the rest of an answer names anything else that a caption has."""
    mentioned = {_singular(word) for word in words(" ".join(captions)) if len(word) > 2} - _ENDS
    return bool((mentioned - {_singular(word) for word in thing}) & {_singular(word) for word in words(rest)})


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word
