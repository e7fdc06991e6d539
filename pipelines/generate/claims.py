"""Checks claims against known objects and facts: counts, presence, sides, colours and similar.

Only clear contradictions count. Boxes need not be complete (small or crowded things are often left out), so saying
less than the boxes is checked strictly and saying more only where few things are boxed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.llm.context import Box, Known

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMBERS = {word: number for number, word in enumerate(_WORDS)}
_IRREGULAR = {"person": ("people", "persons"), "man": ("men",), "woman": ("women",), "child": ("children",)}
_IRREGULAR |= {"knife": ("knives",), "mouse": ("mice",), "sheep": ("sheep",), "bus": ("buses", "busses")}
# The claim is about the whole picture, not about a part of it.
_WHOLE = r"(?:(?: visible| present| shown)? in (?:the|this) (?:image|picture|photo|scene))?"
_WHOLE_NAMES = r" (?:image|picture|photo|background|frame)"
# How a question goes on after "how many dogs".
_THERE = r"(?:are|is)(?: there)?|(?:can|do) (?:you|we|i) see|can be seen"
# Above this many boxes of a thing annotators and describers stop counting.
_COUNTABLE = 6
# A middle this far beyond the centre line is clearly on one side (fractions of the width).
_CLEARLY = 0.12
# Values that exclude one another, for facts whose name says what they are.
_COLORS = (
    "red",
    "green",
    "blue",
    "teal",
    "black",
    "white",
    "gray",
    "grey",
    "yellow",
    "orange",
    "purple",
    "pink",
    "brown",
)
_ALTERNATIVES = {"color": _COLORS, "colour": _COLORS, "shape": ("circle", "triangle", "rectangle", "square")}


def contradiction(question: str, answer: str, known: Known) -> str | None:
    """What in the answer contradicts what is known, or None."""
    labels: dict[str, list[Box]] = {}
    for box in known.objects:
        labels.setdefault(box.label.lower(), []).append(box)
    for label, boxes in labels.items():
        found = _count(question, answer, label, len(boxes), known) or _denied(question, answer, label)
        found = found or _side(question, answer, label, boxes)
        if found:
            return found
    return _relation(question, answer, labels) or _fact(question, answer, known)


def _count(question: str, answer: str, label: str, count: int, known: Known) -> str | None:
    """`There are three dogs`, or `Three.` to `How many dogs are there?`, against the number of boxes.

    A thing in a longer phrase (`two dogs in the background`, `two brown dogs`) may be a part of all and is let pass.
    So is a number that a caption gives: then the notes contradict themselves.
    """
    names = "|".join(map(re.escape, _names(label)))
    number = rf"(?P<number>\d+|{'|'.join(_WORDS)})"
    claims = [re.search(rf"\bthere (?:are|is) {number} (?:{names}){_WHOLE}\s*[.!]", answer, re.IGNORECASE)]
    if re.search(rf"\bhow many (?:{names}) (?:{_THERE}){_WHOLE}\s*\?", question, re.IGNORECASE):
        claims.append(re.match(rf"\W*(?:there (?:are|is) |(?:i|you) (?:can )?see )?{number}\b", answer, re.IGNORECASE))
    for claim in claims:
        if claim is None:
            continue
        word = claim["number"].lower()
        said = int(word) if word.isdigit() else _NUMBERS[word]
        written = re.compile(
            rf"\b(?:{said}|{_WORDS[said] if said < len(_WORDS) else said}) (?:\w+ )?(?:{names})\b", re.I
        )
        if said != count and max(said, count) <= _COUNTABLE and not any(map(written.search, known.captions)):
            return f"says {said} {label}, known are {count}"
    return None


def _denied(question: str, answer: str, label: str) -> str | None:
    """`No` to `Is there a dog?`, or `there is no dog`, while a dog is known."""
    names = "|".join(map(re.escape, _names(label)))
    asked = re.match(rf"\W*(?:is|are) there (?:an?|any|some) (?:{names}){_WHOLE}\s*\?", question, re.IGNORECASE)
    denied = re.search(rf"\bthere (?:is|are) no (?:{names}){_WHOLE}\s*[.!]", answer, re.IGNORECASE)
    if denied or (asked and re.match(r"\W*no\b", answer, re.IGNORECASE)):
        return f"denies a {label} that is known"
    return None


def _side(question: str, answer: str, label: str, boxes: Sequence[Box]) -> str | None:
    """`The dog is on the left (side)`, or `it is` when that was asked: against the place of the only dog."""
    if len(boxes) != 1:
        return None
    asked = re.match(rf"\W*where(?:'s| is) the {re.escape(label)}{_WHOLE}\s*\?", question, re.IGNORECASE)
    subject = rf"(?:the {re.escape(label)}|it)" if asked else f"the {re.escape(label)}"
    claim = re.search(
        rf"\b{subject} is (?:located |positioned |placed )?(?:on|at|to) the (?P<side>left|right)"
        r"(?:(?:-hand)? side)?(?: of the (?:image|picture|photo|scene|frame))?\s*[,.;!]",
        answer,
        re.IGNORECASE,
    )
    middle = (boxes[0].x0 + boxes[0].x1) / 2
    if claim and _wrong_side(claim["side"], middle, 0.5):
        return f"puts the {label} on the {claim['side'].lower()}, its middle is at {middle:.2f} of the width"
    return None


def _relation(question: str, answer: str, labels: dict[str, list[Box]]) -> str | None:
    """`The dog is to the left of the cat`, or `yes` or `no` to it: against their places, where there is one of each."""
    single = {label: boxes[0] for label, boxes in labels.items() if len(boxes) == 1}
    names = "|".join(map(re.escape, single))
    if len(single) < 2:
        return None
    how = r"(?:located |positioned |placed )?(?:on|to) the (?P<side>left|right)(?: side)? of"
    claims = [
        (claim, claim["side"].lower())
        for claim in re.finditer(rf"\bthe (?P<one>{names}) is {how} the (?P<other>{names})\b", answer, re.IGNORECASE)
    ]
    asked = re.match(rf"\W*is the (?P<one>{names}) {how} the (?P<other>{names})\s*\?", question, re.IGNORECASE)
    said = re.match(r"\W*(?P<no>no)\b|\W*yes\b", answer, re.IGNORECASE)
    if asked and said:
        sides = ("right", "left") if asked["side"].lower() == "left" else ("left", "right")
        claims.append((asked, sides[0] if said["no"] else sides[1]))
    for claim, side in claims:
        one, other = single[claim["one"].lower()], single[claim["other"].lower()]
        if _wrong_side(side, (one.x0 + one.x1) / 2, (other.x0 + other.x1) / 2):
            return f"puts the {one.label} to the {side} of the {other.label}: it is the other way round"
    return None


def _fact(question: str, answer: str, known: Known) -> str | None:
    """`It is red`, `the triangle is red` or `a red triangle`, while the colour is known to be teal."""
    about_it = _is_about_it(question, known)
    for name, value in known.facts.items():
        alternatives = _ALTERNATIVES.get(name.lower(), ())
        if value.lower() not in alternatives:
            continue
        others = "|".join(word for word in alternatives if word != value.lower())
        subjects = "|".join(re.escape(fact) for key, fact in known.facts.items() if key != name) or "thing"
        said = re.search(
            rf"\b(?:(?:{'it|' if about_it else ''}the (?:{re.escape(name)}|{subjects})(?: of the (?:{subjects}))?)"
            rf" is(?: an?)? (?P<word>{others})\b(?!{_WHOLE_NAMES})"
            rf"|an? (?P<quality>{others}) (?:{subjects})\b)",
            answer,
            re.IGNORECASE,
        )
        short = re.fullmatch(rf"\W*(?P<word>{others})\W*", answer, re.IGNORECASE)
        asked = re.match(rf"\W*what (?:{re.escape(name)}|colou?r) is\b", question, re.IGNORECASE)
        word = (said["word"] or said["quality"]) if said else short["word"] if short and asked and about_it else None
        if word:
            return f"says {word.lower()!r}, the {name} is {value!r}"
    return None


def _is_about_it(question: str, known: Known) -> bool:
    """Whether `it` in the answer can only be the thing of the facts: the question names nothing else."""
    things = {*known.facts, *known.facts.values(), "color", "colour", "thing", "object", "figure", "item", "form"}
    plain = re.sub(r"\b(?:in|on|of) (?:the|this) (?:image|picture|photo|scene)\b", "", question, flags=re.IGNORECASE)
    return all(word.lower() in things for word in re.findall(r"\b(?:the|an?|this|that) (\w+)", plain))


def _wrong_side(side: str, middle: float, line: float) -> bool:
    return middle > line + _CLEARLY if side.lower() == "left" else middle < line - _CLEARLY


def _names(label: str) -> tuple[str, ...]:
    """The singular and the plurals of a thing."""
    regular = label + ("es" if label.endswith(("s", "x", "ch", "sh")) else "s")
    return (label, *_IRREGULAR.get(label, (regular,)))
